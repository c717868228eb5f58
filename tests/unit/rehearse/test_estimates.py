from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from support.toy_base import CONFIG, write_tensors, write_toy_base
from tunesmith_stages.rehearse.estimates import Training, activations, disk, memory, operations, training_of
from tunesmith_stages.rehearse.model_shape import ModelShape, adapter_parameters, shape_of
from tunesmith_stages.rehearse.room import bits_of
from tunesmith_stages.rehearse.weights import weights_of
from tunesmith_stages.train.methods import Method

GB = 10**9
LLAMA_7B = ModelShape(
    parameters=6_738_415_616,
    active=6_738_415_616,
    largest=32000 * 4096,
    layers=32,
    hidden=4096,
    attention=4096,
    keys=4096,
    inner=11008,
    vocabulary=32000,
)
FULL = Training(
    full=True,
    trained=LLAMA_7B.parameters,
    word=2,
    zero_stage=0,
    checkpointing=True,
    micro_batch=1,
    accumulation=1,
    ranks=1,
    longest=2048,
    rows=1000,
    tokens=500_000,
    epochs=3.0,
    max_steps=None,
)


def states(stage: int, ranks: int, parameters: int = 7_500_000_000) -> float:
    """Return the GB of weights, gradients and optimizer on each GPU."""
    model = dataclasses.replace(LLAMA_7B, parameters=parameters, largest=0)
    training = dataclasses.replace(FULL, trained=parameters, zero_stage=stage, ranks=ranks)
    parts = memory(model, training)
    return (parts["weights"] + parts["gradients"] + parts["optimizer"]) / GB


@pytest.mark.parametrize(("stage", "ranks", "published"), [(2, 64, 16.6), (3, 64, 1.9), (3, 8, 15.0)])
def test_states_are_those_of_the_paper(stage: int, ranks: int, published: float) -> None:
    """For 7.5 billion parameters, ZeRO's paper (figure 1) has these figures; gradients in float32 come on top."""
    on_top = 4 * 7.5 / ranks
    assert states(stage, ranks) - on_top == pytest.approx(published, rel=0.03)


def test_what_saves_memory_shows() -> None:
    """4 bits for a weight, no state of the optimizer, no weights on the GPU, the last layers alone: each saves."""
    parts = memory(LLAMA_7B, FULL)
    lora = dataclasses.replace(FULL, full=False, trained=40_000_000)
    four_bits = dataclasses.replace(lora, quantized=6_500_000_000)
    saved = memory(LLAMA_7B, lora)["weights"] - memory(LLAMA_7B, four_bits)["weights"]
    assert saved == pytest.approx((2 - 0.516) * 6.5e9, rel=1e-6)
    offloaded = memory(LLAMA_7B, dataclasses.replace(FULL, zero_stage=2, offload_optimizer=True))
    assert offloaded["optimizer"] == 0
    assert offloaded["gradients"] < parts["gradients"]
    bare = memory(LLAMA_7B, dataclasses.replace(FULL, zero_stage=3, offload_parameters=True))
    assert bare["weights"] == 2 * 2 * LLAMA_7B.largest
    last = dataclasses.replace(FULL, trained=LLAMA_7B.parameters // 16, layers=2, checkpointing=False)
    everywhere = dataclasses.replace(FULL, checkpointing=False)
    assert memory(LLAMA_7B, last)["activations"] < memory(LLAMA_7B, everywhere)["activations"] / 4
    assert operations(LLAMA_7B, last) < operations(LLAMA_7B, FULL) / 2


def test_known_trainings() -> None:
    """What is known to fit fits, and what is known not to does not: full training and LoRA of a 7B on 80 GB GPUs."""
    on_one = sum(memory(LLAMA_7B, FULL).values())
    on_eight = sum(memory(LLAMA_7B, dataclasses.replace(FULL, zero_stage=3, ranks=8)).values())
    lora = dataclasses.replace(FULL, full=False, trained=40_000_000)
    assert on_one > 120 * GB
    assert on_eight < 30 * GB
    assert 13.5 * GB < sum(memory(LLAMA_7B, lora).values()) < 20 * GB


MEASURED = {
    ("FP32", False): 1064,
    ("FP32", True): 438,
    ("BF16", False): 752,
    ("BF16", True): 416,
}
"""MB that a forward and a backward pass took at most, measured on a CPU, beside weights and gradients."""


@pytest.mark.parametrize(("precision", "checkpointing"), MEASURED)
def test_activations_are_those_measured(precision: str, checkpointing: bool) -> None:
    """A Llama of 8 layers, 512 wide, took so much for 4 rows of 512 tokens."""
    model = ModelShape(0, 0, 0, layers=8, hidden=512, attention=512, keys=128, inner=1408, vocabulary=16000)
    word = 4 if precision == "FP32" else 2
    training = dataclasses.replace(FULL, word=word, checkpointing=checkpointing, micro_batch=4, longest=512)
    assert activations(model, training) / 1e6 == pytest.approx(MEASURED[precision, checkpointing], rel=0.1)


MEASURED_OF_PAIRS = {
    ("FP32", False): 985,
    ("FP32", True): 363,
    ("BF16", False): 563,
    ("BF16", True): 217,
}
"""The same, of 2 pairs of 512 tokens each."""


@pytest.mark.parametrize(("precision", "checkpointing"), MEASURED_OF_PAIRS)
def test_activations_of_pairs_are_those_measured(precision: str, checkpointing: bool) -> None:
    """Two pairs are four sequences, whose loss takes less memory than that of supervised fine-tuning."""
    model = ModelShape(0, 0, 0, layers=8, hidden=512, attention=512, keys=128, inner=1408, vocabulary=16000)
    word = 4 if precision == "FP32" else 2
    training = dataclasses.replace(FULL, word=word, checkpointing=checkpointing, micro_batch=2, longest=512)
    pairs = dataclasses.replace(training, method=Method.DPO)
    assert activations(model, pairs) / 1e6 == pytest.approx(MEASURED_OF_PAIRS[precision, checkpointing], rel=0.1)


def test_disk_of_a_full_training() -> None:
    """A checkpoint of a 7B model has 14 bytes for each parameter; one more than are kept lies there for a while."""
    needed = disk(LLAMA_7B, FULL, keep=1, out_bits=16, type_bits=[5])
    assert needed == 2 * LLAMA_7B.parameters + 2 * 14 * LLAMA_7B.parameters


def test_disk_of_an_adapter() -> None:
    """With LoRA, the merged model and the files made of it are the most."""
    lora = dataclasses.replace(FULL, full=False, trained=1_000_000)
    assert disk(LLAMA_7B, lora, 2, 16, [5, 9]) == 2_000_000 + LLAMA_7B.parameters * (2 + 2) + round(
        LLAMA_7B.parameters * 14 / 8
    )


def test_disk_where_something_is_there_already() -> None:
    """Checkpoints of an earlier attempt are not asked for again; what a done training took is not asked for at all."""
    files = round(LLAMA_7B.parameters * 16 / 8)
    fresh = disk(LLAMA_7B, FULL, 2, 16, [])
    assert fresh - disk(LLAMA_7B, FULL, 2, 16, [], checkpoints=5 << 30) == 5 << 30
    assert disk(LLAMA_7B, FULL, 2, 16, [], checkpoints=fresh) == 2 * LLAMA_7B.parameters + files
    assert disk(LLAMA_7B, FULL, 2, 16, [], is_trained=True) == files


def test_steps_and_operations() -> None:
    """Epochs are counted in whole steps; a training of all weights has six operations for each parameter and token."""
    training = dataclasses.replace(FULL, micro_batch=4, accumulation=2, ranks=2, checkpointing=False)
    assert training.steps == 189  # 63 steps of 16 rows, three times
    assert training.all_tokens == 500 * 16 * 189
    assert operations(LLAMA_7B, training) == 6 * LLAMA_7B.parameters * training.all_tokens
    assert dataclasses.replace(training, max_steps=5).steps == 5


@pytest.mark.parametrize(("method", "forward"), [(Method.DPO, 1000), (Method.ORPO, 0), (Method.KTO, 2 * 1000 + 3000)])
def test_operations_of_a_method(method: Method, forward: int) -> None:
    """The base is asked once about each row, KTO's mismatched answers are taken through the model in every step."""
    training = dataclasses.replace(FULL, rows=10, tokens=1000, checkpointing=False, method=method)
    assert training.all_tokens == 3000
    assert operations(LLAMA_7B, training) == LLAMA_7B.parameters * (6 * 3000 + 2 * forward)
    few = dataclasses.replace(training, max_steps=2)
    assert few.forward_tokens == {Method.DPO: 200, Method.ORPO: 0, Method.KTO: 600}[method]


def test_what_an_edge_says() -> None:
    """Without GPUs the processes are the ranks; steps that are given take precedence."""
    said = {"finetuningType": "LoRA", "precision": "BF16", "zeroStage": 2, "gradientCheckpointing": True}
    said |= {"perDeviceTrainBatchSize": 2, "gradientAccumulationSteps": 4, "nodes": 3}
    said |= {"gpusPerNode": 0, "processesPerNode": 2, "maxSteps": 7, "numTrainEpochs": None}
    said |= {"lora": {"rank": 4}, "trainableLayers": None, "offloadOptimizer": True, "offloadParameters": False}
    training = training_of(said, 10, 5, [3, 9, 6])
    assert (training.ranks, training.longest, training.tokens, training.steps) == (6, 9, 18, 7)
    assert (training.full, training.trained, training.quantized, training.offload_optimizer) == (False, 10, 5, True)
    assert (training.method, training.rows, training.sequences) == (None, 3, 2)
    pairs = training_of({**said, "method": "ORPO"}, 10, 5, [3, 9, 6, 4])
    assert (pairs.method, pairs.rows, pairs.tokens, pairs.sequences) == (Method.ORPO, 2, 22, 4)


def test_shape_of_a_base(tmp_path: Path) -> None:
    """Sizes come from the heads of the files and from the configuration."""
    base = weights_of(write_toy_base(tmp_path / "base"))
    shape = shape_of(CONFIG, base)
    assert shape.parameters == sum(info.elements for info in base.tensors.values()) == shape.active
    assert (shape.layers, shape.hidden, shape.attention, shape.keys) == (3, 64, 64, 32)
    assert (shape.inner, shape.vocabulary, shape.largest) == (128, 512, 512 * 64)


def test_adapter_of_all_linear_modules(tmp_path: Path) -> None:
    """An adapter of rank r has r numbers for each row and each column of each matrix within the layers."""
    base = weights_of(write_toy_base(tmp_path / "base"))
    each = (64 + 64) * 2 + (64 + 32) * 2 + (64 + 128) * 3
    assert adapter_parameters(base, ["AllLinear"], 8) == 8 * 3 * each
    assert adapter_parameters(base, ["q_proj"], 8) == 8 * 3 * (64 + 64)


EXPERTS = {
    "model.layers.0.self_attn.q_proj.weight": (64, 32),
    "model.layers.0.mlp.gate.weight": (4, 32),
    "model.layers.0.mlp.experts.0.gate_proj.weight": (16, 32),
    "model.layers.0.mlp.experts.0.down_proj.weight": (32, 16),
    "model.layers.0.mlp.shared_expert.gate_proj.weight": (128, 32),
    "model.layers.0.mlp.shared_expert_gate.weight": (1, 32),
    "model.layers.0.input_layernorm.weight": (32,),
    "lm_head.weight": (512, 32),
}


def test_adapter_of_a_mixture_of_experts(tmp_path: Path) -> None:
    """Neither experts nor what chooses among them are counted; experts not even where they are named."""
    tensors = {name: ("BF16", np.ones(shape, np.float32)) for name, shape in EXPERTS.items()}
    write_tensors(tmp_path / "model.safetensors", tensors)
    base = weights_of(tmp_path)
    assert adapter_parameters(base, ["AllLinear"], 8) == 8 * ((64 + 32) + (128 + 32))
    assert adapter_parameters(base, ["gate_proj"], 8) == 8 * (128 + 32)


@pytest.mark.parametrize(("kind", "bits"), [("F16", 16), ("BF16", 16), ("F32", 32), ("Q8_0", 9), ("Q4_K_M", 5)])
def test_bits_of_a_type(kind: str, bits: int) -> None:
    """A type's name says how many bits its weights have; its scales take less than one more."""
    assert bits_of(kind) == bits
