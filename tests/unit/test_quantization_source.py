"""What can be made of a file, by its type and where it comes from."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from support.builders import stage_config, work_of
from tunesmith_stages.chat_template import guarded
from tunesmith_stages.contract import ExitCode, Input, StageName
from tunesmith_stages.gguf_file import FILE_TYPES, TEMPLATE, GgufFile, GgufTensor
from tunesmith_stages.program import StageError
from tunesmith_stages.quantization_source import Source, require_possible, source_of

Q8_0, MXFP4, BF16, F32 = 8, 39, 30, 0  # ggml's numbers


def source(kind: str, *tensors: int, is_base: bool = False, more: Mapping[str, Any] | None = None) -> Source:
    """Return a file of this type with a tensor of each of ggml's types."""
    listed = tuple(GgufTensor(f"blk.{number}.x", (256, 2), stored) for number, stored in enumerate(tensors))
    given = {"general.architecture": "llama", "general.file_type": FILE_TYPES.get(kind)}
    return Source(GgufFile(Path("model.gguf"), {**given, **(more or {})}, listed, 0, 0), is_base)


POSSIBLE: dict[str, tuple[Source, str, bool]] = {
    "from 16 bits": (source("BF16", BF16, F32), "Q4_K_M", False),
    "to more bits": (source("BF16", BF16), "F32", False),
    "with a matrix": (source("BF16", BF16), "IQ2_XXS", True),
    "from Q8_0 that the job asked for": (source("Q8_0", Q8_0, F32), "Q4_K_M", False),
    "experts": (source("BF16", BF16, more={"llama.expert_count": 8}), "MXFP4_MOE", False),
    "a model that is trained in blocks": (source("BF16", BF16, MXFP4), "Q8_0", False),
    "a GGUF of 16 bits": (source("F16", 1, F32, is_base=True), "Q4_K_M", False),
    "a GGUF that does not say its type": (source("?", 1, is_base=True), "Q4_K_M", False),
}


@pytest.mark.parametrize("name", POSSIBLE)
def test_what_is_possible(name: str) -> None:
    """What llama-quantize does well passes."""
    given, kind, imatrix = POSSIBLE[name]
    require_possible(given, kind, imatrix=imatrix)


def test_matrix_for_a_gguf_is_refused_though_it_is_asked_for() -> None:
    """A job that wants a matrix for every type is told that there is no data to compute it on."""
    for kind in ("Q4_K_M", "IQ2_XXS"):
        with pytest.raises(StageError) as caught:
            require_possible(source("F16", 1, is_base=True), kind, imatrix=True)
        assert caught.value.reason == "ImatrixNeedsData"


REFUSED: dict[str, tuple[Source, str, str, str]] = {
    "no matrix": (source("BF16", BF16), "IQ1_S", "ImatrixNeeded", "importanceMatrix"),
    "no data for one": (source("F16", 1, is_base=True), "IQ1_S", "ImatrixNeedsData", "needs none"),
    "no experts": (source("BF16", BF16), "MXFP4_MOE", "QuantizationDoesNotFit", "Q8_0"),
    "not for Ollama": (source("BF16", BF16), "TQ1_0", "QuantizationNotServed", "IQ2_XXS"),
    "a GGUF in blocks": (source("Q8_0", Q8_0, is_base=True), "Q4_0", "AlreadyQuantized", "ask for Q8_0"),
    "a GGUF in blocks of unknown type": (source("?", Q8_0, is_base=True), "Q4_0", "AlreadyQuantized", "F16"),
    "Q8_0 to more bits": (source("Q8_0", Q8_0), "BF16", "AlreadyQuantized", "ask for Q8_0"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(name: str) -> None:
    """What cannot be made, or would only lose, is refused with the reason and what to do."""
    given, kind, reason, hint = REFUSED[name]
    with pytest.raises(StageError) as caught:
        require_possible(given, kind, imatrix=False)
    assert (caught.value.code, caught.value.reason) == (ExitCode.BAD_CONFIG, reason)
    assert hint in caught.value.hint


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        pytest.param(
            source("F16", 1, is_base=True, more={TEMPLATE: "{{ x }}"}), guarded("{{ x }}"), id="from elsewhere"
        ),
        pytest.param(source("F16", 1, is_base=True, more={TEMPLATE: guarded("{{ x }}")}), None, id="from one of ours"),
        pytest.param(source("F16", 1, more={TEMPLATE: "{{ x }}"}), None, id="converted"),
    ],
)
def test_template_that_servers_could_replace_gets_its_guard(given: Source, expected: str | None) -> None:
    """Only a template that came with a GGUF from elsewhere is changed, and only by a comment."""
    assert given.new_template == expected


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        pytest.param(b"GGUF\x03\0\0\0" + bytes(16), "GgufWithoutTemplate", id="no template"),
        pytest.param(b"PK\x03\x04" + bytes(40), "DamagedModelFile", id="no GGUF"),
        pytest.param(
            b"GGUF" + struct.pack("<IQQQcIQIQ", 3, 1, 0, 1, b"x", 1, 64, 0, 0), "DamagedModelFile", id="cut short"
        ),
    ],
)
def test_base_that_is_no_model_to_talk_with(tmp_path: Path, content: bytes, reason: str) -> None:
    """A file that is no GGUF, or one without a chat template, is refused before anything is made of it."""
    folder = tmp_path / "store" / "models" / "x"
    folder.mkdir(parents=True)
    (folder / "model.gguf").write_bytes(content)
    inputs = {"base": Input("store/models/x", "x")}
    with pytest.raises(StageError) as caught:
        source_of(work_of(stage_config(tmp_path, StageName.QUANTIZE, params={"type": "Q4_0"}, inputs=inputs)))
    assert caught.value.reason == reason
