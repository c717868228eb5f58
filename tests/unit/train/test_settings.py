import math

import pytest

from support.prepared import PARAMS, RUNTIME
from tunesmith_stages.contract import ExitCode
from tunesmith_stages.program import StageError
from tunesmith_stages.train.settings import Precision, read_settings, threads_per_rank


def test_reads_a_lora_training_on_cpu() -> None:
    """Decimal strings become numbers, API names transformers' names, and CPU ranks come from processesPerNode."""
    settings = read_settings(PARAMS, RUNTIME)
    assert (settings.optimization.learning_rate, settings.optimization.schedule.name) == (0.01, "cosine")
    assert settings.precision is Precision.BF16
    assert settings.lora is not None
    assert (settings.lora.rank, settings.lora.target_modules) == (4, ("AllLinear",))
    assert (settings.on_cpu, settings.processes, settings.eval_steps, settings.max_steps) == (True, 2, None, None)


def test_full_training_on_gpus_has_a_rank_per_gpu() -> None:
    """With GPUs processesPerNode is not looked at, and Full needs no `lora`."""
    params = {**PARAMS, "finetuningType": "Full", "lora": None, "globalBatchSize": 8}
    settings = read_settings(params, {**RUNTIME, "gpusPerNode": 4, "processesPerNode": 1})
    assert (settings.lora, settings.on_cpu, settings.processes) == (None, False, 4)


def test_a_training_is_on_one_node_with_30_seconds_to_end() -> None:
    """That is what a program started by hand has: Kubernetes' own default, less what is kept in reserve."""
    settings = read_settings(PARAMS, RUNTIME)
    assert (settings.nodes, settings.world_size, settings.shutdown, settings.nodes_timeout) == (1, 2, 20, 900.0)


def test_all_nodes_make_up_the_batch() -> None:
    """Ranks are counted over all nodes, and the ranks' time to end comes from the pod's grace period."""
    runtime = {**RUNTIME, "nodes": 3, "graceSeconds": 120, "nodesTimeoutSeconds": 5}
    settings = read_settings({**PARAMS, "globalBatchSize": 12}, runtime)
    assert (settings.world_size, settings.shutdown, settings.nodes_timeout) == (6, 110, 5.0)


def test_ranks_have_some_time_to_end_in_the_shortest_grace_period() -> None:
    """A second is better than torchrun's own 30, which would outlast the pod."""
    assert read_settings(PARAMS, {**RUNTIME, "graceSeconds": 3}).shutdown == 1


@pytest.mark.parametrize(
    ("params", "runtime", "words"),
    [
        pytest.param({"globalBatchSize": 5}, {}, ["globalBatchSize", "5", "make 4"], id="batch does not multiply"),
        pytest.param({}, {"nodes": 2}, ["2 nodes x 2 processes", "make 8"], id="one node too many"),
        pytest.param({}, {"nodes": 0}, ["`nodes` must be at least 1", "0"], id="no node"),
        pytest.param({}, {"processesPerNode": 3}, ["3 processes", "make 6"], id="one rank too many"),
        pytest.param({"lrSchedule": "Wavy"}, {}, ["lrSchedule", "Wavy", "Cosine, CosineWithMinLR"], id="schedule"),
        pytest.param({"zeroStage": 1}, {}, ["zeroStage", "0, 2, 3", "1"], id="ZeRO stage"),
        pytest.param({"precision": "INT8"}, {}, ["INT8"], id="precision"),
        pytest.param({"precision": "FP16"}, {}, ["FP16", "BF16 or FP32", "gpusPerNode"], id="FP16 on CPU"),
        pytest.param({"finetuningType": "Half"}, {}, ["Half", "Full, Freeze, LoRA, QLoRA"], id="fine-tuning type"),
        pytest.param({"finetuningType": "QLoRA"}, {}, ["QLoRA", "needs GPUs"], id="QLoRA on CPU"),
        pytest.param({}, {"offloadOptimizer": True}, ["offloadOptimizer", "needs GPUs"], id="offload on CPU"),
        pytest.param({}, {"onOutOfMemory": "Pray"}, ["onOutOfMemory", "Fail, Reduce", "Pray"], id="out of memory"),
        pytest.param({"learningRate": "fast"}, {}, ["fast"], id="not a number"),
        pytest.param({"lora": {"rank": 4}}, {}, ["alpha"], id="field missing"),
    ],
)
def test_refuses(params: dict[str, object], runtime: dict[str, object], words: list[str]) -> None:
    """What cannot be trained is refused before any rank starts, with the field, the value and what is allowed."""
    with pytest.raises(StageError) as caught:
        read_settings({**PARAMS, **params}, {**RUNTIME, **runtime})
    assert caught.value.code is ExitCode.BAD_CONFIG
    for word in words:
        assert word in caught.value.message


@pytest.mark.parametrize(
    ("params", "runtime", "reason"),
    [
        pytest.param({"globalBatchSize": 5}, {}, "BatchSizeMismatch", id="the batch"),
        pytest.param({"precision": "FP16"}, {}, "PrecisionUnsupported", id="FP16 on the CPU"),
        pytest.param({"finetuningType": "QLoRA"}, {}, "GpuNeeded", id="QLoRA on the CPU"),
        pytest.param({}, {"offloadParameters": True}, "GpuNeeded", id="offload on the CPU"),
    ],
)
def test_what_does_not_go_together_has_a_reason_of_its_own(
    params: dict[str, object], runtime: dict[str, object], reason: str
) -> None:
    """What people get wrong most is known by one word."""
    with pytest.raises(StageError) as caught:
        read_settings({**PARAMS, **params}, {**RUNTIME, **runtime})
    assert caught.value.reason == reason


@pytest.mark.parametrize(
    ("cores", "load", "ranks", "limit", "threads"),
    [
        pytest.param(16, 0.3, 2, math.inf, 7, id="idle machine"),
        pytest.param(2, 0.0, 2, math.inf, 1, id="a core for each rank"),
        pytest.param(8, 6.2, 1, math.inf, 1, id="busy machine"),
        pytest.param(2, 9.0, 4, math.inf, 1, id="never none"),
        pytest.param(128, 60.0, 4, 16.0, 4, id="a container that may use some of a large machine"),
        pytest.param(128, 120.0, 1, 16.0, 8, id="of which others leave less"),
        pytest.param(8, 0.0, 1, 0.5, 1, id="half a core"),
    ],
)
def test_threads_leave_busy_cores_alone(cores: int, load: float, ranks: int, limit: float, threads: int) -> None:
    """Ranks share the cores that nobody else uses, within the container's limit, and get one thread at least."""
    assert threads_per_rank(cores, load, ranks, limit) == threads
