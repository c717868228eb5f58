import pytest

from support.prepared import PARAMS, RUNTIME
from tunesmith_stages.contract import ExitCode
from tunesmith_stages.program import StageError
from tunesmith_stages.train.settings import Precision, read_settings, threads_per_rank


def test_reads_a_lora_training_on_cpu() -> None:
    """Decimal strings become numbers, API names transformers' names, and CPU ranks come from processesPerNode."""
    settings = read_settings(PARAMS, RUNTIME)
    assert (settings.learning_rate, settings.schedule, settings.precision) == (0.01, "cosine", Precision.BF16)
    assert settings.lora is not None
    assert (settings.lora.rank, settings.lora.target_modules) == (4, ("AllLinear",))
    assert (settings.on_cpu, settings.processes, settings.eval_steps, settings.max_steps) == (True, 2, None, None)


def test_full_training_on_gpus_has_a_rank_per_gpu() -> None:
    """With GPUs processesPerNode is not looked at, and Full needs no `lora`."""
    params = {**PARAMS, "finetuningType": "Full", "lora": None, "globalBatchSize": 8}
    settings = read_settings(params, {**RUNTIME, "gpusPerNode": 4, "processesPerNode": 1})
    assert (settings.lora, settings.on_cpu, settings.processes) == (None, False, 4)


@pytest.mark.parametrize(
    ("params", "runtime", "words"),
    [
        pytest.param({"globalBatchSize": 5}, {}, ["globalBatchSize", "5", "make 4"], id="batch does not multiply"),
        pytest.param({}, {"processesPerNode": 3}, ["3 processes", "make 6"], id="one rank too many"),
        pytest.param({"lrSchedule": "Wavy"}, {}, ["lrSchedule", "Wavy", "Cosine, Linear, Constant"], id="schedule"),
        pytest.param({"zeroStage": 1}, {}, ["zeroStage", "0, 2, 3", "1"], id="ZeRO stage"),
        pytest.param({"precision": "INT8"}, {}, ["INT8"], id="precision"),
        pytest.param({"precision": "FP16"}, {}, ["FP16", "BF16 or FP32", "gpusPerNode"], id="FP16 on CPU"),
        pytest.param({"finetuningType": "QLoRA"}, {}, ["QLoRA", "Full, LoRA"], id="fine-tuning type"),
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
    ("cores", "load", "ranks", "threads"),
    [
        pytest.param(16, 0.3, 2, 7, id="idle machine"),
        pytest.param(2, 0.0, 2, 1, id="a core for each rank"),
        pytest.param(8, 6.2, 1, 1, id="busy machine"),
        pytest.param(2, 9.0, 4, 1, id="never none"),
    ],
)
def test_threads_leave_busy_cores_alone(cores: int, load: float, ranks: int, threads: int) -> None:
    """Ranks share the cores that nobody else uses, and get one thread at least."""
    assert threads_per_rank(cores, load, ranks) == threads
