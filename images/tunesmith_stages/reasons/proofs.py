"""Reasons: it is stalled: a proof failed."""

from __future__ import annotations

from tunesmith_stages.reasons.exit_codes import ExitCode
from tunesmith_stages.reasons.row import Reason

_DATA = ExitCode.BAD_DATA
_GATE = ExitCode.GATE_FAILED

PROOFS = (
    Reason(
        ("SmokeTestFailed",),
        "The model does not give an expected answer; what it said is in the sentence.",
        "Train longer or with more such rows, or correct `ollama.smokeTests`.",
        (_GATE,),
    ),
    Reason(
        ("DoesNotStop",),
        "It does not end its answers by itself.",
        "Train longer: the end-of-turn token is learned last.",
        (_GATE,),
    ),
    Reason(
        ("LossSpike",),
        "The loss jumped above what `guards.lossSpike` allows.",
        "Lower `learningRate` or `maxGradNorm`; look for odd rows; or raise the limit.",
        (_GATE,),
    ),
    Reason(
        ("FinalLossTooHigh",),
        "The training ended above `guards.maxFinalLoss`.",
        "Train longer or with a higher rank; look at the data; or raise the limit.",
        (_GATE,),
    ),
    Reason(
        ("BestCheckpointLost",),
        "`keepBest`: the checkpoint with the lowest loss is damaged on the volume.",
        "Remove the folder that is named, then `retry`: it trains again.",
        (_GATE,),
    ),
    Reason(
        ("LossNotFinite", "SavedTensorsNotFinite"),
        "The training diverged.",
        "Lower `learningRate`; BF16 or FP32.",
        (_GATE,),
    ),
    Reason(
        ("WeightsNotFinite",),
        "A number of the weights is NaN or infinite; the message names the tensor. If they are the base's, before the"
        " training: fetch it again.",
        "After a training: lower `learningRate`; BF16 or FP32.",
        (_DATA, _GATE),
    ),
    Reason(
        ("PackingNotProven",),
        "With this model's attention the samples of a packed row would see each other; both losses are in the "
        "sentence.",
        "`training.packing: false`, or another base.",
        (_GATE,),
    ),
    Reason(
        ("ImatrixFailed",),
        "llama-imatrix wrote something else than it was asked for.",
        "Report it, with `llama-imatrix.log`.",
        (_GATE,),
    ),
    Reason(
        ("DoesNotLoad", "ModelDoesNotLoad"),
        "Ollama, or llama.cpp, takes the file and cannot run it.",
        "Update Ollama, or another base.",
        (_GATE,),
    ),
    Reason(
        ("RenderingDiffers",),
        "Ollama's template engine makes another prompt than the training had.",
        "A simpler chat template, then train again.",
        (_GATE,),
    ),
    Reason(
        ("MergedModelDiffers",),
        "The exported model expects other words than the trained one.",
        "`reference_check.json` in the logs of `convert`; the base, and its precision.",
        (_GATE,),
    ),
    Reason(
        ("AdapterDoesNotFit", "AdapterNotMergeable", "NoAdapter"),
        "The adapter is not of this base.",
        "Train again from this base.",
        (_DATA,),
    ),
    Reason(
        ("DamagedModelFile",),
        "The GGUF changed on the volume after it was made.",
        "Remove the folder that is named, then `retry`.",
        (_DATA,),
    ),
    Reason(
        ("LiveModelDiffers",),
        "Somebody else changed the model at the same moment.",
        "Who else writes to this server? Then `retry`.",
        (_GATE,),
    ),
    Reason(
        (
            "GgufDiffers",
            "TemplateDiffers",
            "TemplateReplaced",
            "TokenCountDiffers",
            "ModelfileReadDifferently",
            "SavedTensorsIncomplete",
        ),
        "Something changed on its way through the tools.",
        "Report it with the log.",
        (_GATE,),
    ),
)
