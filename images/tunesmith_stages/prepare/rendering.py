"""Renders conversations with the chat template, and finds the assistant's parts in the text by rendering alone.

What a turn of the assistant adds is what the rendering gains when the turn is appended, beyond what the template
writes by itself to ask for an answer (``add_generation_prompt``). That holds for every template that only ever appends.
One that rewrites earlier turns, as those of thinking models do, gives one sample for each answer: the conversation up
to it, as the model is given it when it is served. Nothing is guessed: what cannot be told apart is an error.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tunesmith_stages.contract import ExitCode
from tunesmith_stages.prepare.chat import ChatTemplate, Span, limited, restart_time
from tunesmith_stages.prepare.control_text import ControlText, places_of_marks
from tunesmith_stages.prepare.conversations import Conversation, Message
from tunesmith_stages.prepare.pattern import learn_pattern
from tunesmith_stages.prepare.sample import Rendered, Turn
from tunesmith_stages.prepare.template_errors import (
    MEND,
    blocks_conflict,
    control_text_stays,
    explained,
    no_generation_prompt,
    no_place,
    not_separable,
    require_calls,
)
from tunesmith_stages.program import StageError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


_OTHER_WORDS = "\ue000\ue001\ue002"
"""Of the private use area: in no template."""


# What a model may have to write itself before its answer: blanks, and the (empty) thoughts of a thinking model.
_MAY_COME_FIRST = re.compile(r"\s*(<think>.*?</think>\s*)?", re.DOTALL)
_REST_OF_THOUGHTS = re.compile(r".*?</think>\s*", re.DOTALL)
# What a prompt may end with that the template leaves out before an answer: thoughts that are empty, of known forms.
_EMPTY_THOUGHTS = re.compile(r"\s*(<think>\s*</think>|<\|channel>thought\s*<channel\|>)\s*")


class Renderer:
    """Renders with one tokenizer and one template.

    Args:
        tokenizer: for its control tokens.
        template: Jinja, without ``{% generation %}`` blocks.
        marked: the same with such blocks, if there are any.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, template: str, marked: str | None = None) -> None:
        constants = tokenizer.special_tokens_map
        with limited(), explained(()):  # what is constant in it is computed when it is compiled
            self._template = ChatTemplate(template, constants)
            self._marked = ChatTemplate(marked, constants) if marked is not None else None
        with limited(), explained(()):
            self._pattern = learn_pattern(self._template)
        self.writes_date = self._template.writes_date
        """Whether the template writes the date."""
        self.takes_system = self._writes_system()
        """Whether the template writes system messages, or complains of them; else it leaves them out."""
        self._control_text = ControlText(
            token.content for token in tokenizer.added_tokens_decoder.values() if token.special
        )

    def render(self, messages: Sequence[Message], tools: Sequence[Any] | None = None, *, ask: bool = False) -> str:
        """Return the text of a conversation; with `ask`, up to where the assistant begins to write.

        Raises:
            StageError: the template fails, or tries what its sandbox or its bounds forbid.
        """
        with limited(), explained(messages):
            return self._template.render(messages, tools, ask=ask)

    def check(self) -> None:
        """Prove that the template works at all: on the simplest conversation, before any row is blamed.

        Raises:
            StageError: it does not.
        """
        try:
            self.render([{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hello."}])
        except StageError as error:
            if error.reason != "TemplateRefusesRow":
                raise
            raise StageError(ExitCode.BAD_CONFIG, error.message, reason="BadTemplate", hint=MEND) from None

    def _writes_system(self) -> bool:
        talk = [
            {"role": role, "content": words}
            for role, words in (("system", _OTHER_WORDS), ("user", "Hello"), ("assistant", "Hello."))
        ]
        try:
            return _OTHER_WORDS in self.render(talk)
        except StageError:
            return True

    def holds_control_text(self, conversation: Conversation) -> bool:
        """Say whether a conversation holds text that reads like a control token."""
        return self._control_text.is_in(conversation.messages, conversation.tools)

    def samples(self, conversation: Conversation) -> list[Rendered]:
        """Render a conversation and locate each of the assistant's turns.

        Returns:
            One sample with all turns; or, where the template rewrites earlier turns, one for each answer.

        Raises:
            StageError: as :meth:`render`, or a turn cannot be told from the rest.
        """
        if conversation.text is not None:
            text = conversation.text
            return [Rendered(conversation, text, (), literal=self._control_text.spans(text))]
        try:
            with limited(), explained(conversation.messages):
                return self._samples(conversation)
        except StageError as error:
            raise StageError(
                error.code, f"{conversation.place}: {error.message}", reason=error.reason, hint=error.hint
            ) from error

    # --- all below runs inside the bounds of samples() ----------------------------------------------------------------

    def _samples(self, conversation: Conversation) -> list[Rendered]:
        if conversation.tools and "tools" not in self._template.variables:
            raise no_place("descriptions of functions (`tools`)")
        messages = conversation.messages
        if not self.takes_system and any(each["role"] == "system" and each["content"].strip() for each in messages):
            raise no_place("a system message", "that writes it, such as a named one")
        text = self._template.render(messages, conversation.tools)
        answers = [index for index, message in enumerate(messages) if message["role"] == "assistant"]
        turns = self._turns_by_pattern(conversation, text) if len(answers) > 1 else []
        for index in answers[len(turns) :]:
            turn = self._turn(conversation, index, text)
            if turn is None:
                return self._one_for_each_answer(conversation, answers)
            turns.append(turn)
        return [self._rendered(conversation, messages, text, turns, per_turn=False)]

    def _turns_by_pattern(self, conversation: Conversation, text: str) -> list[Turn]:
        """Return all turns but the last, if the template's pattern is in every letter of the text; else none."""
        if self._pattern is None or conversation.tools:
            return []
        places = self._pattern.places(conversation.messages, text) or []
        first = len(conversation.messages) % 2
        return [
            Turn(place.start, place.words_end, place.end, first + 2 * number + 1 not in conversation.ignored)
            for number, place in enumerate(places[:-1])
        ]

    def _one_for_each_answer(self, conversation: Conversation, answers: Sequence[int]) -> list[Rendered]:
        samples = []
        for index in answers:
            if index in conversation.ignored:
                continue
            messages = conversation.messages[: index + 1]
            before = self._asked(conversation, index)
            text = _behind_prompt(before, self._template.render(messages, conversation.tools))
            turn = self._turn_in(text, before, conversation, index)
            samples.append(self._rendered(conversation, messages, text, [turn], per_turn=len(answers) > 1))
        return samples

    def _rendered(
        self,
        conversation: Conversation,
        messages: Sequence[Message],
        text: str,
        turns: Sequence[Turn],
        *,
        per_turn: bool,
    ) -> Rendered:
        tools = conversation.tools
        marked = None if self._marked is None else self._blocks(self._marked, messages, tools, text, turns)
        literal: Sequence[Span] = ()
        if self._control_text.is_in(messages, tools):
            literal = self._literal(messages, tools, text)
        return Rendered(conversation, text, tuple(turns), marked, literal, per_turn)

    def _turn(self, conversation: Conversation, index: int, text: str) -> Turn | None:
        """Return the turn that message `index` is in `text`, or None if it is learnt behind another prompt."""
        through = text
        if index < len(conversation.messages) - 1:
            through = self._template.render(conversation.messages[: index + 1], conversation.tools)
        if not text.startswith(through):
            return None
        before = self._asked(conversation, index)
        if _behind_prompt(before, through) != through:
            return None
        return self._turn_in(through, before, conversation, index)

    def _asked(self, conversation: Conversation, index: int) -> str:
        """Return the prompt that message `index` answers."""
        restart_time()
        return self._template.render(conversation.messages[:index], conversation.tools, ask=True)

    def _turn_in(self, through: str, before: str, conversation: Conversation, index: int) -> Turn:
        """Return the turn that message `index` is in `through`, which goes on from the prompt `before` to its end."""
        messages, tools = conversation.messages[: index + 1], conversation.tools
        if not through.startswith(before):
            raise not_separable(
                f"it writes message {index + 1} differently when an answer is asked for", before, through
            )
        message = messages[-1]
        calls = bool(message.get("tool_calls"))
        if calls:
            require_calls(message, through[len(before) :])
        words_end = self._end_of_words(messages, tools, through, before)
        return Turn(len(before), words_end, len(through), index not in conversation.ignored, calls)

    def _end_of_words(self, messages: Sequence[Message], tools: Sequence[Any] | None, text: str, before: str) -> int:
        """Return where the last message's words end in `text`, in which the model writes what follows `before`."""
        start = len(before)
        said = messages[-1]["content"].strip()
        if not said and messages[-1].get("tool_calls"):
            return start
        found = self._place_of(said, messages, tools, text, before)
        if found < 0 and "</think>" in said:  # the template writes thoughts in its own way, or leaves them out
            said = said.rpartition("</think>")[2].strip()
            found = self._place_of(said, messages, tools, text, before)
        if found < 0:
            raise not_separable(f"the words of message {len(messages)} are not in what it writes", said, text)
        thinks = before.rstrip().endswith("<think>")
        if not (_REST_OF_THOUGHTS if thinks else _MAY_COME_FIRST).fullmatch(text, start, found):
            raise no_generation_prompt(text[start:found])
        return found + len(said)

    def _place_of(
        self, said: str, messages: Sequence[Message], tools: Sequence[Any] | None, text: str, before: str
    ) -> int:
        """Return where the last message's words are in `text` behind `before`, or -1.

        Words as short as ``think`` may be in what the template itself writes, too. Another text in their place shows
        then which are the message's own.
        """
        start = len(before)
        if text.count(said, start) < 2:
            return text.find(said, start)
        content = messages[-1]["content"]
        whole = content.strip() == said
        other = _OTHER_WORDS if whole else content.rpartition("</think>")[0] + "</think>\n\n" + _OTHER_WORDS
        rendered = self._template.render([*messages[:-1], {**messages[-1], "content": other}], tools)
        place = _behind_prompt(before, rendered).find(_OTHER_WORDS, start)
        return place if place >= 0 and text.startswith(said, place) else -1

    def _blocks(
        self,
        template: ChatTemplate,
        messages: Sequence[Message],
        tools: Sequence[Any] | None,
        text: str,
        turns: Sequence[Turn],
    ) -> tuple[Span, ...]:
        """Return the places of ``{% generation %}`` blocks, after proving that each is inside a turn."""
        rendered, spans = template.render_marked(messages, tools)
        if rendered != text:
            raise blocks_conflict("it renders differently without its {% generation %} blocks")
        kept = tuple((start, end) for start, end in spans if start < end)
        for start, end in kept:
            if not any(turn.start <= start and end <= turn.end for turn in turns):
                raise blocks_conflict(
                    f"a {{% generation %}} block writes {text[start:end][:120]!r}, which is not what the assistant "
                    "writes after it was asked"
                )
        return kept

    def _literal(self, messages: Sequence[Message], tools: Sequence[Any] | None, text: str) -> Sequence[Span]:
        written = self._control_text
        marked = self._template.render(written.marked(messages), written.marked_tools(tools))
        places = places_of_marks(marked, text)
        if places is None:
            raise control_text_stays()
        return places


def _behind_prompt(before: str, through: str) -> str:
    """Return `through` as it is when served, where the prompt brings empty thoughts that the template leaves out."""
    if through.startswith(before):
        return through
    same = len(os.path.commonprefix([before, through]))  # noqa: RUF071 - of texts, by letters
    return before + through[same:] if _EMPTY_THOUGHTS.fullmatch(before, same) else through
