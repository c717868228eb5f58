from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tunesmith_stages.convert.folder import assemble, link_weights, read_config, token_text
from tunesmith_stages.program import StageError


def base(folder: Path) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text('{"architectures": ["LlamaForCausalLM"]}')
    tokens = [{"id": 7, "content": "<s>", "special": True}]
    (folder / "tokenizer.json").write_text(json.dumps({"added_tokens": tokens}))
    (folder / "tokenizer_config.json").write_text('{"eos_token": "</s>", "chat_template": "old"}')
    (folder / "chat_template.jinja").write_text("older")
    return folder


def test_template_stands_in_one_place_only(tmp_path: Path) -> None:
    """The converter finds our template and no other, whichever place the base used."""
    source, merged = base(tmp_path / "base"), tmp_path / "merged"
    merged.mkdir()
    assemble(merged, source, source, "new ü\n")
    config = json.loads((merged / "tokenizer_config.json").read_text(encoding="utf-8"))
    assert config == {"eos_token": "</s>", "chat_template": "new ü\n"}
    assert not (merged / "chat_template.jinja").exists()
    assert (merged / "tokenizer.json").read_text() == (source / "tokenizer.json").read_text()
    assert json.loads((source / "tokenizer_config.json").read_text())["chat_template"] == "old"


def test_code_of_the_model_is_left_out(tmp_path: Path) -> None:
    """What would make transformers run code that came with the model does not reach the converter."""
    source, merged = base(tmp_path / "base"), tmp_path / "merged"
    merged.mkdir()
    code = {"AutoConfig": "evil.Config", "AutoTokenizer": [None, "evil.Tokenizer"]}
    for name in ("config.json", "tokenizer_config.json"):
        content = json.loads((source / name).read_text())
        (source / name).write_text(json.dumps({**content, "auto_map": code}))
    assemble(merged, source, source, "new")
    for name in ("config.json", "tokenizer_config.json"):
        assert "auto_map" not in json.loads((merged / name).read_text())


def test_control_token_is_looked_up(tmp_path: Path) -> None:
    """A token's text is what the tokenizer's own file says; a token that is not there has none."""
    source = base(tmp_path / "base")
    assert [token_text(source, token) for token in (7, 8, None)] == ["<s>", "", ""]


def test_full_weights_are_used_as_they_are(tmp_path: Path) -> None:
    """After a full fine-tuning nothing is copied."""
    trained, merged = tmp_path / "trained", tmp_path / "merged"
    trained.mkdir()
    merged.mkdir()
    save_file({"a": torch.ones(2)}, trained / "model.safetensors")
    link_weights(merged, trained)
    assert (merged / "model.safetensors").resolve() == trained / "model.safetensors"


def test_empty_tensors_are_refused(tmp_path: Path) -> None:
    """A ZeRO-3 save that was not gathered holds tensors without content."""
    save_file({"a": torch.ones(2), "b": torch.empty(0)}, tmp_path / "model.safetensors")
    (tmp_path / "merged").mkdir()
    with pytest.raises(StageError, match="1 empty tensors: b"):
        link_weights(tmp_path / "merged", tmp_path)


@pytest.mark.parametrize(("text", "reason"), [(None, "MissingConfig"), ("{", "BadConfigFile"), ("[]", "BadConfigFile")])
def test_config_that_cannot_be_read_is_named(tmp_path: Path, text: str | None, reason: str) -> None:
    """A missing or damaged config.json is named with its path."""
    if text is not None:
        (tmp_path / "config.json").write_text(text)
    with pytest.raises(StageError, match=r"config\.json") as caught:
        read_config(tmp_path)
    assert caught.value.reason == reason
