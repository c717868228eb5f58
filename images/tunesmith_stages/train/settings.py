"""What is to be trained and how: the unit's parameters and the runtime's, as typed values. Pure."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from tunesmith_stages.contract import ExitCode
from tunesmith_stages.program import StageError
from tunesmith_stages.train.limits import EarlyStopping, Limits
from tunesmith_stages.train.methods import Preference, read_preference
from tunesmith_stages.train.optimization import Optimization, read_optimization

_Key = TypeVar("_Key")
_Value = TypeVar("_Value")


class Precision(enum.StrEnum):
    """Number format of the weights in the forward and backward pass; master weights are float32."""

    BF16 = "BF16"
    FP16 = "FP16"
    FP32 = "FP32"


GRACE_RESERVE = 10
"""Seconds of the grace period that are kept back for killing what did not end, and for saying why."""


@dataclass(frozen=True)
class Lora:
    """A low-rank adapter (Hu et al., 2021): the change of a weight is ``alpha / rank * B @ A``."""

    rank: int
    alpha: int
    dropout: float
    target_modules: tuple[str, ...]
    """Last parts of module names, or :data:`tunesmith_stages.contract.ALL_LINEAR` alone."""
    rslora: bool = False
    """It is ``alpha / sqrt(rank) * B @ A``: rsLoRA (Kalajdzievski, 2023, https://arxiv.org/abs/2312.03732)."""
    dora: bool = False
    """Direction and length of the weights' rows are trained apart: DoRA (Liu et al., 2024,
    https://arxiv.org/abs/2402.09353)."""


@dataclass(frozen=True)
class Settings:
    """Everything that training depends on, but the inputs."""

    preference: Preference | None
    """The method that learns from preferences; None: supervised fine-tuning."""
    lora: Lora | None
    """None: the weights themselves are trained."""
    quantized: bool
    """The base's weights are held in 4 bits: QLoRA (Dettmers et al., 2023, https://arxiv.org/abs/2305.14314)."""
    trained_layers: int | None
    """So many of the last layers are trained, nothing else; None: all that there is to train."""
    precision: Precision
    optimization: Optimization
    epochs: float
    """Passes over the data; 0 where `max_steps` is given."""
    max_steps: int | None
    """Optimizer steps; takes precedence over `epochs`."""
    global_batch_size: int
    """Rows that enter one optimizer step."""
    zero_stage: int
    offload_optimizer: bool
    """Whether the optimizer's state and its step are the processor's."""
    offload_parameters: bool
    """Whether the weights are kept in the processor's memory."""
    deepspeed: Mapping[str, Any]
    """What else DeepSpeed is told, in its own words."""
    gradient_checkpointing: bool
    seed: int
    gpus: int
    """GPUs on each node, one process each; 0: CPU."""
    nodes: int
    """Machines (pods) that train together; each has as many ranks as the others."""
    processes: int
    """Ranks on each node."""
    micro_batch_size: int
    """Rows that one rank takes through the model at once."""
    accumulation: int
    """Forward and backward passes per optimizer step."""
    eval_batch_size: int
    logging_steps: int
    eval_steps: int | None
    """None: the loss on held-out rows is taken at the end only."""
    save_steps: int | None
    """None: a checkpoint is written at the end only."""
    keep: int
    """Complete checkpoints that are kept."""
    keep_best: bool
    """Whether what is saved in the end is what had the lowest loss on held-out rows."""
    early_stopping: EarlyStopping | None
    limits: Limits
    stall: float
    """Seconds without a step after which the training counts as stuck."""
    reduces: bool
    """Whether a training that runs out of memory goes on with smaller batches in more passes."""
    workers: int
    """Processes of each rank that read rows ahead; 0: it reads them itself."""
    timeout: int
    """Seconds that ranks wait for each other in a collective operation."""
    nodes_timeout: float
    """Seconds that nodes wait for each other before the training begins."""
    grace: int
    """Seconds from SIGTERM to SIGKILL, as whoever starts the program has set them."""

    @property
    def on_cpu(self) -> bool:
        """Whether the ranks compute on the CPU."""
        return self.gpus == 0

    @property
    def world_size(self) -> int:
        """Ranks on all nodes together."""
        return self.nodes * self.processes

    @property
    def shutdown(self) -> int:
        """Seconds that ranks may take to end after SIGTERM; what is left of the grace period is for the parent."""
        return max(1, self.grace - GRACE_RESERVE)


def read_settings(params: Mapping[str, Any], runtime: Mapping[str, Any]) -> Settings:
    """Return the settings that `params` and `runtime` of a stage.json stand for.

    Raises:
        StageError: a field is missing or not usable, or the batch sizes do not multiply to the global one.
    """
    try:
        settings = _parse(params, runtime)
    except KeyError as error:
        raise StageError(ExitCode.BAD_CONFIG, f"stage.json of `train` lacks the field {error}") from error
    except (TypeError, ValueError) as error:
        raise StageError(ExitCode.BAD_CONFIG, f"stage.json of `train` holds an unusable value: {error}") from error
    check_precision(settings)
    check_devices(settings)
    check_batch(settings)
    return settings


def _parse(params: Mapping[str, Any], runtime: Mapping[str, Any]) -> Settings:
    gpus = int(runtime["gpusPerNode"])
    max_steps = params["maxSteps"]
    return Settings(
        preference=read_preference(params),
        lora=_parse_lora(params),
        quantized=params["finetuningType"] == "QLoRA",
        trained_layers=int(params["freeze"]["trainableLayers"]) if params["finetuningType"] == "Freeze" else None,
        precision=Precision(params["precision"]),
        optimization=read_optimization(params),
        epochs=0.0 if params["numTrainEpochs"] is None else float(params["numTrainEpochs"]),
        max_steps=None if max_steps is None else int(max_steps),
        global_batch_size=int(params["globalBatchSize"]),
        zero_stage=_one_of({0: 0, 2: 2, 3: 3}, "zeroStage", params["zeroStage"]),
        offload_optimizer=bool(runtime.get("offloadOptimizer")),
        offload_parameters=bool(runtime.get("offloadParameters")),
        deepspeed=dict(runtime.get("deepspeed") or {}),
        gradient_checkpointing=bool(params["gradientCheckpointing"]),
        seed=int(params["seed"]),
        gpus=gpus,
        nodes=_at_least_one("nodes", runtime.get("nodes", 1)),
        processes=gpus or int(runtime["processesPerNode"]),
        micro_batch_size=int(runtime["perDeviceTrainBatchSize"]),
        accumulation=int(runtime["gradientAccumulationSteps"]),
        eval_batch_size=int(runtime["perDeviceEvalBatchSize"]),
        logging_steps=max(1, int(runtime["loggingSteps"])),
        eval_steps=int(runtime["evalSteps"] or 0) or None,
        save_steps=int(runtime["saveSteps"] or 0) or None,
        keep=max(1, int(runtime["keep"])),
        keep_best=bool(params.get("keepBest")),
        early_stopping=_parse_early_stopping(params),
        limits=_parse_limits(runtime),
        reduces=_one_of({"Fail": False, "Reduce": True}, "onOutOfMemory", runtime.get("onOutOfMemory", "Fail")),
        stall=float((runtime.get("guards") or {}).get("stallSeconds", 3600)),
        workers=int(runtime.get("dataloaderWorkers", 0)),
        timeout=_at_least_one("ddpTimeoutSeconds", runtime.get("ddpTimeoutSeconds", 1800)),
        nodes_timeout=float(runtime.get("nodesTimeoutSeconds", 900)),
        grace=_at_least_one("graceSeconds", runtime.get("graceSeconds", 30)),
    )


def _parse_early_stopping(params: Mapping[str, Any]) -> EarlyStopping | None:
    given = params.get("earlyStopping")
    return EarlyStopping(int(given["patience"]), float(given["minDelta"])) if given else None


def _parse_limits(runtime: Mapping[str, Any]) -> Limits:
    given = runtime.get("guards") or {}
    final, spike = given.get("maxFinalLoss"), given.get("lossSpike")
    return Limits(None if final is None else float(final), None if spike is None else float(spike))


def _parse_lora(params: Mapping[str, Any]) -> Lora | None:
    adapted = {"Full": False, "Freeze": False, "LoRA": True, "QLoRA": True}
    if not _one_of(adapted, "finetuningType", params["finetuningType"]):
        return None
    lora = params["lora"]
    return Lora(
        rank=int(lora["rank"]),
        alpha=int(lora["alpha"]),
        dropout=float(lora["dropout"]),
        target_modules=tuple(lora["targetModules"]),
        rslora=bool(lora.get("useRslora")),
        dora=bool(lora.get("useDora")),
    )


def _at_least_one(name: str, given: Any) -> int:
    if int(given) < 1:
        raise ValueError(f"`{name}` must be at least 1, got {given!r}")
    return int(given)


def _one_of(allowed: Mapping[_Key, _Value], name: str, given: _Key) -> _Value:
    if given not in allowed:
        raise ValueError(f"`{name}` must be one of {', '.join(str(value) for value in allowed)}, got {given!r}")
    return allowed[given]


def check_precision(settings: Settings) -> None:
    """Check that the devices can compute in the precision asked for.

    Raises:
        StageError: they cannot.
    """
    if settings.on_cpu and settings.precision is Precision.FP16:
        raise StageError(
            ExitCode.BAD_CONFIG,
            "`precision` must be BF16 or FP32 on the CPU (`gpusPerNode` 0), got FP16: DeepSpeed has no float16 there",
            reason="PrecisionUnsupported",
        )


def check_devices(settings: Settings) -> None:
    """Check that what only GPUs can do is not asked of the CPU, and what only ZeRO can do not of a training without.

    Raises:
        StageError: it is.
    """
    asked = {
        "`finetuningType: QLoRA`": settings.quantized,
        "`deepspeed.offloadOptimizer`": settings.offload_optimizer,
        "`deepspeed.offloadParameters`": settings.offload_parameters,
    }
    for what, given in asked.items():
        if given and settings.on_cpu:
            raise StageError(
                ExitCode.BAD_CONFIG,
                f"{what} needs GPUs: `gpusPerNode` is 0",
                reason="GpuNeeded",
                hint="Set `gpusPerNode`, or train LoRA without it: on the CPU there is nothing to save by it.",
            )


def check_batch(settings: Settings) -> None:
    """Check that the split over devices and passes makes up the batch that the job asks for.

    Raises:
        StageError: it does not.
    """
    made = settings.world_size * settings.micro_batch_size * settings.accumulation
    if made == settings.global_batch_size:
        return
    nodes = f"{settings.nodes} nodes x " if settings.nodes > 1 else ""
    raise StageError(
        ExitCode.BAD_CONFIG,
        f"`globalBatchSize` is {settings.global_batch_size}, but {nodes}{settings.processes} processes x "
        f"`perDeviceTrainBatchSize` {settings.micro_batch_size} x `gradientAccumulationSteps` {settings.accumulation} "
        f"make {made}",
        reason="BatchSizeMismatch",
        hint="Change one of them so that the product is the global batch size.",
    )


def threads_per_rank(cores: int, load: float, ranks: int, limit: float) -> int:
    """Return how many OpenMP threads each rank should use, on so many cores of which the container may use `limit`.

    Only cores that nobody else keeps busy count: ranks wait for each other at every step, and one thread that has to
    wait for a core makes all of them wait (two threads per rank on a busy 2-core machine made steps 10-20 times
    slower). `load` is the load average over the last minute, of the whole machine; so it says nothing of the limit,
    and threads beyond that are held up for most of each period.
    """
    return max(1, int(min(cores - load, limit)) // ranks)
