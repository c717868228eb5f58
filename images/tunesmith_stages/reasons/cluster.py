"""Reasons: it is stalled: the cluster."""

from __future__ import annotations

from tunesmith_stages.reasons.exit_codes import ExitCode
from tunesmith_stages.reasons.row import Reason

_DATA = ExitCode.BAD_DATA
_MISSING = ExitCode.MISSING_INPUT
_INTERNAL = ExitCode.INTERNAL
_CONFIG = ExitCode.BAD_CONFIG
_PERMISSION = ExitCode.NO_PERMISSION

CLUSTER = (
    Reason(
        ("VolumeNotWritable", "VolumeNotReadable"),
        "The user of the stages may not write or read. The sentence says who tried and whose the folder is.",
        "`chown` the folder on the server, or name its owner in `storage.default.runAsUser`, "
        "`storage.default.runAsGroup` or `storage.default.supplementalGroups`. A folder that belongs to user 0 at a "
        "`subPath` was made by the kubelet: [make it yourself](install.md#3-the-volume).",
        (_PERMISSION,),
    ),
    Reason(
        ("VolumeNotFound",),
        "The root of the volume is not a folder.",
        "The claim, and `storage.subPath`.",
        (_CONFIG,),
    ),
    Reason(
        ("VolumeNotShared",),
        "Several nodes do not see the same volume.",
        "A claim that is ReadWriteMany.",
        (_CONFIG,),
    ),
    Reason(
        ("GpuNeeded",),
        "QLoRA or offload on the CPU.",
        "Set `gpusPerNode`, or train LoRA without.",
        (_CONFIG,),
    ),
    Reason(
        ("NothingHeldOut",),
        "`validation.keepBest` or `earlyStopping`, but no row was held back to measure the loss on.",
        "Raise `validation.fraction`, or add a dataset with `use: Validation`.",
        (_DATA,),
    ),
    Reason(
        ("TooFewRows",),
        "KTO has but one row: it puts the answers of other rows to each prompt.",
        "Add rows, wanted and unwanted ones.",
        (_DATA,),
    ),
    Reason(
        ("TooManyLayers",),
        "`freeze.trainableLayers` is more than the base has.",
        "Lower it, or `finetuningType: Full`.",
        (_CONFIG,),
    ),
    Reason(
        ("ToolchainMissing", "ToolFailed"),
        "llama.cpp's tools are not in the image, or one failed.",
        "The image; the end of its log is in the sentence.",
        (_MISSING, _INTERNAL),
    ),
    Reason(
        ("QuantizerMissing",),
        "QLoRA, and the package `bitsandbytes` is not installed.",
        "Use the image of the stages, or install it; or train LoRA.",
        (_CONFIG,),
    ),
    Reason(
        ("RankCrashed",),
        "A process of the training crashed, such as in a driver.",
        "The log; NCCL with `NCCL_DEBUG` in `pods.train.env`; /dev/shm (`pods.train.sharedMemory`).",
        (_INTERNAL,),
    ),
    Reason(
        ("LogNotFound",),
        "`kubectl tunesmith logs`: no such log is kept on the volume.",
        "`--list` says which there are.",
        (_MISSING,),
    ),
    Reason(
        ("JobNotFound",),
        "Nothing of the job is on this volume: the one in `model.job`, or the one that a report is asked of.",
        "Correct its name; a job has a report once its first stage has begun, and both must use the same volume.",
        (_MISSING,),
    ),
)
