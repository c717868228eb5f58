"""Tokenizes rendered conversations and labels what the model is to learn: the assistant's turns, and where they end.

The label of a token is its id inside a turn of the assistant, from the first token that the model would write through
the end-of-turn token, and -100 everywhere else. A template's ``{% generation %}`` blocks say it in its own words; plain
text is learnt as a whole. :mod:`.proof` checks the labels on the finished rows by decoding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tunesmith_stages.contract import ExitCode
from tunesmith_stages.prepare.chat import Span
from tunesmith_stages.prepare.sample import Rendered, Turn
from tunesmith_stages.prepare.tokens import Tokenized, Tokens
from tunesmith_stages.program import StageError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

IGNORED = -100
"""Label of a token on which no loss is taken (PyTorch's `ignore_index`)."""

Ints = NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Example:
    """One sample, ready to be trained on."""

    input_ids: Ints
    labels: Ints
    end_of_turn: int
    """Id of the token that ends the assistant's last turn, or the text."""
    learnt: tuple[Span, ...]
    """Places in the rendered text that are learnt, next to each other only where something is between them."""
    cut_at_turns: bool
    """Whether the text had to be tokenized turn by turn, because a token would have crossed a turn's edge."""
    per_turn: bool
    """Whether it is one of several samples of a conversation, one for each answer."""
    control_text: bool
    """Whether it holds text that reads like a control token, and was tokenized as text."""
    plain_text: bool
    """Whether it is text without turns, which may be cut anywhere."""


class Labeller:
    """Tokenizes and labels with one tokenizer.

    Args:
        tokenizer: of the base model.
        stops_at: says whether a token stops the served model. Calls of functions may end with any such token; without
            it they must end as all answers do.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, stops_at: Callable[[int], bool] | None = None) -> None:
        self._stops_at = stops_at
        self._tokenizer = tokenizer
        self._tokens = Tokens(tokenizer)
        self._lengths: dict[int, int] = {}
        self._bos: int | None = tokenizer.bos_token_id
        self._eos: int | None = tokenizer.eos_token_id
        empty = tokenizer("")["input_ids"]
        self.adds_bos = bool(empty) and empty[0] == self._bos

    def encode_prompt(self, text: str) -> list[int]:
        """Return the ids of a rendered text as the model is given it when it is served.

        A tokenizer that writes a BOS of its own does so unless the text brings one, as llama.cpp does.
        """
        ids: list[int] = self._tokens.plain([text])[0].ids.tolist()
        return self._bos_before(text) + ids

    def label(self, rendered: Rendered) -> Example:
        """Return the labelled tokens of one sample.

        Raises:
            StageError: a turn has no end-of-turn token, or a place cannot be tokenized as it must.
        """
        (example,) = self.label_batch([rendered])
        if isinstance(example, StageError):
            raise example
        return example

    def label_batch(self, samples: Sequence[Rendered]) -> list[Example | StageError]:
        """Return the labelled tokens of samples, which are tokenized together, or what is wrong with a row.

        Raises:
            StageError: as :meth:`label`, where the template is to blame.
        """
        simple = [sample for sample in samples if not sample.literal]
        tokenized = iter(self._tokens.plain([sample.text for sample in simple]))
        found: list[Example | StageError] = []
        for sample in samples:
            try:
                found.append(
                    self._labelled(sample, self._tokens.cut(sample, ()) if sample.literal else next(tokenized))
                )
            except StageError as error:
                if error.code is not ExitCode.BAD_DATA:
                    raise
                found.append(error)
        return found

    def _labelled(self, sample: Rendered, tokens: Tokenized) -> Example:
        if not sample.turns:
            return self._plain_text(sample, tokens)
        starts = [turn.start for turn in sample.turns]
        starts += [start for start, _ in sample.marked or ()]
        crossing = any(tokens.first_from(start)[1] for start in starts)
        if crossing:
            tokens = self._tokens.cut(sample, starts)
        ends = [self._end_of_turn(sample, turn, tokens) for turn in sample.turns]
        self._refuse_different(sample, tokens, ends)
        plain_ends = [end for turn, end in zip(sample.turns, ends, strict=True) if not turn.calls]
        bos = self._bos_before(sample.text)
        ids = np.concatenate([np.array(bos, np.int32), tokens.ids]) if bos else tokens.ids
        labels = np.empty(len(ids), np.int32)
        labels.fill(IGNORED)
        places = self._learnt(sample, tokens, ends)
        for _, (first, last) in places:
            labels[len(bos) + first : len(bos) + last] = tokens.ids[first:last]
        return Example(
            input_ids=ids,
            labels=labels,
            end_of_turn=int(tokens.ids[(plain_ends or ends)[-1]]),
            learnt=_joined([place for place, _ in places]),
            cut_at_turns=crossing,
            per_turn=sample.per_turn,
            control_text=bool(sample.literal),
            plain_text=False,
        )

    def _plain_text(self, sample: Rendered, tokens: Tokenized) -> Example:
        """Return the tokens of a text, all learnt; its end is the tokenizer's end of text."""
        eos = self._eos
        if eos is None:
            raise ValueError("plain text needs an eos_token")
        learnt = np.append(tokens.ids, np.int32(eos)).astype(np.int32)
        bos = np.array(self._bos_before(sample.text), np.int32)
        return Example(
            input_ids=np.concatenate([bos, learnt]),
            labels=np.concatenate([np.full(len(bos), IGNORED, np.int32), learnt]),
            end_of_turn=eos,
            learnt=((0, len(sample.text)),),
            cut_at_turns=False,
            per_turn=False,
            control_text=bool(sample.literal),
            plain_text=True,
        )

    def _bos_before(self, text: str) -> list[int]:
        if not self.adds_bos or self._bos is None or text.startswith(self._tokenizer.bos_token):
            return []
        return [self._bos]

    def _learnt(self, sample: Rendered, tokens: Tokenized, ends: Sequence[int]) -> list[tuple[Span, Span]]:
        """Return what is to be learnt, each as a place in the text and as a range of tokens."""
        found: list[tuple[Span, Span]] = []
        for turn, end in zip(sample.turns, ends, strict=True):
            if not turn.learnt:
                continue
            # Not the token's own place, which holds the blanks behind it where the tokenizer swallows them.
            stop = tokens.begin(end) + self._length(int(tokens.ids[end]))
            if sample.marked is None:
                found.append(((turn.start, stop), (tokens.first_from(turn.start)[0], end + 1)))
                continue
            own = [span for span in sample.marked if turn.start <= span[0] and span[1] <= turn.end]
            if own and not any(start < stop <= last for start, last in own):
                raise _end_left_out(sample, sample.text[tokens.begin(end) : stop])
            found += [(span, (tokens.first_from(span[0])[0], tokens.first_from(span[1])[0])) for span in own]
        if not found:
            raise _nothing_marked(sample)
        return found

    def _length(self, token: int) -> int:
        """Return the characters of a control token."""
        if token not in self._lengths:
            self._lengths[token] = len(self._tokenizer.convert_ids_to_tokens(token))
        return self._lengths[token]

    def _end_of_turn(self, sample: Rendered, turn: Turn, tokens: Tokenized) -> int:
        """Return the index of the token that ends a turn.

        It is the first control token behind the words; where functions are called, which some templates do with control
        tokens, it is the last.
        """
        found = tokens.control_tokens(turn.content_end, turn.end)
        if found:
            return found[-1] if turn.calls else found[0]
        raise StageError(
            ExitCode.BAD_CONFIG,
            f"{sample.conversation.place}: the chat template does not end the assistant's turn with a control token, "
            f"so the model would never learn to stop; after the answer it writes "
            f"{sample.text[turn.content_end : turn.end]!r}",
            reason="NoEndOfTurn",
            hint="Use a template that writes an end-of-turn token, such as `eos_token`, after each answer.",
        )

    def _refuse_different(self, sample: Rendered, tokens: Tokenized, ends: Sequence[int]) -> None:
        different = dict.fromkeys(
            int(tokens.ids[end])
            for turn, end in zip(sample.turns, ends, strict=True)
            if not (turn.calls and self._stops_at and self._stops_at(int(tokens.ids[end])))
        )
        if len(different) > 1:
            names = ", ".join(repr(self._tokenizer.convert_ids_to_tokens(token)) for token in different)
            raise StageError(
                ExitCode.BAD_CONFIG,
                f"{sample.conversation.place}: the chat template ends answers with different control tokens: {names}",
                reason="NoEndOfTurn",
                hint="Use a template that ends each answer with the same token, such as `eos_token`.",
            )


def _joined(places: Sequence[Span]) -> tuple[Span, ...]:
    """Return places with those in one that touch."""
    joined: list[Span] = []
    for start, end in places:
        touches = bool(joined) and joined[-1][1] == start
        joined.append((joined.pop()[0] if touches else start, end))
    return tuple(joined)


def _end_left_out(sample: Rendered, end: str) -> StageError:
    return StageError(
        ExitCode.BAD_CONFIG,
        f"{sample.conversation.place}: the chat template's {{% generation %}} block leaves out {end!r}, which ends the "
        "answer: the model would never learn to stop",
        reason="GenerationBlocksConflict",
        hint="Put the block's end behind the token that ends the turn.",
    )


def _nothing_marked(sample: Rendered) -> StageError:
    return StageError(
        ExitCode.BAD_CONFIG,
        f"{sample.conversation.place}: no {{% generation %}} block of the chat template covers an answer: nothing "
        "would be learnt",
        reason="GenerationBlocksConflict",
        hint="Put a block around the assistant's answers; or leave the blocks out, then all answers are learnt.",
    )
