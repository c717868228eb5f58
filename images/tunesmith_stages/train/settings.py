"""What is to be trained and how: the unit's parameters and the runtime's, as typed values. Pure."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from tunesmith_stages.contract import ExitCode
from tunesmith_stages.program import StageError

_Key = TypeVar("_Key")
_Value = TypeVar("_Value")


class Precision(enum.StrEnum):
    """Number format of the weights in the forward and backward pass; master weights are float32."""

    BF16 = "BF16"
    FP16 = "FP16"
    FP32 = "FP32"


SCHEDULES: Mapping[str, str] = {
    "Cosine": "cosine",
    "Linear": "linear",
    "Constant": "constant_with_warmup",  # the same as "constant" without a warm-up
}
"""Learning rate schedules of the API and the names that transformers gives them."""

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


@dataclass(frozen=True)
class Settings:
    """Everything that training depends on, but the inputs."""

    lora: Lora | None
    """None: all weights are trained."""
    precision: Precision
    learning_rate: float
    schedule: str
    """transformers' name."""
    warmup_steps: int
    weight_decay: float
    max_grad_norm: float
    epochs: float
    """Passes over the data; 0 where `max_steps` is given."""
    max_steps: int | None
    """Optimizer steps; takes precedence over `epochs`."""
    global_batch_size: int
    """Rows that enter one optimizer step."""
    zero_stage: int
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
    check_batch(settings)
    return settings


def _parse(params: Mapping[str, Any], runtime: Mapping[str, Any]) -> Settings:
    gpus = int(runtime["gpusPerNode"])
    max_steps = params["maxSteps"]
    return Settings(
        lora=_parse_lora(params),
        precision=Precision(params["precision"]),
        learning_rate=float(params["learningRate"]),
        schedule=_one_of(SCHEDULES, "lrSchedule", params["lrSchedule"]),
        warmup_steps=int(params["warmupSteps"]),
        weight_decay=float(params["weightDecay"]),
        max_grad_norm=float(params["maxGradNorm"]),
        epochs=0.0 if params["numTrainEpochs"] is None else float(params["numTrainEpochs"]),
        max_steps=None if max_steps is None else int(max_steps),
        global_batch_size=int(params["globalBatchSize"]),
        zero_stage=_one_of({0: 0, 2: 2, 3: 3}, "zeroStage", params["zeroStage"]),
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
        nodes_timeout=float(runtime.get("nodesTimeoutSeconds", 900)),
        grace=_at_least_one("graceSeconds", runtime.get("graceSeconds", 30)),
    )


def _parse_lora(params: Mapping[str, Any]) -> Lora | None:
    kind = _one_of({"Full": "Full", "LoRA": "LoRA"}, "finetuningType", params["finetuningType"])
    if kind == "Full":
        return None
    lora = params["lora"]
    return Lora(
        rank=int(lora["rank"]),
        alpha=int(lora["alpha"]),
        dropout=float(lora["dropout"]),
        target_modules=tuple(lora["targetModules"]),
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


def threads_per_rank(cores: int, load: float, ranks: int) -> int:
    """Return how many OpenMP threads each rank should use.

    Only cores that nobody else keeps busy count: ranks wait for each other at every step, and one thread that has to
    wait for a core makes all of them wait (two threads per rank on a busy 2-core machine made steps 10-20 times
    slower). `load` is the load average over the last minute.
    """
    return max(1, int(cores - load) // ranks)
