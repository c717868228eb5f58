"""Reasons: it is stalled: the job."""

from __future__ import annotations

from tunesmith_stages.reasons.exit_codes import ExitCode
from tunesmith_stages.reasons.retry import NEVER
from tunesmith_stages.reasons.row import Reason

_DATA = ExitCode.BAD_DATA
_MISSING = ExitCode.MISSING_INPUT
_CONFIG = ExitCode.BAD_CONFIG

JOB = (
    Reason(
        ("InvalidSpec",),
        "The operator cannot read the job. The API server normally refuses such a one, so definition and operator are"
        " of different versions.",
        "Edit the field that is named; upgrade the CustomResourceDefinition.",
        own_retry=NEVER,
    ),
    Reason(
        ("ServerNotAllowed", "UnknownServer"),
        "`ollama.servers` names one that the administrator has not defined, or not for this namespace.",
        "Name one of those that are listed. It also goes on when the administrator allows it.",
        own_retry=NEVER,
    ),
    Reason(
        ("ModelNameNotAllowed",),
        "The server wants names with a prefix.",
        "Begin `ollama.model` with it.",
        own_retry=NEVER,
    ),
    Reason(
        ("ModelNameTaken",),
        "Another FineTuneJob serves its model under this name there, or wanted to before.",
        "Another name or tag. It goes on when the other job is deleted or takes another name.",
        own_retry=NEVER,
    ),
    Reason(
        ("ExecNotConfigured", "ExecNotAllowed"),
        "`method: Exec`, but the server has no `exec` in the chart's values.",
        "`method: API`, or ask the administrator.",
        (_CONFIG,),
    ),
    Reason(
        ("TrackerNotSetUp",),
        "`training.tracking.type: MLflow`, but the chart's values name no MLflow server.",
        "`type: TensorBoard`, or ask the administrator for `trackers.mlflow`.",
        own_retry=NEVER,
    ),
    Reason(
        ("PodsInvalid",),
        "`pods` asks for something that cannot be, such as a request above its limit.",
        "Edit the field that is named.",
        own_retry=NEVER,
    ),
    Reason(
        ("InputTooLarge",),
        "The texts of the job do not fit into a ConfigMap.",
        "Shorten the license, the system prompt, smoke tests or substitutions.",
        own_retry=NEVER,
    ),
    Reason(
        ("UnsafePath",),
        "A path is absolute, holds `..`, or leads out of the volume over a link.",
        "A path below the volume's root.",
        (_CONFIG,),
    ),
    Reason(
        ("InvalidModelName", "InvalidOllamaParameter", "InvalidModelfile"),
        "Ollama would not take the name, a parameter, or signs in the system prompt or license.",
        "Edit `ollama`; nothing is trained again.",
        (_CONFIG,),
    ),
    Reason(
        ("ContextTooSmall",),
        "`num_ctx` is below the shortest prompt.",
        "Raise it or leave it out.",
        (_CONFIG,),
    ),
    Reason(
        ("BatchSizeMismatch",),
        "The batch sizes of the job do not multiply to `globalBatchSize`.",
        "Change one of them.",
        (_CONFIG,),
    ),
    Reason(
        ("PrecisionUnsupported",),
        "FP16 on the CPU.",
        "BF16 or FP32.",
        (_CONFIG,),
    ),
    Reason(
        ("TargetModuleUnknown", "TargetModuleTied"),
        "The base has no such module, or it shares its weight with the embeddings.",
        "One of the names that are listed, or `AllLinear`.",
        (_CONFIG,),
    ),
    Reason(
        ("UnknownQuantization",),
        "A type that the stages' image does not know: it is older than the definition.",
        "Use images of the chart's version.",
        (_CONFIG,),
    ),
    Reason(
        ("ImatrixNeeded",),
        "The type is so small that llama.cpp makes it only with an importance matrix: `export.importanceMatrix` is "
        "`Never`.",
        "`export.importanceMatrix: Auto`, or another type.",
        (_CONFIG,),
    ),
    Reason(
        ("ImatrixNeedsData",),
        "The base is a GGUF, so there is no training data to compute an importance matrix from, and a type needs one "
        "or `export.importanceMatrix` is `Always`.",
        "Another type, and `Auto`.",
        (_CONFIG,),
    ),
    Reason(
        ("AlreadyQuantized",),
        "The model is stored in blocks already, and another type was asked for: a GGUF as the base, or "
        "`export.outType: Q8_0` with F16, BF16 or F32 among the quantizations.",
        "A base in F16, BF16 or F32, or the type that it has.",
        (_CONFIG,),
    ),
    Reason(
        ("QuantizationDoesNotFit",),
        "`MXFP4_MOE` without experts, or rows that fit neither the type nor another one.",
        "Another type; the sentence names one.",
        (_CONFIG,),
    ),
    Reason(
        ("QuantizationNotServed",),
        "`TQ1_0`, `TQ2_0` or `Q2_0`, which Ollama refuses to take.",
        "Another type.",
        (_CONFIG,),
    ),
    Reason(
        ("NoSamples",),
        "There is no training row to compute an importance matrix on.",
        "Data, or `export.importanceMatrix: Never`.",
        (_DATA,),
    ),
    Reason(
        ("GpuMemoryTooSmall",),
        "The training would need over a fifth more memory than each GPU has. The message says what for.",
        "The hint names what to change first: LoRA, ZeRO-3, gradient checkpointing, a smaller batch or sequence.",
        (_CONFIG,),
    ),
    Reason(
        ("JobNotTrained",),
        "The job in `model.job` has not trained a model on this volume.",
        "Run it first, on the same volume.",
        (_MISSING,),
    ),
    Reason(
        ("JobCycle",),
        "Each of the jobs that are named waits for what the next one trains.",
        "Give one of them another `model`.",
        own_retry=NEVER,
    ),
    Reason(
        ("JobOnAnotherVolume",),
        "The job in `model.job` works on another volume, where this one cannot read what it trains.",
        "The same `storage` in both.",
        own_retry=NEVER,
    ),
    Reason(
        ("JobTrainsNothing",),
        "The base of the job in `model.job` is a GGUF file, so it trains nothing.",
        "Name another job, or that file in `model.gguf`.",
        own_retry=NEVER,
    ),
    Reason(
        ("WorldSizeChanged",),
        "The checkpoint is of another number of processes.",
        "Go back to that number, or delete the folder that is named and start over.",
        (_CONFIG,),
    ),
    Reason(
        ("StateLayoutChanged",),
        "The checkpoint was saved with another `round_robin_gradients` or `sub_group_size` in `deepspeed.config`; "
        "DeepSpeed would load it into the wrong places.",
        "Set what the hint names, or delete the folder that is named and start over.",
        (_CONFIG,),
    ),
    Reason(
        ("NodeUnplaced",),
        "The Job of a training over several nodes was made by hand, and not as `tunesmith render` prints it.",
        "Leave it to the operator.",
        (_CONFIG,),
    ),
)
