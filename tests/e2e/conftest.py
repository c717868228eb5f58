"""What the tests of the real chain share: a toy base, made once, and Ollama servers."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest

from support.jobs import QUICKSTART
from support.ollama_server import OllamaServer, ollama_programs, ollama_server

_LONGEST = ("test_train_kills.py", "test_train_nodes.py", "test_chain.py", "test_demo.py")
"""Files that take minutes with few tests: begun last, each would leave the other worker without anything to do."""
_MADE_FROM = ("make_base.py", "base_corpus.py", "names.txt", "data/faq.json")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let the longest files come first, in their order; `--no-loadscope-reorder` keeps it so with several workers."""
    rank = {name: place for place, name in enumerate(_LONGEST)}
    items.sort(key=lambda item: rank.get(item.path.name, len(_LONGEST)))


@pytest.fixture(scope="session")
def toy_base() -> Path:
    """Return the folder of the quickstart's base model; it is kept in the cache, by what it is made from and by."""
    made_from = b"".join((QUICKSTART / name).read_bytes() for name in _MADE_FROM)
    digest = hashlib.sha256(made_from + version("transformers").encode()).hexdigest()[:16]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tunesmith" / "toy-base"
    folder = cache / digest
    if not folder.is_dir():
        making = cache / f".{digest}.{os.getpid()}"
        shutil.rmtree(making, ignore_errors=True)
        subprocess.run([sys.executable, QUICKSTART / "make_base.py", "--out", making], check=True)
        try:
            making.rename(folder)
        except OSError:  # another process has made it meanwhile
            shutil.rmtree(making)
            if not folder.is_dir():
                raise
    return folder


@pytest.fixture(scope="session")
def newest_ollama(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OllamaServer]:
    """Yield a server of the newest pinned Ollama."""
    with ollama_server(ollama_programs()[-1], tmp_path_factory.mktemp("ollama") / "models") as server:
        yield server
