"""Proves that what Ollama serves is the model that was trained: each check is a function, and says what it found.

The checks run on a throw-away name, in this order; the first that fails ends the stage.

What counts as stopping: a model that never ends its turn is broken, whatever it says, but one long answer proves
nothing against it. So of the three shortest probes (prompts from the training data) at least one must end by itself
within 1,024 tokens, and so must the answer to every smoke test, which somebody chose to be answered well.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tunesmith_stages.chat_template import guarded
from tunesmith_stages.contract import ExitCode
from tunesmith_stages.ollama import Message, Ollama, Reply
from tunesmith_stages.ollama_refusal import RefusalError
from tunesmith_stages.program import StageError
from tunesmith_stages.register.gguf_reference import GgufReference
from tunesmith_stages.register.reference import Prompt, Reference
from tunesmith_stages.register.serving_day import ASKS
from tunesmith_stages.register.shapes import SHAPES, as_asked

_LONGEST_ANSWER = 1024
_PROBES = 3
_LEARN_TO_STOP = "Train longer, so that it learns its end-of-turn token; if the loss is low already, report it."
_MORE_OF_IT = "Train longer or with more examples of it"
_ANOTHER_BASE = "The base is served as it is: choose another one"


@dataclass(frozen=True)
class Subject:
    """One model under proof."""

    server: Ollama
    name: str
    """The throw-away name."""
    quantization: str
    reference: Reference | GgufReference
    system: str | None
    num_ctx: int
    probes: Sequence[Sequence[Message]]
    """Conversations from the training data, the shortest first."""
    smoke_tests: Sequence[Mapping[str, str]]
    """Each with ``prompt`` and ``expect``."""
    thinking: bool
    """Whether the server can switch the model's thinking on and off."""
    answers: list[dict[str, str]] = field(default_factory=list)
    """What it said, for people: filled while the checks run."""

    @property
    def modes(self) -> tuple[bool | None, ...]:
        """What can be said about thinking in a request."""
        return (False, True) if self.thinking else (None,)

    def ask(self, messages: Sequence[Message], limit: int) -> Reply:
        """Let the model answer, without thinking."""
        return self.server.chat(self.name, messages, limit=limit, think=self.modes[0])

    @property
    def was_trained(self) -> bool:
        """Whether the model comes from a training, and not from a GGUF as it was."""
        return isinstance(self.reference, Reference)

    def ask_whole(self, messages: Sequence[Message]) -> Reply:
        """Let the model answer to the end, and keep what it says."""
        reply = self.ask(messages, _LONGEST_ANSWER)
        self.answers.append(
            {"quantization": self.quantization, "prompt": str(messages[-1]["content"]), "after": reply.content}
        )
        return reply

    def prompts(self) -> dict[str, tuple[Sequence[Message], bool | None, Prompt | None]]:
        """Return each shape of conversation, with and without thinking: messages, thinking, and what is expected."""
        found: dict[str, tuple[Sequence[Message], bool | None, Prompt | None]] = {}
        for shape, messages in SHAPES.items():
            for think in self.modes:
                name = shape if think is None else f"{shape} ({'' if think else 'not '}thinking)"
                expected = self.reference.prompt(as_asked(messages, self.system), think)
                found[name] = (messages, think, expected)
        return found

    def failed(self, reason: str, message: str, hint: str) -> StageError:
        """Return the error for a check that failed."""
        return StageError(ExitCode.GATE_FAILED, f"{self.quantization}: {message}", reason=reason, hint=hint)


def template_is_ours(subject: Subject) -> str:
    """The server uses the template that the model was trained with, byte for byte."""
    expected = guarded(subject.reference.template)
    found = subject.server.show(subject.name)["template"]
    if found != expected:
        raise subject.failed(
            "TemplateDiffers",
            f"Ollama's chat template is not the one that the model was trained with:\n{difference(expected, found)}",
            "Report it: the template was changed on its way into the GGUF or the server.",
        )
    return f"{len(expected)} characters"


def loads(subject: Subject) -> str:
    """The server can load the model and get a token out of it."""
    try:
        subject.ask([{"role": "user", "content": "Hello"}], limit=1)
    except RefusalError as refusal:
        if refusal.code is not ExitCode.GATE_FAILED:
            raise
        raise subject.failed(
            "DoesNotLoad",
            f"Ollama takes the model but cannot run it: {refusal.text}",
            "If it names the architecture, this Ollama does not know it: update it, or choose another base.",
        ) from refusal
    return "answers"


def renders_equally(subject: Subject) -> str:
    """Conversations of every shape become the text that ``apply_chat_template`` makes of them."""
    refused = []
    _settle_day(subject)
    prompts = subject.prompts()
    for shape, (messages, think, expected) in prompts.items():
        if expected is None:
            refused.append(shape)
            continue
        found = subject.server.rendered(subject.name, messages, think=think)
        if found != expected.text:
            raise subject.failed(
                "RenderingDiffers",
                f"for a conversation of the shape '{shape}', Ollama's prompt differs from the one that the model was "
                f"trained with:\n{difference(expected.text, found)}",
                "Ollama's template engine reads this chat template differently: give a simpler one, then train again.",
            )
    if len(refused) == len(prompts):
        raise subject.failed("RenderingDiffers", "the chat template refuses every conversation", "Give another one.")
    return f"{len(prompts) - len(refused)} equal" + (f", refused by the template: {refused}" if refused else "")


def _settle_day(subject: Subject) -> None:
    """Find out which day it is for the server, if the template writes the date: its zone may be another one."""
    if ASKS not in subject.reference.template:
        return
    for messages, think, expected in subject.prompts().values():
        if expected is not None:
            asked = as_asked(tuple(messages), subject.system)
            found = subject.server.rendered(subject.name, messages, think=think)
            subject.reference.day.settle(lambda: _text(subject.reference.prompt(asked, think)), found)  # noqa: B023 - run at once
            return


def _text(prompt: Prompt | None) -> str:
    return prompt.text if prompt else ""


def counts_tokens_equally(subject: Subject) -> str:
    """Prompts of every shape come to as many tokens as the training's tokenizer makes of them."""
    counted = []
    for shape, (messages, think, expected) in subject.prompts().items():
        if expected is None or expected.tokens >= subject.num_ctx:
            continue
        found = subject.server.chat(subject.name, messages, limit=1, think=think).prompt_tokens
        if found != expected.tokens:
            raise subject.failed(
                "TokenCountDiffers",
                f"for a conversation of the shape '{shape}', Ollama counts {found} tokens and the tokenizer that the "
                f"model was trained with {expected.tokens}: {expected.text!r}",
                "Report it: the GGUF's tokenizer, or its setting for the BOS token, differs from the base's.",
            )
        counted.append(found)
    return f"{len(counted)} equal, {sum(counted)} tokens"


def stops(subject: Subject) -> str:
    """The model ends its turn by itself on at least one prompt like those it was trained on."""
    for messages in subject.probes[:_PROBES]:
        reply = subject.ask_whole(messages)
        if reply.done_reason == "stop":
            return f"ended a turn after {len(reply.content)} characters"
    raise subject.failed(
        "DoesNotStop",
        f"the model never ended its turn within {_LONGEST_ANSWER} tokens, whatever conversation"
        f"{' of its training data' if subject.was_trained else ''} it was asked to go on with; the last answer begins "
        f"with {reply.content[:200]!r}",
        _LEARN_TO_STOP if subject.was_trained else f"{_ANOTHER_BASE}.",
    )


def passes_smoke_tests(subject: Subject) -> str:
    """The model gives the answers that the job expects, and ends them."""
    for test in subject.smoke_tests:
        reply = subject.ask_whole([{"role": "user", "content": test["prompt"]}])
        if test["expect"] not in reply.content:
            raise subject.failed(
                "SmokeTestFailed",
                f"asked {test['prompt']!r}, the model answered {reply.content[:500]!r}; expected was "
                f"{test['expect']!r}",
                f"{_MORE_OF_IT if subject.was_trained else _ANOTHER_BASE}, or correct the test in `ollama.smokeTests`.",
            )
        if reply.done_reason != "stop":
            raise subject.failed(
                "DoesNotStop",
                f"asked {test['prompt']!r}, the model did not end its answer within {_LONGEST_ANSWER} tokens; it "
                f"begins with {reply.content[:200]!r}",
                _LEARN_TO_STOP if subject.was_trained else f"{_ANOTHER_BASE}.",
            )
    return f"{len(subject.smoke_tests)} passed"


CHECKS: Sequence[Callable[[Subject], str]] = (
    template_is_ours,
    loads,
    renders_equally,
    counts_tokens_equally,
    stops,
    passes_smoke_tests,
)


def prove(subject: Subject, record: list[dict[str, Any]], advance: Callable[[], None]) -> None:
    """Run every check; `record` gets an entry for each that ran, the one that failed included.

    Raises:
        StageError: a check failed (GATE_FAILED), or the server did.
    """
    for check in CHECKS:
        entry = {"quantization": subject.quantization, "check": check.__name__, "passed": False, "found": ""}
        record.append(entry)
        try:
            entry |= {"found": check(subject), "passed": True}
        except StageError as error:
            entry["found"] = error.message
            raise
        advance()


def difference(expected: str, found: str) -> str:
    """Return a line-by-line difference of two texts, with every invisible character spelled out."""
    before, after = ([ascii(line) for line in text.splitlines(keepends=True)] for text in (expected, found))
    return "\n".join(difflib.unified_diff(before, after, "trained with", "Ollama", lineterm="", n=1))
