from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tunesmith_stages.architectures import architecture_of, require_supported
from tunesmith_stages.contract import ExitCode
from tunesmith_stages.program import StageError
from tunesmith_stages.tools import LlamaCpp

CONVERTER = """
import torch_that_is_not_there
TEXT_MODEL_MAP: dict[str, str] = {
    "LlamaForCausalLM": "llama",
    "Qwen2ForCausalLM": "qwen",
}
MMPROJ_MODEL_MAP: dict[str, str] = {"VisionForCausalLM": "vision"}
"""


@pytest.fixture
def llama(tmp_path: Path) -> LlamaCpp:
    folder = tmp_path / "convert" / "conversion"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text(CONVERTER)
    return LlamaCpp(tmp_path, "1")


def test_known_architecture_is_returned(llama: LlamaCpp) -> None:
    """The converter's table is read without importing the converter."""
    assert require_supported({"architectures": ["Qwen2ForCausalLM"]}, llama) == "Qwen2ForCausalLM"


UNKNOWN: dict[str, tuple[dict[str, Any], str]] = {
    "unknown": ({"architectures": ["Lama4ForCausalLM"]}, "'Lama4ForCausalLM'"),
    "a vision part": ({"architectures": ["VisionForCausalLM"]}, "'VisionForCausalLM'"),
    "none named": ({}, "names no architecture"),
    "empty list": ({"architectures": []}, "names no architecture"),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_unknown_architecture_is_refused_by_name(llama: LlamaCpp, name: str) -> None:
    """A base that can't be exported is refused with its architecture's name."""
    config, message = UNKNOWN[name]
    with pytest.raises(StageError, match=message) as caught:
        require_supported(config, llama)
    assert (caught.value.code, caught.value.reason) == (ExitCode.BAD_CONFIG, "UnsupportedArchitecture")


def test_text_part_of_a_larger_model_counts() -> None:
    """The converter looks at the text part's own architecture where there is one."""
    config = {"architectures": ["BigForConditionalGeneration"], "text_config": {"architectures": ["LlamaForCausalLM"]}}
    assert architecture_of(config) == "LlamaForCausalLM"
