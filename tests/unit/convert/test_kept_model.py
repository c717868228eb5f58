from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tunesmith_stages.convert.kept_model import keep, with_end

ENDS: dict[str, tuple[dict[str, Any], Any]] = {
    "none": ({}, 7),
    "that one": ({"eos_token_id": 7}, 7),
    "another": ({"eos_token_id": 2}, [7, 2]),
    "several": ({"eos_token_id": [2, 7]}, [2, 7]),
}


@pytest.mark.parametrize("name", ENDS)
def test_generation_stops_at_the_end_of_a_turn(name: str) -> None:
    """Whatever ends the base knew, the one that was trained is among them."""
    given, expected = ENDS[name]
    assert with_end({**given, "top_k": 3}, 7) == {"eos_token_id": expected, "top_k": 3}


def test_merged_weights_are_moved_and_trained_ones_shared(tmp_path: Path) -> None:
    """No weights are written twice; the template stands in one place, as it was trained with."""
    base, assembled, trained = (tmp_path / name for name in ("base", "assembled", "trained"))
    for folder in (base, assembled, trained):
        folder.mkdir()
    (base / "tokenizer.json").write_text("{}")
    (base / "generation_config.json").write_text('{"temperature": 0.6}')
    (trained / "model-2.safetensors").write_text("trained")
    (assembled / "model-1.safetensors").write_text("merged")
    (assembled / "model-2.safetensors").symlink_to(trained / "model-2.safetensors")
    (assembled / "config.json").write_text('{"model_type": "llama"}')
    (assembled / "tokenizer_config.json").write_text('{"chat_template": "guarded", "eos_token": "</s>"}')
    keep(tmp_path / "kept", assembled, base, chat_template=b"as trained\r\n", end_of_turn=7)
    kept = {path.name: path for path in (tmp_path / "kept").iterdir()}
    assert not any(path.is_symlink() for path in kept.values())
    assert kept["model-1.safetensors"].read_text() == "merged"
    assert not (assembled / "model-1.safetensors").exists()
    assert kept["model-2.safetensors"].samefile(trained / "model-2.safetensors")
    assert kept["chat_template.jinja"].read_bytes() == b"as trained\r\n"
    assert json.loads(kept["tokenizer_config.json"].read_text()) == {"eos_token": "</s>"}
    assert json.loads(kept["generation_config.json"].read_text()) == {"temperature": 0.6, "eos_token_id": 7}
    assert set(kept) - {path.name for path in base.iterdir()} == {
        "chat_template.jinja",
        "config.json",
        "model-1.safetensors",
        "model-2.safetensors",
        "tokenizer_config.json",
    }
