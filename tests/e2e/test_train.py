"""Stage `train` as it runs: torchrun and DeepSpeed on the CPU, on a tiny Llama with random weights."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from support.prepared import VOCABULARY, write_base, write_prepared
from support.training import (
    EPOCHS,
    EVERY,
    PATIENCE,
    STEPS,
    alive,
    check_same_end,
    failure,
    notes_of,
    out,
    ranks_of,
    started,
    steps_done,
    train,
    wait_for,
)
from tunesmith_stages.contract import ExitCode, StageName
from tunesmith_stages.program import StageError
from tunesmith_stages.train.metrics import read_metrics
from tunesmith_stages.train.model import check_targets, check_vocabulary
from tunesmith_stages.train.save import check_saved, save_model
from tunesmith_stages.volume import Volume

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def volume(tmp_path_factory: pytest.TempPathFactory) -> Volume:
    """Return a volume with a base and prepared rows."""
    root = tmp_path_factory.mktemp("volume")
    write_base(root / "base")
    write_prepared(root / "prepared", train=42, validation=9)
    return Volume(root)


# --- what comes out --------------------------------------------------------------------------------------------------

FULL = {"finetuningType": "Full", "lora": None, "learningRate": "5e-3"}
ONE = {"processesPerNode": 1, "gradientAccumulationSteps": 2}
CASES = [
    pytest.param({"zeroStage": 3, "precision": "FP32"}, ONE, id="LoRA, ZeRO 3, 1 process, FP32"),
    pytest.param({**FULL, "zeroStage": 2}, ONE, id="Full, ZeRO 2, 1 process", marks=pytest.mark.nightly),
    pytest.param({**FULL, "zeroStage": 3, "gradientCheckpointing": True}, {}, id="Full, ZeRO 3, 2 processes"),
]


@pytest.fixture(scope="module")
def undisturbed(volume: Volume) -> str:
    """Return the key of a training with LoRA and ZeRO 2 in two processes that nothing disturbed."""
    train(volume, "undisturbed", params=EPOCHS, runtime=EVERY)
    return "undisturbed"


def test_trains_lora_on_two_processes(volume: Volume, undisturbed: str) -> None:
    """It learns, tells what it does, and what is saved is what was trained."""
    check_trained(volume, undisturbed, {})


@pytest.mark.parametrize(("params", "runtime"), CASES)
def test_trains(
    volume: Volume, request: pytest.FixtureRequest, params: Mapping[str, Any], runtime: Mapping[str, Any]
) -> None:
    """Whatever the method, ZeRO stage and number of processes: it learns, and what is saved is what was trained."""
    key = request.node.callspec.id.replace(" ", "").replace(",", "-")
    train(volume, key, params={**EPOCHS, **params}, runtime={**EVERY, **runtime})
    check_trained(volume, key, params)


def test_packed_rows_are_trained_on_as_their_samples(tmp_path: Path) -> None:
    """Packing is proven before the first step, and gives the losses and the adapter that the samples give unpacked."""
    everything = {"globalBatchSize": 42, "zeroStage": 3, "precision": "FP32"}
    packed, plain = (Volume(tmp_path / name) for name in ("packed", "plain"))
    for volume, capacity in ((packed, 64), (plain, None)):
        write_base(volume.root / "base")
        write_prepared(volume.root / "prepared", train=42, validation=9, packed_to=capacity)
        train(
            volume, "k", params=everything, runtime={"perDeviceTrainBatchSize": 21, "evalSteps": 1, "saveSteps": None}
        )
    records = [read_metrics(volume.unit(StageName.TRAIN, "k") / "logs" / "metrics.jsonl") for volume in (packed, plain)]
    for name in ("loss", "evalLoss"):
        ours, theirs = ([event[name] for event in record if name in event] for record in records)
        assert len(ours) == 2
        assert ours == pytest.approx(theirs, abs=1e-4)
    adapters = [load_file(out(volume, "k") / "adapter_model.safetensors") for volume in (packed, plain)]
    for name, tensor in adapters[0].items():
        torch.testing.assert_close(tensor, adapters[1][name], rtol=0, atol=1e-3, msg=name)


def check_trained(volume: Volume, key: str, params: Mapping[str, Any]) -> None:
    """Look at everything that a training leaves."""
    result = volume.result(StageName.TRAIN, key)
    assert result is not None
    logs = volume.unit(StageName.TRAIN, key) / "logs"
    events = read_metrics(logs / "metrics.jsonl")
    losses = [event["loss"] for event in events if "loss" in event]
    assert [event["step"] for event in events if "loss" in event] == list(range(1, STEPS + 1))
    assert [event["step"] for event in events if "evalLoss" in event] == [11, 22, 33]
    assert sum(losses[-5:]) < sum(losses[:5])
    assert (logs / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert result.outputs["steps"] == result.numbers["steps"] == STEPS
    assert result.numbers["evalLoss"] == pytest.approx(events[-1]["evalLoss"], abs=1e-5)
    assert {"torch", "transformers", "deepspeed", "peft"} <= result.tools.keys()
    check_reference(volume, key, params)
    assert not volume.checkpoints(key).exists()
    assert str(volume.root) not in "".join(path.read_text() for path in out(volume, key).glob("*.json"))


def check_reference(volume: Volume, key: str, params: Mapping[str, Any]) -> None:
    """Load what was saved afresh and compare its next-token log-probabilities with those left by the training."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    full = params.get("finetuningType") == "Full"
    dtype = torch.float32 if params.get("precision") == "FP32" else torch.bfloat16
    source = out(volume, key) if full else volume.root / "base"
    model = AutoModelForCausalLM.from_pretrained(source, dtype=dtype)
    untrained = AutoModelForCausalLM.from_pretrained(volume.root / "base", dtype=dtype)
    if not full:
        model = PeftModel.from_pretrained(model, out(volume, key), autocast_adapter_dtype=False)
    prompts = json.loads((out(volume, key) / "reference.json").read_text())["prompts"]
    probes = json.loads((volume.root / "prepared" / "probes.json").read_text())["prompts"]
    assert [prompt["ids"] for prompt in prompts] == [probe["ids"] for probe in probes]
    for prompt in prompts:
        tokens, expected = zip(*prompt["top"], strict=True)
        assert len(tokens) == 64
        assert _log_probs(model, prompt["ids"], tokens) == pytest.approx(expected, abs=0.03)
        assert _log_probs(untrained, prompt["ids"], tokens) != pytest.approx(expected, abs=0.03)


def _log_probs(model: Any, ids: list[int], tokens: tuple[int, ...]) -> list[float]:
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0, -1].float().log_softmax(-1)
    return [float(logits[token]) for token in tokens]


# --- what interrupts it ----------------------------------------------------------------------------------------------


def test_a_damaged_checkpoint_is_not_gone_on_from(volume: Volume, undisturbed: str) -> None:
    """One wrong bit of one process is found, and the checkpoint before leads to the end of an undisturbed run."""
    key = "disturbed"
    kill_after(volume, key, "1", 8)
    check_another_world_size_is_refused(volume, key)
    check_another_layout_is_refused(volume, key)
    newest = damage_newest(volume.checkpoints(key))
    train(volume, key, "2", params=EPOCHS, runtime=EVERY)
    remarks = notes_of(volume.unit(StageName.TRAIN, key))
    assert any(f"step-{newest} is damaged" in remark and "zero_pp_rank_1" in remark for remark in remarks)
    assert f"going on from step {newest - 3}" in remarks
    check_same_end(volume, undisturbed, key)


def kill_after(volume: Volume, key: str, attempt: str, step: int) -> None:
    """Start a training and kill its program once `step` steps are done; `test_train_kills.py` has all other ends."""
    with started(volume, key, attempt, EPOCHS, EVERY) as process:
        progress = volume.attempt(StageName.TRAIN, key, attempt) / "progress.jsonl"
        wait_for(lambda: process.poll() is not None or steps_done(progress) >= step)
        assert process.poll() is None, process.communicate()[1]
        left = ranks_of(process.pid)
        assert len(left) == 2
        process.kill()
        process.wait(60)
    wait_for(lambda: not any(alive(pid) for pid in left))


def check_another_world_size_is_refused(volume: Volume, key: str) -> None:
    with started(volume, key, "other", EPOCHS, {**EVERY, **ONE}) as process:
        process.communicate(timeout=PATIENCE)
    assert process.returncode == ExitCode.BAD_CONFIG
    told = failure(volume, key, "other")
    assert told["reason"] == "WorldSizeChanged"
    assert "2 processes" in told["hint"]


def check_another_layout_is_refused(volume: Volume, key: str) -> None:
    dealt_out = {"zero_optimization": {"round_robin_gradients": True}}
    with started(volume, key, "dealt-out", EPOCHS, {**EVERY, "deepspeed": dealt_out}) as process:
        process.communicate(timeout=PATIENCE)
    assert process.returncode == ExitCode.BAD_CONFIG
    told = failure(volume, key, "dealt-out")
    assert told["reason"] == "StateLayoutChanged"
    assert "`round_robin_gradients: false`" in told["hint"]


def damage_newest(folder: Path) -> int:
    """Change a bit in what rank 1 wrote of the newest checkpoint; return its step."""
    step = max(int(path.name.removeprefix("step-")) for path in folder.iterdir() if path.name[5:].isdigit())
    state = next((folder / f"step-{step}").rglob("*zero_pp_rank_1_*optim_states.pt"))
    content = bytearray(state.read_bytes())
    content[len(content) // 2] ^= 1
    state.write_bytes(content)
    return step


# --- what cannot be trained ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tied_model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(write_base(tmp_path_factory.mktemp("tied"), tied=True))


def test_unknown_target_modules_are_named_with_those_that_exist(tied_model: Any) -> None:
    """A misspelt module would silently get no adapter; the error lists what there is."""
    check_targets(["q_proj", "self_attn.v_proj"], tied_model)
    with pytest.raises(StageError) as caught:
        check_targets(["q_proj", "query"], tied_model)
    assert (caught.value.code, caught.value.reason) == (ExitCode.BAD_CONFIG, "TargetModuleUnknown")
    assert "'query'" in caught.value.message
    assert "k_proj" in caught.value.hint


def test_a_tied_output_layer_gets_no_adapter(tied_model: Any) -> None:
    """Its weight is the embeddings' weight: a change of one is lost when the other is saved."""
    with pytest.raises(StageError) as caught:
        check_targets(["lm_head"], tied_model)
    assert caught.value.reason == "TargetModuleTied"


@pytest.mark.parametrize("id_range", [(0, VOCABULARY), (-1, 3)])
def test_tokens_without_embedding_are_refused(tied_model: Any, id_range: tuple[int, int]) -> None:
    """They would read beyond the embeddings, which ends in a crash or in nonsense."""
    check_vocabulary((0, VOCABULARY - 1), tied_model)
    with pytest.raises(StageError) as caught:
        check_vocabulary(id_range, tied_model)
    assert caught.value.reason == "TokenOutOfVocabulary"


# --- what was saved is checked ---------------------------------------------------------------------------------------


def mixture_of_experts() -> Any:
    """Return a model whose experts are one tensor in memory and many in its files."""
    from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

    return Qwen3MoeForCausalLM(
        Qwen3MoeConfig(
            vocab_size=VOCABULARY,
            hidden_size=16,
            intermediate_size=32,
            moe_intermediate_size=8,
            num_experts=4,
            num_experts_per_tok=2,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=2,
            head_dim=8,
        )
    )


def tied_embeddings() -> Any:
    """Return a model whose output layer is its embeddings."""
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"vocab_size": VOCABULARY, "hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(**sizes, num_hidden_layers=1, tie_word_embeddings=True))


@pytest.mark.parametrize("make", [mixture_of_experts, tied_embeddings])
def test_a_whole_model_passes_its_own_check(tmp_path: Path, make: Callable[[], Any]) -> None:
    """Models that look different on disk than in memory are no false alarm, and load again as they were."""
    from transformers import AutoModelForCausalLM

    model = make()
    expected = save_model(model, model.state_dict(), tmp_path)
    check_saved(tmp_path, expected)
    again = AutoModelForCausalLM.from_pretrained(tmp_path).state_dict()
    for name, tensor in model.state_dict().items():
        assert torch.equal(again[name], tensor), name


WEIGHT = torch.ones(2, 3)


@pytest.mark.parametrize(
    ("tensors", "reason", "words"),
    [
        pytest.param({"a": WEIGHT}, "SavedTensorsIncomplete", "1 are missing (b)", id="one is missing"),
        pytest.param({"a": WEIGHT, "b": WEIGHT, "c": WEIGHT}, "SavedTensorsIncomplete", "(c)", id="one too many"),
        pytest.param({"a": WEIGHT, "b": WEIGHT.T.contiguous()}, "SavedTensorsIncomplete", "[3, 2]", id="shape"),
        pytest.param({"a": WEIGHT, "b": torch.empty(0)}, "SavedTensorsIncomplete", "[0]", id="empty, as ZeRO-3 can"),
        pytest.param({"a": WEIGHT, "b": WEIGHT / 0}, "SavedTensorsNotFinite", "tensor b", id="infinite"),
    ],
)
def test_broken_weights_are_not_published(
    tmp_path: Path, tensors: dict[str, torch.Tensor], reason: str, words: str
) -> None:
    """Count, names, shapes and values are looked at in the files themselves."""
    expected = {"a": (2, 3), "b": (2, 3)}
    save_file({"a": WEIGHT, "b": WEIGHT.clone()}, tmp_path / "model.safetensors")
    check_saved(tmp_path, expected)
    save_file({name: tensor.clone() for name, tensor in tensors.items()}, tmp_path / "model.safetensors")
    with pytest.raises(StageError) as caught:
        check_saved(tmp_path, expected)
    assert caught.value.reason == reason
    assert words in caught.value.message
