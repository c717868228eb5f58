"""What goes wrong with a chat template, in words for people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import jinja2
import jinja2.exceptions

from tunesmith_stages.contract import ExitCode
from tunesmith_stages.prepare.chat import MEMORY, TooMuchError
from tunesmith_stages.prepare.conversations import Message
from tunesmith_stages.program import StageError

MEND = "Correct the template: `model.chatTemplate.jinja`, or the one of the base model's tokenizer."


@contextmanager
def explained(messages: Sequence[Mapping[str, Any]]) -> Iterator[None]:
    """Say what a template's error means for the job."""
    try:
        yield
    except jinja2.TemplateSyntaxError as error:
        message = f"the chat template is not Jinja: {error.message} (line {error.lineno} of the template)"
        raise StageError(ExitCode.BAD_CONFIG, message, reason="BadTemplate", hint=MEND) from None
    except jinja2.exceptions.SecurityError as error:
        message = f"the chat template tries what a template may not do: {error}"
        raise StageError(ExitCode.BAD_CONFIG, message, reason="UnsafeTemplate", hint=MEND) from None
    except TooMuchError as error:
        message = f"the chat template never comes to an end, or nearly so: {error}"
        raise StageError(ExitCode.BAD_CONFIG, message, reason="TemplateTakesTooMuch", hint=MEND) from None
    except MemoryError:
        message = f"the chat template takes more than {MEMORY:,} bytes of memory"
        raise StageError(ExitCode.BAD_CONFIG, message, reason="TemplateTakesTooMuch", hint=MEND) from None
    except (
        jinja2.TemplateError, TypeError, ValueError, ArithmeticError, LookupError, AttributeError, RecursionError
    ) as error:  # fmt: skip
        roles = ", ".join(message["role"] for message in messages)
        on = f" on a conversation of {roles}" if roles else ""
        raise StageError(
            ExitCode.BAD_DATA,
            f"the chat template fails{on}: {error}",
            reason="TemplateRefusesRow",
            hint="Change the conversation, or use another template (`model.chatTemplate`).",
        ) from None


def require_calls(message: Message, written: str) -> None:
    """Prove that the template writes the calls of a message."""
    for call in message["tool_calls"]:
        if call["function"]["name"] not in written:
            raise no_place("calls of functions (`tool_calls`)")


_KNOW_FUNCTIONS = "that knows functions, such as the named ones qwen, llama3, mistral and deepseek"


def no_place(what: str, better: str = _KNOW_FUNCTIONS) -> StageError:
    """Return the error for what the template would leave out of a row; a `better` one would not."""
    return StageError(
        ExitCode.BAD_DATA,
        f"the chat template has no place for {what}",
        reason="TemplateRefusesRow",
        hint=f"Use a template {better} (`model.chatTemplate`), or leave such rows out (`onBadRow: Skip`).",
    )


def not_separable(why: str, wanted: str, text: str) -> StageError:
    """Return the error for a turn that cannot be told from the rest."""
    return StageError(
        ExitCode.BAD_CONFIG,
        f"the chat template does not let the assistant's text be separated from the rest: {why}\n"
        f"  expected: ...{wanted[-120:]!r}\n  rendered: {text[:240]!r}",
        reason="TemplateNotSeparable",
        hint="Use another template, such as a named one (`model.chatTemplate`): rendering the conversation up to a "
        "turn with add_generation_prompt must be the beginning of rendering it with that turn.",
    )


def blocks_conflict(why: str) -> StageError:
    """Return the error for ``{% generation %}`` blocks that do not mark answers."""
    return StageError(
        ExitCode.BAD_CONFIG,
        f"the chat template's {{% generation %}} blocks cannot be followed: {why}",
        reason="GenerationBlocksConflict",
        hint="Put the block around what the assistant writes, from its first word through the token that ends its "
        "turn; or leave the blocks out, then exactly that is learnt.",
    )


def no_generation_prompt(written: str) -> StageError:
    """Return the error for a turn that begins with more than the prompt for it."""
    return StageError(
        ExitCode.BAD_CONFIG,
        f"the chat template writes {written!r} before the assistant's words, but not when "
        "an answer is asked for (add_generation_prompt): the model would learn to write that itself",
        reason="NoGenerationPrompt",
        hint="End `model.chatTemplate.jinja` with what begins the assistant's turn, such as "
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}.",
    )


def control_text_stays() -> StageError:
    """Return the error for text like a control token's that cannot be followed through the template."""
    return StageError(
        ExitCode.BAD_DATA,
        "it holds text of a control token, and the chat template does not let it be kept apart from its own",
        reason="ControlTokenInText",
        hint="Take the control token's text out of the row, or leave the row out (`onBadRow: Skip`).",
    )
