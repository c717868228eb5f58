from __future__ import annotations

import unicodedata

from tunesmith_stages.register.proof import difference
from tunesmith_stages.register.shapes import SHAPES, as_asked


def test_shapes_ask_for_an_answer() -> None:
    """There are eight different conversations, and each ends with the user."""
    assert len(SHAPES) == 8
    assert len(set(map(repr, SHAPES.values()))) == 8
    assert all(messages[-1]["role"] == "user" for messages in SHAPES.values())


def test_shapes_are_composed() -> None:
    """No shape holds a decomposed character, which tokenizers that normalise count differently."""
    text = "".join(message["content"] for messages in SHAPES.values() for message in messages)
    assert unicodedata.is_normalized("NFC", text)


def test_own_system_prompt_goes_first_only_where_none_is_given() -> None:
    """The model's own system prompt is put before a conversation that has none, as the server does."""
    assert as_asked(SHAPES["user"], "Be brief.")[0] == {"role": "system", "content": "Be brief."}
    assert as_asked(SHAPES["system and user"], "Be brief.") == list(SHAPES["system and user"])
    assert as_asked(SHAPES["user"], None) == list(SHAPES["user"])


def test_difference_shows_what_cannot_be_seen() -> None:
    """A missing blank and another line end are visible in the difference of two prompts."""
    text = difference("a \r\nb\n", "a\nb\n")
    assert r"-'a \r\n'" in text
    assert r"+'a\n'" in text
