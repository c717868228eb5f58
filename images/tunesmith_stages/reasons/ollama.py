"""Reasons: it is stalled: Ollama."""

from __future__ import annotations

from tunesmith_stages.reasons.exit_codes import ExitCode
from tunesmith_stages.reasons.row import Reason

_PERMISSION = ExitCode.NO_PERMISSION
_CONFIG = ExitCode.BAD_CONFIG
_MEMORY = ExitCode.OUT_OF_MEMORY
_GATE = ExitCode.GATE_FAILED

OLLAMA = (
    Reason(
        ("OllamaTooOld",),
        "It is older than 0.34.1.",
        "Update it.",
        (_CONFIG,),
    ),
    Reason(
        ("NotOllama", "InvalidOllamaAddress", "InvalidCaBundle"),
        "What answers is something else, or the entry in `servers` is wrong.",
        "`servers[].url`, `servers[].caBundle`.",
        (_CONFIG,),
    ),
    Reason(
        ("OllamaForbidden",),
        "The server, or a proxy before it, does not let the request through.",
        "Let pods of the stages use all of `/api/`, `DELETE` too.",
        (_PERMISSION,),
    ),
    Reason(
        ("OllamaUploadTooLarge",),
        "A proxy before the server limits uploads.",
        "Raise the limit above the size of the model, or `method: Exec`.",
        (_CONFIG,),
    ),
    Reason(
        ("OllamaInconsistent",),
        "The server does not have what it just made, or has what it just removed.",
        "The address must lead to one server, not to several replicas.",
        (_CONFIG,),
    ),
    Reason(
        ("OllamaRefused",),
        "It said no, in its own words.",
        "The server's log.",
        (_GATE,),
    ),
    Reason(
        ("OllamaOutOfMemory",),
        "The model does not fit into the server's memory.",
        "A smaller quantization or `num_ctx`, or a larger server.",
        (_MEMORY,),
    ),
    Reason(
        ("ExecForbidden",),
        "The API server does not allow the command in that pod.",
        "`servers[].exec` in the values, and upgrade the chart. Restricted to `ollama create` and `ollama rm` in one "
        "container.",
        (_PERMISSION,),
    ),
    Reason(
        ("NoClusterAccess",),
        "Exec: the pod has no ServiceAccount's token.",
        "A webhook that removes it?",
        (_CONFIG,),
    ),
    Reason(
        ("OllamaContainerNotFound", "OllamaNotInContainer"),
        "Exec: no such container, or no `ollama` in it.",
        "`servers[].exec.container`.",
        (_CONFIG,),
    ),
    Reason(
        ("VolumeNotInOllamaPod", "VolumeNotReadableInOllamaPod"),
        "Exec: the Ollama pod does not see the file, or may not read it.",
        "Mount the same volume there, at `servers[].exec.volumeMountPath`, readable for its user.",
        (_PERMISSION, _CONFIG),
    ),
    Reason(
        ("OllamaPodDiffers",),
        "Exec: pod and address are different servers.",
        "Both must mean the same, of one replica.",
        (_CONFIG,),
    ),
)
