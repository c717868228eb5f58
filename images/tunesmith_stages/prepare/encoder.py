"""From conversations to labelled tokens, with one base model and one template: what each process of `prepare` has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from tunesmith_stages.contract import ExitCode
from tunesmith_stages.prepare.base import load_base
from tunesmith_stages.prepare.chat import prepared_to_limit
from tunesmith_stages.prepare.conversations import Conversation
from tunesmith_stages.prepare.day import DAY
from tunesmith_stages.prepare.labels import IGNORED, Example, Labeller
from tunesmith_stages.prepare.proof import prove
from tunesmith_stages.prepare.rendering import Renderer
from tunesmith_stages.prepare.sample import Rendered
from tunesmith_stages.program import StageError

_SIMPLEST = Conversation(
    "a question and an answer",
    [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Good morning."}],
)

Encoded = list[Example] | StageError
"""The samples of a conversation (of a pair two: chosen and rejected), or what is wrong with that row alone."""


class Encoder:
    """Renders, tokenizes and labels.

    Args:
        folder: of the base model.
        chat_template: `chatTemplate` of the stage's parameters.

    Raises:
        StageError: something is wrong with the base model, its tokenizer, or the template as such.
    """

    def __init__(self, folder: Path, chat_template: Mapping[str, Any] | None) -> None:
        self.base = load_base(folder, chat_template)
        self._renderer = Renderer(self.base.tokenizer, self.base.template, self.base.marked)
        self._renderer.check()
        if (chat_template or {}).get("defaultSystem") and not self._renderer.takes_system:
            raise StageError(
                ExitCode.BAD_CONFIG,
                "`model.chatTemplate.defaultSystem` is given, but the chat template leaves system messages out",
                reason="BadTemplate",
                hint="Take `defaultSystem` out, or use a template that writes system messages, such as a named one.",
            )
        self._labeller = Labeller(self.base.tokenizer, self.base.stops_at)
        self.end_of_turn = self._labeller.label(self._renderer.samples(_SIMPLEST)[-1]).end_of_turn
        """Id of the token that ends answers."""
        self.base.check_end_of_turn(self.end_of_turn)

    @property
    def template(self) -> str:
        """The chat template as it is served."""
        return self.base.template

    @property
    def template_name(self) -> str:
        """``tokenizer``, ``jinja``, or the name of one of ours."""
        return self.base.template_name

    @property
    def thinking(self) -> bool | None:
        """What the job says about thinking."""
        return self.base.thinking

    @property
    def date(self) -> str | None:
        """The day that the template is told, as YYYY-MM-DD; None if it does not ask."""
        return DAY.date().isoformat() if self._renderer.writes_date else None

    def encode(self, conversations: Sequence[Conversation], *, prove_every: int = 0) -> list[Encoded]:
        """Return the samples of each conversation, whatever their length, or what is wrong with that row alone.

        Args:
            conversations: some hundred, which are tokenized together.
            prove_every: of the first conversation and each so many-th the labels are proven; 0: of none.

        Raises:
            StageError: something is wrong with the template or the tokenizer, as a row shows.
        """
        encoded: list[Encoded] = []
        samples: list[Rendered] = []
        owners: list[int] = []
        with prepared_to_limit():
            for index, conversation in enumerate(conversations):
                try:
                    own = [sample for side in conversation.sides for sample in self._renderer.samples(side)]
                except StageError as error:
                    encoded.append(_of_the_row(error))
                    continue
                encoded.append([])
                samples += own
                owners += [index] * len(own)
        for owner, sample, example in zip(owners, samples, self._labeller.label_batch(samples), strict=True):
            outcome = encoded[owner]
            if isinstance(outcome, StageError):
                continue
            if isinstance(example, StageError):
                encoded[owner] = _of_the_row(example)
                continue
            self._check(sample, example)
            if prove_every and owner % prove_every == 0:
                prove(self.base.tokenizer, sample, example)
            outcome.append(example)
        return [_told_apart(*item) for item in zip(conversations, encoded, strict=True)]

    def _check(self, sample: Rendered, example: Example) -> None:
        """Prove that the model can take the tokens, and that it learns one way to end its answers."""
        self.base.check_ids(int(example.input_ids.max(initial=0)))
        if example.end_of_turn != self.end_of_turn and not example.plain_text:
            names = self.base.tokenizer.convert_ids_to_tokens([example.end_of_turn, self.end_of_turn])
            raise StageError(
                ExitCode.BAD_CONFIG,
                f"{sample.conversation.place}: the chat template ends this answer with {names[0]!r}, others with "
                f"{names[1]!r}",
                reason="NoEndOfTurn",
                hint="Use a template that ends each answer with the same token, such as `eos_token`.",
            )

    def prompt(self, conversation: Conversation) -> dict[str, Any] | None:
        """Return what comes before the last answer, as `probes.json` keeps it: ``messages``, ``text`` and ``ids``.

        None if later stages could not ask it as it is: plain text, tools, or text that reads like a control token.
        """
        asked = list(conversation.messages[:-1])
        plain = all(message.keys() == {"role", "content"} and message["role"] != "tool" for message in asked)
        if not asked or not plain or conversation.tools or self._renderer.holds_control_text(conversation):
            return None
        text = self._renderer.render(asked, ask=True)
        return {"messages": asked, "text": text, "ids": self._labeller.encode_prompt(text)}

    def tokens(self) -> dict[str, Any]:
        """Return what later stages must know of the tokenizer, as `tokens.json` keeps it."""
        tokenizer = self.base.tokenizer
        return {
            "endOfTurn": {"id": self.end_of_turn, "text": tokenizer.convert_ids_to_tokens(self.end_of_turn)},
            "bosTokenId": tokenizer.bos_token_id,
            "eosTokenId": tokenizer.eos_token_id,
            "vocabSize": self.base.vocab_size,
            "addsBos": self._labeller.adds_bos,
        }

    def marked(self, example: Example) -> list[dict[str, Any]]:
        """Return a sample as runs of text, each with whether it is ``learnt``, for people to look at."""
        learnt = example.labels != IGNORED
        cuts = [0, *(np.flatnonzero(learnt[1:] != learnt[:-1]) + 1).tolist(), len(learnt)]
        return [
            {"learnt": bool(learnt[start]), "text": self.base.tokenizer.decode(example.input_ids[start:end].tolist())}
            for start, end in pairwise(cuts)
        ]


def _told_apart(conversation: Conversation, encoded: Encoded) -> Encoded:
    """Return the samples of a conversation, or of a pair that both of its answers became the same tokens."""
    if conversation.rejected is None or isinstance(encoded, StageError):
        return encoded
    chosen, rejected = encoded
    if not np.array_equal(chosen.input_ids, rejected.input_ids):
        return encoded
    return StageError(
        ExitCode.BAD_DATA,
        f"{conversation.place}: the chosen and the rejected answer became the same tokens: neither is better",
        reason="BadRow",
        hint="They differ in what the chat template leaves out. Correct the row, or leave it out (`onBadRow: Skip`).",
    )


def _of_the_row(error: StageError) -> StageError:
    """Return an error that is about one row alone; raise any other."""
    if error.code is not ExitCode.BAD_DATA:
        raise error
    return error
