"""Renders conversations with the chat template, and finds the assistant's parts in the text by rendering alone.

What a turn of the assistant adds is what the rendering gains when the turn is appended, beyond what the template
writes by itself to ask for an answer (``add_generation_prompt``). That holds for every template that only ever
appends; for one that rewrites earlier turns it is an error, never a guess.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import jinja2
import jinja2.exceptions

from tunesmith_stages.contract import ExitCode
from tunesmith_stages.prepare.conversations import Conversation, Message
from tunesmith_stages.program import StageError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


_OTHER_WORDS = "\ue000\ue001\ue002"
"""Of the private use area: in no template."""


# What a model may have to write itself before its answer: blanks, and the (empty) thoughts of a thinking model.
_MAY_COME_FIRST = re.compile(r"\s*(<think>.*?</think>\s*)?", re.DOTALL)


@dataclass(frozen=True)
class Turn:
    """A turn of the assistant in a rendered text, by character positions."""

    start: int
    """Where the model begins to write."""
    content_end: int
    """Where the assistant's own words end and the template goes on."""
    end: int
    """Where the next message begins, or the text ends."""


@dataclass(frozen=True)
class Rendered:
    """A conversation as the model sees it."""

    conversation: Conversation
    text: str
    turns: tuple[Turn, ...]


_MEND = "Correct the template: `model.chatTemplate.jinja`, or the one of the base model's tokenizer."


class Renderer:
    """Renders with one tokenizer and one template."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, template: str) -> None:
        self._tokenizer = tokenizer
        self._template = template

    def render(self, messages: Sequence[Message], *, ask: bool = False) -> str:
        """Return the text of a conversation; with `ask`, up to where the assistant begins to write.

        Raises:
            StageError: the template is no Jinja, fails, or tries what its sandbox forbids.
        """
        try:
            text: str = self._tokenizer.apply_chat_template(
                list(messages), chat_template=self._template, tokenize=False, add_generation_prompt=ask
            )
        except jinja2.TemplateSyntaxError as error:
            message = f"the chat template is not Jinja: {error.message} (line {error.lineno} of the template)"
            raise StageError(ExitCode.BAD_CONFIG, message, reason="BadTemplate", hint=_MEND) from None
        except jinja2.exceptions.SecurityError as error:
            message = f"the chat template tries what a template may not do: {error}"
            raise StageError(ExitCode.BAD_CONFIG, message, reason="UnsafeTemplate", hint=_MEND) from None
        except (
            jinja2.TemplateError, TypeError, ValueError, ArithmeticError, LookupError, AttributeError, RecursionError,
            MemoryError
        ) as error:  # fmt: skip
            roles = ", ".join(message["role"] for message in messages)
            raise StageError(
                ExitCode.BAD_DATA,
                f"the chat template fails on a conversation of {roles}: {error}",
                reason="TemplateRefusesRow",
                hint="Change the conversation, or use another template (`model.chatTemplate`).",
            ) from None
        return text

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
            raise StageError(ExitCode.BAD_CONFIG, error.message, reason="BadTemplate", hint=_MEND) from None

    def locate(self, conversation: Conversation) -> Rendered:
        """Render a conversation and locate each of the assistant's turns.

        Raises:
            StageError: as :meth:`render`, or a turn cannot be told from the rest.
        """
        messages = conversation.messages
        try:
            text = self.render(messages)
            turns = tuple(
                self._turn(messages, index, text)
                for index, message in enumerate(messages)
                if message["role"] == "assistant"
            )
        except StageError as error:
            raise StageError(
                error.code, f"{conversation.place}: {error.message}", reason=error.reason, hint=error.hint
            ) from error
        return Rendered(conversation, text, turns)

    def _turn(self, messages: Sequence[Message], index: int, text: str) -> Turn:
        before = self.render(messages[:index], ask=True)
        through = text if index == len(messages) - 1 else self.render(messages[: index + 1])
        if not (through.startswith(before) and text.startswith(through)):
            raise _not_separable(f"it writes message {index + 1} differently when an answer is asked for", before, text)
        said = messages[index]["content"].strip()
        found = self._place_of(said, messages[: index + 1], through, len(before))
        if found < 0:
            raise _not_separable(f"the words of message {index + 1} are not in what it writes", said, through)
        if not _MAY_COME_FIRST.fullmatch(through, len(before), found):
            raise StageError(
                ExitCode.BAD_CONFIG,
                f"the chat template writes {through[len(before) : found]!r} before the assistant's words, but not when "
                "an answer is asked for (add_generation_prompt): the model would learn to write that itself",
                reason="NoGenerationPrompt",
                hint="End `model.chatTemplate.jinja` with what begins the assistant's turn, such as "
                "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}.",
            )
        return Turn(len(before), found + len(said), len(through))

    def _place_of(self, said: str, messages: Sequence[Message], text: str, start: int) -> int:
        """Return where the last message's words are in `text` from `start` on, or -1.

        Words as short as ``think`` may be in what the template itself writes, too. Another text in their place shows
        then which are the message's own.
        """
        if text.count(said, start) < 2:
            return text.find(said, start)
        place = self.render([*messages[:-1], {**messages[-1], "content": _OTHER_WORDS}]).find(_OTHER_WORDS, start)
        return place if place >= 0 and text.startswith(said, place) else -1


def _not_separable(why: str, wanted: str, text: str) -> StageError:
    return StageError(
        ExitCode.BAD_CONFIG,
        f"the chat template does not let the assistant's text be separated from the rest: {why}\n"
        f"  expected: ...{wanted[-120:]!r}\n  rendered: {text[:240]!r}",
        reason="TemplateNotSeparable",
        hint="Use a template that only appends (`model.chatTemplate.jinja`): rendering the conversation up to a turn "
        "with add_generation_prompt must be the beginning of rendering it with that turn.",
    )
