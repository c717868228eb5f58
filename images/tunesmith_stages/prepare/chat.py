"""A compiled chat template: renders as transformers' ``apply_chat_template`` does, but with bounds, on a fixed day.

The environment is transformers' own (sandbox, filters, the ``generation`` tag), and each template is compiled once.
What is added keeps a template from taking the stage with it: an expression that would compute for ever or fill the
memory is refused, the text is bounded, and limits of time and memory end what takes too much. That changes nothing that
is rendered. What does is the day (:mod:`.day`), for templates that write it.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from types import FrameType
from typing import Any

import jinja2
import jinja2.exceptions
import jinja2.meta
import jinja2.nodes

from tunesmith_stages.prepare.day import strftime_in_training
from tunesmith_stages.prepare.memory import Limit, limit_above_now, limited_memory

LONGEST_TEXT = 64 * 1024 * 1024
"""Characters that one rendering may have; a row has at most a few million."""
SECONDS = 10.0
"""Of the processor's time that one turn may take; a megabyte takes some milliseconds."""
MEMORY = 1024 * 1024 * 1024
"""Bytes that a turn may take besides those that the process has; the longest text takes half of that."""
_LONGEST_NUMBER = 65536
"""Bits."""

Span = tuple[int, int]
"""From and to, by characters of the text."""


class TooMuchError(jinja2.TemplateError):
    """A template asks for more time or memory than any conversation needs."""


@dataclass(frozen=True)
class _Compiled:
    """What a template's text alone decides."""

    template: jinja2.Template
    track: Callable[..., Any]
    variables: frozenset[str]
    writes_date: bool


@lru_cache(maxsize=64)
def _compiled(source: str) -> _Compiled:
    """Compile a template, each text once: that takes longer than rendering a hundred conversations."""
    from transformers.utils import chat_template_utils

    # The uncached form: the environment is changed below.
    environment = chat_template_utils._cached_compile_jinja_template("").environment  # noqa: SLF001
    environment.intercepted_binops = frozenset({"*", "**"})
    environment.call_binop = _bounded_binop
    parsed = environment.parse(source)
    return _Compiled(
        environment.from_string(source),
        environment.activate_tracker,
        frozenset(jinja2.meta.find_undeclared_variables(parsed)),
        any(node.name == "strftime_now" for node in parsed.find_all(jinja2.nodes.Name)),
    )


class ChatTemplate:
    """One template.

    Args:
        source: Jinja, as in a tokenizer's ``chat_template``.
        constants: what else it can read, such as ``eos_token``.

    Raises:
        jinja2.TemplateSyntaxError: it is no Jinja.
    """

    def __init__(self, source: str, constants: Mapping[str, Any]) -> None:
        from transformers.utils import chat_template_utils

        compiled = _compiled(source)
        self.source = source
        self.variables = compiled.variables
        """Names that it reads without setting them itself."""
        self.writes_date = compiled.writes_date
        self._template = compiled.template
        self._track = compiled.track
        self._plain: Callable[[Any], Any] = chat_template_utils._plain_template_data  # noqa: SLF001
        self._with_reasoning: Callable[[Any], Any] = chat_template_utils._alias_reasoning_fields  # noqa: SLF001
        given = {"strftime_now": strftime_in_training, "documents": None}
        self._constants = {**self._template.globals, **constants, **given}

    def render(
        self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Any] | None = None, *, ask: bool = False
    ) -> str:
        """Return the text of messages; with `ask`, up to where the assistant begins to write.

        Raises:
            jinja2.TemplateError, TypeError, ...: whatever the template runs into.
        """
        return "".join(self._parts(messages, tools, ask, []))

    def render_marked(
        self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Any] | None = None
    ) -> tuple[str, list[Span]]:
        """Return the text, and the places that the template's ``{% generation %}`` blocks made."""
        parts: list[str] = []
        spans: list[Span] = []
        with self._track(parts, spans):
            self._parts(messages, tools, False, parts)
        return "".join(parts), spans

    def _parts(
        self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Any] | None, ask: bool, parts: list[str]
    ) -> list[str]:
        chat = list(messages) if all(map(_is_plain, messages)) else self._cleaned(messages)
        variables = {
            **self._constants,
            "messages": chat,
            "tools": self._plain(tools) if tools else None,
            "add_generation_prompt": ask,
        }
        length = 0
        for part in self._template.root_render_func(self._template.new_context(variables, shared=True)):
            parts.append(part)
            length += len(part)
            if length > LONGEST_TEXT:
                raise TooMuchError(f"it writes more than {LONGEST_TEXT:,} characters")
        return parts

    def _cleaned(self, messages: Sequence[Mapping[str, Any]]) -> Any:
        given = [{name: value for name, value in message.items() if value is not None} for message in messages]
        return self._with_reasoning(self._plain(given))


def _is_plain(message: Mapping[str, Any]) -> bool:
    """Say whether transformers would hand a message to the template as it is."""
    return len(message) == 2 and type(message.get("role")) is type(message.get("content")) is str


def _bounded_binop(context: Any, operator: str, left: Any, right: Any) -> Any:
    """Multiply or raise to a power, unless that alone would take all time or memory."""
    del context
    if operator == "**":
        if isinstance(left, int) and isinstance(right, int) and left.bit_length() * right > _LONGEST_NUMBER:
            raise TooMuchError(f"it computes {left} ** {right}")
        return left**right
    for value, times in ((left, right), (right, left)):
        if isinstance(value, str | list | tuple) and isinstance(times, int) and len(value) * times > LONGEST_TEXT:
            raise TooMuchError(f"it repeats something {times:,} times")
    if isinstance(left, int) and isinstance(right, int) and left.bit_length() + right.bit_length() > _LONGEST_NUMBER:
        raise TooMuchError("it computes too large a number")
    return left * right


_memory_limit: Limit | None = None
"""The limit of memory to set, once the handler is set that ends what takes too long."""


@contextmanager
def prepared_to_limit() -> Iterator[None]:
    """Spare each :func:`limited` in the block setting up its limits, which takes as long as rendering a row."""
    global _memory_limit  # noqa: PLW0603 - as signal handlers are, it is the process's
    if _memory_limit is not None or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGVTALRM, _stop)
    _memory_limit = limit_above_now(MEMORY)
    try:
        yield
    finally:
        _memory_limit = None
        signal.signal(signal.SIGVTALRM, before)


def _stop(_number: int, _frame: FrameType | None) -> None:
    raise TooMuchError(f"it takes longer than {SECONDS:g} seconds of the processor's time")


@contextmanager
def limited() -> Iterator[None]:
    """Raise in what the block runs: TooMuchError after SECONDS of the processor's time, MemoryError beyond MEMORY.

    The first by a signal, which Python gives to the main thread alone; in another one there are no limits.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
    elif _memory_limit is None:
        with prepared_to_limit(), limited():
            yield
    else:
        with limited_memory(_memory_limit):
            signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS)
            try:
                yield
            finally:
                signal.setitimer(signal.ITIMER_VIRTUAL, 0)


def restart_time() -> None:
    """Give what runs in :func:`limited` its whole time again."""
    if signal.getitimer(signal.ITIMER_VIRTUAL)[0] > 0:
        signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS)
