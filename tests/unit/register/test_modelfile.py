from __future__ import annotations

from typing import Any

import pytest

from tunesmith_stages.register.modelfile import dropped, modelfile


def test_only_what_is_given_is_written() -> None:
    """Without parameters, system prompt and license, a Modelfile is one line."""
    assert modelfile("./model.gguf", {}) == "FROM ./model.gguf\n"


def test_whole_modelfile() -> None:
    """Parameters come one a line, lists repeated; texts stand in triple quotation marks."""
    text = modelfile(
        "./model.gguf",
        {"temperature": 0.7, "num_ctx": 4096, "use_mmap": False, "stop": ["###", "\n\n", ' "x"']},
        system='You are "Tunny".\nBe brief. ',
        license_text="MIT",
    )
    assert text == (
        "FROM ./model.gguf\n"
        "PARAMETER num_ctx 4096\n"
        "PARAMETER stop ###\n"
        'PARAMETER stop """\n\n"""\n'
        'PARAMETER stop """ "x""""\n'
        "PARAMETER temperature 0.7\n"
        "PARAMETER use_mmap false\n"
        'SYSTEM """You are "Tunny".\nBe brief. """\n'
        'LICENSE """MIT"""\n'
    )


@pytest.mark.parametrize("fields", [{"system": 'a"""\nb'}, {"license_text": 'a"""'}, {"system": 'a""" \nb'}])
def test_text_that_cannot_be_quoted_is_refused(fields: dict[str, Any]) -> None:
    """A line that ends with three quotation marks would end the text early, so it is an error."""
    with pytest.raises(ValueError, match="must not end with"):
        modelfile("./model.gguf", {}, **fields)


@pytest.mark.parametrize(
    ("value", "lost"),
    [
        ('You are "Tunny".\n\tBe\r\nbrief. é 你好，世界 \U0001f469', []),
        ("a\u200db\u200dc", ["\u200d"]),
        ("wide\u3000blank, hard\u00a0blank", ["\u3000", "\u00a0"]),
        (["a", "b\x00"], ["\x00"]),
        (0.7, []),
        (None, []),
    ],
)
def test_what_a_modelfile_loses_is_known(value: Any, lost: list[str]) -> None:
    """Characters that Ollama's parser drops from a Modelfile are found, wherever they stand."""
    assert dropped(value) == lost
