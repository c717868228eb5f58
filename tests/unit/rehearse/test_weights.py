from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from support.toy_base import CONFIG, Tensors, change_json, change_tensors, write_tensors, write_toy_base
from tunesmith_stages.program import StageError
from tunesmith_stages.rehearse import weights
from tunesmith_stages.rehearse.finite import are_finite
from tunesmith_stages.rehearse.weights import weights_of


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return write_toy_base(tmp_path / "base")


def reason_of(check: Callable[[], str]) -> str:
    with pytest.raises(StageError) as caught:
        check()
    assert caught.value.hint
    return caught.value.reason


def test_modules_of_the_base_pass(base: Path) -> None:
    """A target is the end of a module's name; AllLinear needs no look."""
    for targets in (["q_proj"], ["self_attn.q_proj"], ["AllLinear"], []):
        weights.require_modules(weights_of(base), targets)


@pytest.mark.parametrize("target", ["q_prj", "proj", "norm"])
def test_other_modules_are_refused(base: Path, target: str) -> None:
    """A target that is no matrix of the base is refused, with those that are."""
    with pytest.raises(StageError, match="it has down_proj, embed_tokens") as caught:
        weights.require_modules(weights_of(base), [target])
    assert caught.value.reason == "TargetModuleUnknown"


def test_whole_base_passes(base: Path) -> None:
    """A base that is whole passes every check, and the sentences hold its figures."""
    found = weights_of(base)
    assert weights.are_floats(CONFIG, found) == "30 tensors of BF16"
    assert weights.are_not_empty(found) == f"{found.bytes:,} bytes"
    assert weights.vocabulary_fits(base, CONFIG, found).endswith(" tokens, 512 rows")
    assert are_finite(found, lambda _: None) == f"{found.bytes // 2:,} numbers are finite"


@pytest.mark.parametrize("dtype", ["U8", "I8", "I32"])
def test_numbers_that_cannot_be_trained_are_refused(base: Path, dtype: str) -> None:
    """Weights in whole numbers are those of a quantized model, whatever config.json says."""

    def change(tensors: Tensors) -> None:
        tensors["model.norm.weight"] = (dtype, np.ones((64,), np.float32))

    change_tensors(base, change)
    assert reason_of(lambda: weights.are_floats(CONFIG, weights_of(base))) == "QuantizedBase"


def test_masks_and_positions_are_no_quantized_weights(base: Path) -> None:
    """Whole numbers that older models carry along, as GPT-NeoX does its mask of attention, are none of the weights."""

    def change(tensors: Tensors) -> None:
        tensors["gpt_neox.layers.0.attention.bias"] = ("U8", np.ones((1, 1, 8, 8), np.float32))
        tensors["embeddings.position_ids"] = ("I32", np.ones((1, 8), np.float32))

    change_tensors(base, change)
    assert weights.are_floats(CONFIG, weights_of(base)).startswith("32 tensors of ")
    assert are_finite(weights_of(base), lambda _: None)


@pytest.mark.parametrize("place", ["", "text_config"])
def test_quantized_base_is_refused_by_its_configuration(base: Path, place: str) -> None:
    """A configuration that names a method of quantization is refused, and the method is named."""
    settings = {"quantization_config": {"quant_method": "awq"}}
    config = {**CONFIG, place: settings} if place else {**CONFIG, **settings}
    with pytest.raises(StageError, match="by awq"):
        weights.are_floats(config, weights_of(base))


def test_empty_tensor_is_named(base: Path) -> None:
    """Tensors without content are refused, with their names."""

    def change(tensors: Tensors) -> None:
        tensors["model.norm.weight"] = ("BF16", np.zeros((0,), np.float32))

    change_tensors(base, change)
    with pytest.raises(StageError, match=r"model\.norm\.weight"):
        weights.are_not_empty(weights_of(base))


def test_tokens_that_no_row_uses_count_too(base: Path) -> None:
    """A token of the vocabulary beyond the embedding is refused though no data may ever hold it."""
    path = base / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    tokenizer["model"]["vocab"]["zzz"] = 512
    path.write_text(json.dumps(tokenizer))
    assert reason_of(lambda: weights.vocabulary_fits(base, CONFIG, weights_of(base))) == "TokensBeyondEmbedding"


@pytest.mark.parametrize("size", [511, 513, -1])
def test_vocabulary_size_is_that_of_the_weights(base: Path, size: int) -> None:
    """`vocab_size` must be the number of rows of the embedding: llama.cpp goes by the one, training by the other."""
    change_json(base, "config.json", vocab_size=size)
    config = json.loads((base / "config.json").read_text())
    assert reason_of(lambda: weights.vocabulary_fits(base, config, weights_of(base))) == "VocabularySizeDiffers"


# --- every number ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "kind"), [("F16", np.float16), ("BF16", None)])
def test_every_pattern_of_16_bits_is_judged_rightly(tmp_path: Path, dtype: str, kind: type[np.float16] | None) -> None:
    """Of all 65,536 numbers of a format, exactly those that are not finite are refused."""
    patterns = np.arange(1 << 16, dtype=np.uint32)
    if kind is None:
        finite = np.isfinite((patterns << 16).view(np.float32))
    else:
        finite = np.isfinite(patterns.astype(np.uint16).view(kind))
    path = tmp_path / "model.safetensors"
    write_tensors(path, {"a": (dtype, np.zeros(1 << 16, np.float32))})
    data = bytearray(path.read_bytes())
    data[-(2 << 16) :] = patterns.astype("<u2").tobytes()
    path.write_bytes(data)
    with pytest.raises(StageError, match=rf"^{(~finite).sum():,} of the 65,536 numbers of a "):
        are_finite(weights_of(tmp_path), lambda _: None)
    patterns[~finite] = 0
    data[-(2 << 16) :] = patterns.astype("<u2").tobytes()
    path.write_bytes(data)
    assert are_finite(weights_of(tmp_path), lambda _: None) == "65,536 numbers are finite"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("place", [0, 4_194_303, 4_194_304, 5_000_000, -1])
def test_one_number_anywhere_is_enough(tmp_path: Path, place: int, value: float) -> None:
    """A single number is found at the beginning, at the end, and on both sides of where one block ends."""
    numbers = np.ones(5_000_001, np.float32)
    numbers[place] = value
    write_tensors(tmp_path / "model.safetensors", {"a": ("BF16", np.ones(3, np.float32)), "b": ("F32", numbers)})
    with pytest.raises(StageError, match=r"^1 of the 5,000,001 numbers of b "):
        are_finite(weights_of(tmp_path), lambda _: None)
