"""Reasons of whole classes of failure: what is said where the program gave no word of its own, or left none at all."""

from __future__ import annotations

from collections.abc import Mapping

from tunesmith_stages.reasons.exit_codes import ExitCode
from tunesmith_stages.reasons.retry import LATER, NEVER
from tunesmith_stages.reasons.row import Reason, Sign, Where


def _exit(code: int) -> Sign:
    return Sign(Where.EXIT_CODE, str(code))


def _class(code: ExitCode, name: str, means: str, hint: str, *signs: Sign) -> Reason:
    return Reason((name,), means, hint, (code,), signs=(_exit(code), *signs))


_SIGNAL = 128
"""Added to the number of the signal that ended a program, this is the container's exit code."""

_LEFT_BY_ITSELF = (
    "Evicted",
    "NodeLost",
    "NodeShutdown",
    "Preempting",
    "Terminated",
    "Shutdown",
    "UnexpectedAdmissionError",
    "NodeAffinity",
    "OutOfcpu",
    "OutOfmemory",
    "OutOfephemeral-storage",
    "OutOfpods",
    "OutOfnvidia.com/gpu",
)
"""Reasons in the status of a pod that its node has ended, or would not begin
(https://github.com/kubernetes/kubernetes, pkg/kubelet: eviction, nodeshutdown, lifecycle/predicate.go)."""

CLASS_ROWS = (
    _class(
        ExitCode.BAD_DATA,
        "BadData",
        "The data cannot be used as it is.",
        "Mend the data or the field that describes it.",
    ),
    _class(
        ExitCode.MISSING_INPUT,
        "MissingInput",
        "Something that the job names is not there.",
        "Put it there or correct its name.",
    ),
    _class(
        ExitCode.UNAVAILABLE,
        "Unavailable",
        "A server that the job needs does not answer.",
        "Start it, or correct its address.",
    ),
    _class(
        ExitCode.INTERNAL,
        "InternalError",
        "The stage ended in a way that it should not.",
        "Report it with the log.",
    ),
    _class(
        ExitCode.NO_SPACE,
        "NoSpace",
        "The disk is full or cannot be written.",
        "Free space on the volume, or mount it for writing; then run it again.",
        Sign(Where.LOG, text="No space left on device"),
        Sign(Where.LOG, text=r"PytorchStreamWriter failed"),
        Sign(Where.LOG, text=r"inline_container\.cc"),
        Sign(Where.LOG, text="Disk quota exceeded"),
    ),
    _class(
        ExitCode.TEMPORARY,
        "Temporary",
        "A passing fault ended the stage, such as a file system that gave up for a moment.",
        "Run it again. If it lasts: the NFS server, and the network to it.",
        Sign(Where.LOG, text="Stale file handle"),
    ),
    _class(
        ExitCode.NO_PERMISSION,
        "NoPermission",
        "A file or server refuses access.",
        "Give the user that runs the stage access.",
    ),
    _class(
        ExitCode.BAD_CONFIG,
        "BadConfig",
        "The job asks for something that cannot work.",
        "Correct the field that is named.",
    ),
    _class(
        ExitCode.OUT_OF_MEMORY,
        "OutOfMemory",
        "The memory did not suffice: that of the container, up to its limit, or that of a GPU.",
        "Use smaller batches or shorter sequences, `gradientCheckpointing` or a higher ZeRO stage; or more memory: "
        "`pods.<stage>.resources.limits.memory`, or larger GPUs.",
        Sign(Where.ENDED, "OOMKilled"),
        Sign(Where.LOG, text="OutOfMemoryError"),
        Sign(Where.LOG, text="can't allocate memory"),
        Sign(Where.LOG, text="Cannot allocate memory"),
        Sign(Where.LOG, text=r"std::bad_alloc"),
        Sign(Where.LOG, text=r"(?i:cuda)[^\n]*out of memory"),
        Sign(Where.LOG, text=r"CUBLAS_STATUS_ALLOC_FAILED"),
        Sign(Where.LOG, text=r"CUDNN_STATUS_ALLOC_FAILED"),
        Sign(Where.LOG, text="Failed to CUDA (?:host )?[mc]?alloc"),
    ),
    _class(
        ExitCode.GATE_FAILED,
        "GateFailed",
        "A proof failed: what was made is not what it should be.",
        "See what differs in the log.",
    ),
    _class(
        ExitCode.INTERRUPTED,
        "Interrupted",
        "The stage was stopped: its pod was evicted, preempted or deleted, or its node was lost.",
        "On a cluster it goes on by itself, else run it again: it goes on where it can. If it repeats, see the "
        "events of the pod and of its node.",
        _exit(_SIGNAL + 15),
        Sign(Where.CONDITION, "DisruptionTarget"),
        *(Sign(Where.POD, word) for word in _LEFT_BY_ITSELF),
    ),
)

FAILURE_CLASSES: Mapping[ExitCode, Reason] = {row.code: row for row in CLASS_ROWS}

INTERRUPTED = FAILURE_CLASSES[ExitCode.INTERRUPTED]

OUT_OF_TIME = Reason(
    ("DeadlineExceeded",),
    "The training took longer than `activeDeadlineSeconds`, time without a place on a node not counted.",
    "Raise `spec.activeDeadlineSeconds`: the training goes on from its newest checkpoint.",
    own_retry=NEVER,
    signs=(Sign(Where.POD, "DeadlineExceeded"),),
)

WITHOUT_A_WORD = (
    Reason(
        ("Killed",),
        "The program was killed (signal 9), and nobody says why.",
        "Mostly the memory of the node: raise `pods.<stage>.resources.requests.memory`.",
        (ExitCode.TEMPORARY,),
        own_retry=LATER,
        signs=(_exit(_SIGNAL + 9),),
    ),
    Reason(
        ("Crashed",),
        "The program crashed, such as in a driver or a library.",
        "Report it with the log.",
        (ExitCode.INTERNAL,),
        signs=tuple(_exit(_SIGNAL + number) for number in (4, 6, 8, 11)),  # SIGILL, ABRT, FPE, SEGV
    ),
    Reason(
        ("ContainerCannotRun",),
        "The container runtime could not start the program.",
        "The stages' image: for this machine's architecture, and of the chart's version? Then `spec.pods`.",
        (ExitCode.BAD_CONFIG,),
        signs=(Sign(Where.ENDED, "StartError"), Sign(Where.ENDED, "ContainerCannotRun"), _exit(126), _exit(127)),
    ),
    Reason(
        ("ScratchSpaceTooSmall",),
        "The pod wrote more to its scratch space than it may, and its node ended it.",
        "Raise `pods.<stage>.resources.limits.ephemeral-storage`, or the volume that the sentence names.",
        (ExitCode.NO_SPACE,),
        own_retry=NEVER,
        signs=(
            Sign(Where.POD, "Evicted", "exceeds the total limit of containers"),
            Sign(Where.POD, "Evicted", "exceeded its local ephemeral storage limit"),
            Sign(Where.POD, "Evicted", "Usage of EmptyDir volume .* exceeds the limit"),
        ),
    ),
    OUT_OF_TIME,
)
