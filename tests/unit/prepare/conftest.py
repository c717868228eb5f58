from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from support.builders import write_base, write_llama_cpp, write_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

TokenizerMaker = Callable[..., "PreTrainedTokenizerFast"]


@pytest.fixture(scope="session")
def tokenizer_with(tmp_path_factory: pytest.TempPathFactory) -> TokenizerMaker:
    """Return a function that makes a small tokenizer, each kind once (see ``write_tokenizer``)."""
    from transformers import PreTrainedTokenizerFast

    made: dict[tuple[Any, ...], PreTrainedTokenizerFast] = {}

    def make(**settings: Any) -> PreTrainedTokenizerFast:
        key = tuple(sorted(settings.items()))
        if key not in made:
            folder = tmp_path_factory.mktemp("tokenizer")
            write_tokenizer(folder, **settings)
            made[key] = PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
        return made[key]

    return make


@pytest.fixture(autouse=True)
def no_power_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spare the tests waiting for the disk: what a stage publishes need not outlast a power cut here."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.fixture(scope="session")
def a_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a base model."""
    return write_base(tmp_path_factory.mktemp("base") / "base")


@pytest.fixture
def root(tmp_path: Path, a_base: Path) -> Path:
    """Return a volume with a base model and forty rows."""
    from support.preparing import ROWS, write_rows

    shutil.copytree(a_base, tmp_path / "volume" / "base")
    write_rows(tmp_path / "volume", "faq", ROWS)
    return tmp_path / "volume"


@pytest.fixture
def llama_cpp_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a llama.cpp whose converter knows Llama."""
    folder = write_llama_cpp(tmp_path / "llama.cpp")
    monkeypatch.setenv("TUNESMITH_LLAMA_CPP", str(folder))
    return folder
