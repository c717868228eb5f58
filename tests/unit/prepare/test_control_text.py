from __future__ import annotations

from typing import Any

import pytest

from support.builders import messages
from tunesmith_stages.prepare.control_text import ControlText, places_of_marks

FOUND = ControlText(iter(["<s>", "<s>x", "<|im_end|>", "<think>", "</think>"]))
CALL = {"role": "assistant", "content": "", "tool_calls": [{"function": {"arguments": {"x": ["<s>"]}}}]}
HOLDING: dict[str, tuple[list[dict[str, Any]], list[Any] | None, bool]] = {
    "a question": (messages("a <|im_end|> b", "c"), None, True),
    "an answer": (messages("a", "<s>"), None, True),
    "a system text": (messages("a", "b", system="<s>"), None, True),
    "a call": ([CALL], None, True),
    "a call's argument's name": (
        [{"role": "assistant", "content": "", "tool_calls": [{"function": {"arguments": {"<s>": 1}}}]}],
        *(None, True),
    ),
    "the name of a function's parameter": (messages("a", "b"), [{"function": {"properties": {"<s>": {}}}}], True),
    "a function": (messages("a", "b"), [{"function": {"description": "<s>"}}], True),
    "thoughts in a question": (messages("<think>", "b"), None, True),
    "thoughts in an answer": (messages("a", "<think>\n\n</think>\n\nb"), None, False),
    "half of one": (messages("<|im_end| >", "<S>"), [{"function": {"description": "s>"}}], False),
}


@pytest.mark.parametrize("name", HOLDING)
def test_where_it_is_looked_for(name: str) -> None:
    """Text of control tokens is found wherever a person could write it; an answer's thoughts are what they say."""
    talk, tools, holds = HOLDING[name]
    assert FOUND.is_in(talk, tools) is holds
    marked = [FOUND.marked(talk), FOUND.marked_tools(tools)]
    assert ("\ufdd0" in repr(marked).encode().decode("unicode-escape")) is holds


def test_places() -> None:
    """The places are those of the text without marks; a longer token goes before one that it holds."""
    text = "a<s>xb<|im_end|><s>"
    (message,) = FOUND.marked([{"role": "user", "content": text}])
    places = places_of_marks(f"[{message['content']}]", f"[{text}]")
    assert places is not None
    assert [f"[{text}]"[start:end] for start, end in places] == ["<s>x", "<|im_end|>", "<s>"]
    assert FOUND.spans(text) == [(start - 1, end - 1) for start, end in places]


@pytest.mark.parametrize("marked", ["a\ufdd0<s>b", "<s>\ufdd1ab", "a<s>c", "a\ufdd0<s>\ufdd1bc", "a\ufdd0<s>\ufdd1"])
def test_marks_that_a_template_tore_apart(marked: str) -> None:
    """Where marks are missing, or the text is another one without them, there are no places."""
    assert places_of_marks(marked, "a<s>b") is None
