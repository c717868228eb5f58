from __future__ import annotations

from tunesmith_stages.convert.corpus import TEXTS, with_control_tokens
from tunesmith_stages.convert.token_gate import left_out


def test_only_decomposed_text_is_left_out_and_only_under_nfc() -> None:
    """What can't be compared is named; everything else is compared."""
    assert left_out(TEXTS, "") == []
    assert left_out(TEXTS, "Lowercase") == []
    assert left_out(TEXTS, "NFC") == [text for text in TEXTS if text.startswith("combining")]


def test_control_tokens_stand_in_every_position() -> None:
    """A control token is compared alone, inside text, before a line break and doubled."""
    assert with_control_tokens(["<e>"]) == ["<e>", "Hi<e>\nthere", "<e><e> again"]
