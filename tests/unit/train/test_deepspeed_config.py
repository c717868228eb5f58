import pytest

from support.prepared import PARAMS, RUNTIME
from tunesmith_stages.train.deepspeed_config import deepspeed_config, state_layout
from tunesmith_stages.train.settings import read_settings


@pytest.mark.parametrize("stage", [0, 2, 3])
@pytest.mark.parametrize(
    ("precision", "bf16", "fp16"), [("BF16", True, False), ("FP16", False, True), ("FP32", False, False)]
)
def test_follows_stage_and_precision(stage: int, precision: str, bf16: bool, fp16: bool) -> None:
    """DeepSpeed computes in what the job asks for; without either switch it computes in float32."""
    on_gpus = {**RUNTIME, "gpusPerNode": 2}
    config = deepspeed_config(read_settings({**PARAMS, "zeroStage": stage, "precision": precision}, on_gpus))
    assert (config["bf16"]["enabled"], config["fp16"]["enabled"]) == (bf16, fp16)
    assert config["zero_optimization"]["stage"] == stage


@pytest.mark.parametrize(
    ("runtime", "told"),
    [({}, 1), ({"processesPerNode": 2}, 2), ({"gpusPerNode": 1}, 2)],
    ids=["alone on the processor", "two processes", "one GPU"],
)
def test_alone_on_the_processor_no_gradients_are_shared_out(runtime: dict[str, int], told: int) -> None:
    """ZeRO 2 would copy each gradient as it comes, for a process that has nobody to share them with."""
    split = {"perDeviceTrainBatchSize": 1, "gradientAccumulationSteps": 1}
    ranks = runtime.get("processesPerNode", 1)
    params = {**PARAMS, "zeroStage": 2, "globalBatchSize": ranks}
    settings = read_settings(params, {**RUNTIME, "processesPerNode": 1, **split, **runtime})
    assert deepspeed_config(settings)["zero_optimization"]["stage"] == told


def test_only_stage_3_gathers_weights_to_save_them() -> None:
    """Without it a ZeRO-3 model would be saved in pieces of size zero."""
    stages = {stage: deepspeed_config(read_settings({**PARAMS, "zeroStage": stage}, RUNTIME)) for stage in (0, 2, 3)}
    gathers = {
        stage: config["zero_optimization"].get("stage3_gather_16bit_weights_on_model_save")
        for stage, config in stages.items()
    }
    assert gathers == {0: None, 2: None, 3: True}


@pytest.mark.parametrize(
    ("stage", "given", "layout"),
    [
        pytest.param(0, {}, {}, id="no ZeRO"),
        pytest.param(2, {}, {"round_robin_gradients": False}, id="ZeRO 2"),
        pytest.param(2, {"round_robin_gradients": True}, {"round_robin_gradients": True}, id="ZeRO 2, dealt out"),
        pytest.param(
            2, {"reduce_bucket_size": 5, "overlap_comm": True}, {"round_robin_gradients": False}, id="buckets"
        ),
        pytest.param(3, {}, {"sub_group_size": 10**9}, id="ZeRO 3"),
        pytest.param(3, {"sub_group_size": 1000}, {"sub_group_size": 1000}, id="ZeRO 3, grouped"),
        pytest.param(3, {"round_robin_gradients": True}, {"sub_group_size": 10**9}, id="ZeRO 3 does not deal out"),
    ],
)
def test_what_a_states_layout_depends_on(stage: int, given: dict[str, object], layout: dict[str, object]) -> None:
    """Settings that move weights within the optimizer's state are told apart from those that just change its speed."""
    settings = read_settings({**PARAMS, "zeroStage": stage}, {**RUNTIME, "deepspeed": {"zero_optimization": given}})
    assert state_layout(settings) == layout
    assert layout.items() <= deepspeed_config(settings)["zero_optimization"].items()


def test_a_process_that_is_alone_shares_nothing_out() -> None:
    """With one process round robin gradients move nothing: a checkpoint made without them is as good."""
    alone = {**RUNTIME, "processesPerNode": 1, "deepspeed": {"zero_optimization": {"round_robin_gradients": True}}}
    assert state_layout(read_settings({**PARAMS, "zeroStage": 2, "globalBatchSize": 2}, alone)) == {}


def test_names_no_optimizer_of_deepspeed() -> None:
    """DeepSpeed's own optimizers are compiled at run time, and one named here would decay norms and biases."""
    assert "optimizer" not in deepspeed_config(read_settings(PARAMS, RUNTIME))


def test_batch_and_clipping_are_the_jobs() -> None:
    """The split over passes and the clipping norm arrive unchanged."""
    params = {**PARAMS, "globalBatchSize": 12, "maxGradNorm": "0.5"}
    config = deepspeed_config(read_settings(params, {**RUNTIME, "gradientAccumulationSteps": 3}))
    assert config["train_micro_batch_size_per_gpu"] == 2
    assert config["gradient_accumulation_steps"] == 3
    assert config["gradient_clipping"] == 0.5
