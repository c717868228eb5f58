"""Whether the GPUs' memory, the volume and the base's context have room for what the job asks for."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tunesmith_stages.contract import ExitCode, StageName
from tunesmith_stages.convert.read_back import context_length
from tunesmith_stages.program import StageError, Work
from tunesmith_stages.rehearse.doubts import doubts
from tunesmith_stages.rehearse.estimates import (
    CLEARLY,
    CONTEXT,
    OPERATIONS_A_SECOND,
    Training,
    disk,
    memory,
    operations,
    sequences_of,
    training_of,
)
from tunesmith_stages.rehearse.model_shape import (
    ModelShape,
    adapter_parameters,
    last_layers,
    layer_matrices,
    shape_of,
)
from tunesmith_stages.rehearse.report import Report
from tunesmith_stages.rehearse.weights import Weights
from tunesmith_stages.train.methods import Method
from tunesmith_stages.volume import files_below

_GIB = 2**30


def sequence_lengths(prepared: Path, method: Method | None) -> list[int]:
    """Return the tokens of everything that is trained on: of each row, and of the rejected answer of each pair."""
    from tunesmith_stages.train.rows import Rows

    file = prepared / "train.arrow"
    lengths: list[int] = Rows(file).lengths.tolist()
    if sequences_of(method) == 2:
        lengths += Rows(file, "rejected_input_ids", "rejected_labels").lengths.tolist()
    return lengths


def first_row(prepared: Path) -> list[int]:
    """Return the token ids of the first row that is trained on."""
    from tunesmith_stages.train.rows import Rows

    ids: list[int] = Rows(prepared / "train.arrow")[0][0].tolist()
    return ids


def rows_fit(config: Mapping[str, Any], lengths: Sequence[int]) -> str:
    """No row is longer than what the base can read at once.

    Raises:
        StageError: one is.
    """
    context, longest = context_length(config), max(lengths, default=0)
    if context is not None and longest > context:
        raise StageError(
            ExitCode.BAD_CONFIG,
            f"the longest row has {longest} tokens; the base reads {context} at once (`max_position_embeddings`)",
            reason="RowsLongerThanContext",
            hint=f"Set `training.sequenceLength` to {context} at most.",
        )
    return f"the longest row has {longest} tokens" + (f", the base reads {context}" if context else "")


def estimate(work: Work, report: Report, config: Mapping[str, Any], weights: Weights, lengths: Sequence[int]) -> None:
    """Estimate what the job takes, and write it into the report, with the checks that follow from it.

    Raises:
        StageError: there is clearly too little memory or disk.
    """
    given: Mapping[str, Any] = work.runtime["estimate"]
    model = shape_of(config, weights)
    trained = _trained(given, model, weights)
    quantized = layer_matrices(weights) if given["finetuningType"] == "QLoRA" else 0
    training = training_of(given, trained, quantized, lengths)
    parts = memory(model, training)
    is_trained, checkpoints = trained_before(work)
    needed = disk(
        model, training, int(given["keep"]), *_bits(work.params), checkpoints=checkpoints, is_trained=is_trained
    )
    report.estimates = {
        "gpuMemoryBytes": sum(parts.values()) + (CONTEXT if given["gpusPerNode"] else 0),
        "gpuMemoryOf": given.get("gpuMemoryBytes"),
        "diskBytes": needed,
        "freeBytes": shutil.disk_usage(work.folder).free,
        "seconds": operations(model, training) / (OPERATIONS_A_SECOND[_device(given)] * training.ranks),
        "steps": training.steps,
        "tokens": training.all_tokens,
        "operations": operations(model, training),
        "parameters": model.parameters,
        "trainedParameters": trained,
        "parts": parts,
    }
    if given["gpusPerNode"] and not is_trained:
        report.check("memory of a GPU", lambda: _memory_suffices(report.estimates, training))
    report.check("space on the volume", lambda: _disk_suffices(report.estimates))
    report.check("length of the training", lambda: _length(report.estimates, _device(given)))
    if unwise := doubts(given, training.steps):
        report.check("settings to think about again", lambda: "; ".join(unwise))


def trained_before(work: Work) -> tuple[bool, int]:
    """Return whether the training's result is there, and the bytes of checkpoints that an earlier attempt left."""
    keys = work.params.get("training", ())
    left = [work.volume.checkpoints(key) for key in keys]
    return (
        any(work.volume.result(StageName.TRAIN, key) is not None for key in keys),
        sum(path.stat().st_size for folder in left if folder.is_dir() for path in files_below(folder)),
    )


def _trained(given: Mapping[str, Any], model: ModelShape, weights: Weights) -> int:
    """Return how many parameters are trained."""
    lora, layers = given["lora"], given["trainableLayers"]
    if lora is not None:
        return adapter_parameters(weights, lora["targetModules"], int(lora["rank"]))
    return model.parameters if layers is None else last_layers(weights, model.layers, int(layers))


def _bits(params: Mapping[str, Any]) -> tuple[float, list[float]]:
    return bits_of(params["outType"]), [bits_of(kind) for kind in params["quantizations"]]


def bits_of(kind: str) -> float:
    """Return about how many bits a weight takes in a file of a type of llama.cpp: a bit more than its name says.

    Its blocks have scales, and some of its tensors are kept in larger types.
    """
    digits = int(re.findall(r"\d+", kind)[0])
    return digits + (0 if kind in {"F32", "F16", "BF16"} else 1)


def _memory_suffices(estimates: Mapping[str, Any], training: Training) -> str:
    needed, there = estimates["gpuMemoryBytes"], estimates["gpuMemoryOf"]
    parts = ", ".join(f"{name} {size / _GIB:.1f}" for name, size in estimates["parts"].items())
    text = f"about {needed / _GIB:.1f} GiB on each of {training.ranks} GPUs ({parts})"
    if there is None:
        return f"{text}; how much they have is not known"
    if needed > CLEARLY * there:
        raise StageError(
            ExitCode.BAD_CONFIG,
            f"the training would need {text}; they have {there / _GIB:.1f} GiB",
            reason="GpuMemoryTooSmall",
            hint=_less(estimates["parts"], training),
        )
    tight = ": it may not suffice" if needed > there else ""
    return f"{text}; they have {there / _GIB:.1f} GiB{tight}"


def _less(parts: Mapping[str, int], training: Training) -> str:
    """Return what to change first, by what takes most."""
    if parts["activations"] > sum(parts.values()) / 2:
        ways = [] if training.checkpointing else ["set `training.gradientCheckpointing`"]
        ways += ["lower `perDeviceTrainBatchSize`"] if training.micro_batch > 1 else []
        ways += ["lower `sequenceLength`"]
    else:
        ways = ["use `finetuningType: LoRA`"] if training.full else []
        ways += ["set `deepspeed.zeroStage` to 3"] if training.zero_stage < 3 and training.ranks > 1 else []
        if parts["optimizer"] > parts["weights"]:
            ways += ["set `deepspeed.offloadOptimizer`"]
        elif not training.full and not training.quantized:
            ways += ["use `finetuningType: QLoRA`"]
        ways += ["use more or larger GPUs"]
    text = ", or ".join(ways)
    return text[:1].upper() + text[1:] + "."


def _disk_suffices(estimates: Mapping[str, Any]) -> str:
    needed, free = estimates["diskBytes"], estimates["freeBytes"]
    text = f"about {needed / _GIB:.1f} GiB of {free / _GIB:.1f} that are free"
    if needed > CLEARLY * free:
        raise StageError(
            ExitCode.NO_SPACE,
            f"the volume has too little space for checkpoints, model and quantizations: {text}",
            hint="Free space, keep fewer checkpoints (`training.checkpoint.keep`), or ask for fewer quantizations.",
        )
    return f"{text}{': it may not suffice' if needed > free else ''}"


def _device(given: Mapping[str, Any]) -> str:
    return "GPU" if given["gpusPerNode"] else "process"


def _length(estimates: Mapping[str, Any], device: str) -> str:
    """Say how much there is to compute, and how long that takes if the devices are as fast as is assumed."""
    hours, minutes = divmod(round(estimates["seconds"] / 60), 60)
    tera = OPERATIONS_A_SECOND[device] / 1e12
    return (
        f"{estimates['steps']:,} steps, {estimates['tokens']:,} tokens, {estimates['operations'] / 1e12:,.1f} million "
        f"million operations; about {f'{hours} h {minutes} min' if hours else f'{max(minutes, 1)} min'} if each "
        f"{device} does {tera:g} TFLOPS"
    )
