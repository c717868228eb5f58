from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from support.bigram_model import write_gguf
from support.builders import CHATML
from tunesmith_stages.gguf_file import NAME, TEMPLATE, read_gguf
from tunesmith_stages.ollama_gate import API
from tunesmith_stages.program import Work
from tunesmith_stages.register.candidates import Candidate
from tunesmith_stages.rehearse.way_out import candidate_of
from tunesmith_stages.volume import Volume


@pytest.fixture(scope="module")
def twin(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("twin") / "model.gguf"
    write_gguf(path, template=CHATML)
    return path.read_bytes()


def candidate(folder: Path, twin: bytes, key: str, attempt: str) -> Candidate:
    made = folder / "quantize" / "out"
    made.mkdir(parents=True)
    (made / "model.gguf").write_bytes(twin)
    config, unit = SimpleNamespace(attempt=attempt), SimpleNamespace(key=key)
    volume = Volume(folder.parent)
    work = SimpleNamespace(folder=folder, config=config, unit=unit, runtime={"method": API}, volume=volume)
    found, parameters = candidate_of(cast(Work, work), {})
    assert parameters["num_ctx"] > 0
    return found


def test_no_two_rehearsals_have_a_file_in_common(tmp_path: Path, twin: bytes) -> None:
    """A server removes a model's file with the model: two jobs with one base must not go by the same one."""
    tries = {"one": ("a" * 64, "1"), "another job": ("b" * 64, "1"), "another attempt": ("a" * 64, "2")}
    found = {what: candidate(tmp_path / what, twin, *each) for what, each in tries.items()}
    assert len({each.sha256 for each in found.values()}) == len(tries)
    for each in found.values():
        gguf = read_gguf(each.gguf)
        assert (gguf.metadata[NAME], gguf.metadata[TEMPLATE]) == (each.check_name, CHATML)
