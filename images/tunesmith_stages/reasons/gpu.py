"""Reasons that GPUs, their driver and the libraries of a training give, in words of their own."""

from __future__ import annotations

from tunesmith_stages.reasons.exit_codes import ExitCode
from tunesmith_stages.reasons.row import Reason, Sign, Where

_CONFIG = ExitCode.BAD_CONFIG
_TEMPORARY = ExitCode.TEMPORARY
_BOUNDED = (_TEMPORARY, _CONFIG)
"""It may pass; after three times in a row without a new checkpoint between them it is not tried again by itself."""


def _log(*texts: str) -> tuple[Sign, ...]:
    return tuple(Sign(Where.LOG, text=text) for text in texts)


def _peers(*texts: str) -> tuple[Sign, ...]:
    return tuple(Sign(Where.PEERS, text=text) for text in texts)


GPUS = (
    Reason(
        ("DriverTooOld",),
        "The node's NVIDIA driver is too old for the CUDA that PyTorch was built with, or does not fit the GPU.",
        "Update the driver on that node, or keep the training off it (`pods.train.nodeSelector`).",
        (_CONFIG,),
        signs=_log(  # the first two are PyTorch's, all others CUDA's (cudaGetErrorString)
            "NVIDIA driver on your system is too old",
            "Insufficient driver: ",
            "CUDA driver version is insufficient for CUDA runtime version",
            "the provided PTX was compiled with an unsupported toolchain",
            "unsupported display driver / cuda driver combination",
            "forward compatibility was attempted on non supported HW",
        ),
    ),
    Reason(
        ("GpuNotSupported",),
        "PyTorch was not built for GPUs of this kind: they are too old, or newer than it.",
        "Take nodes with other GPUs (`pods.train.nodeSelector`), or an image with a PyTorch for these.",
        (_CONFIG,),
        signs=_log("no kernel image is available for execution on the device"),
    ),
    Reason(
        ("GpuMissing",),
        "The pod, or with `tunesmith run` the machine, shows fewer GPUs than `gpusPerNode`.",
        "NVIDIA's runtime: `podDefaults.train.runtimeClassName`. On one machine: `nvidia-smi`, `CUDA_VISIBLE_DEVICES`, "
        "or a lower `gpusPerNode`.",
        (_CONFIG,),
        signs=(
            Sign(Where.PROGRAM),
            *_log("Found no NVIDIA driver on your system", "no CUDA-capable device is detected"),
        ),
    ),
    Reason(
        ("GpuBusy",),
        "A GPU is taken by somebody else, or not ready yet.",
        "Who else uses it on that node? Exclusive compute mode, or a fabric manager that does not run (NVSwitch).",
        _BOUNDED,
        signs=_log("device\\(s\\) is/are busy or unavailable", "CUDA error: system not yet initialized"),
    ),
    Reason(
        ("GpuFault",),
        "A GPU is broken, or was for a moment: its memory (ECC), NVLink, or the GPU as a whole.",
        "`nvidia-smi`, `dmesg` (Xid) on that node: drain it, or reset the GPU.",
        _BOUNDED,
        signs=_log(
            "uncorrectable ECC error encountered",
            "uncorrectable NVLink error",
            "over nvlink or a hardware error",
            "hardware stack error",
            "CUDA error: unknown error",
            "GPU is lost",
            "NVRM: Xid",
        ),
    ),
    Reason(
        ("SharedMemoryTooSmall",),
        "The pod's shared memory, /dev/shm, is full: processes of a training pass rows and gradients through it.",
        "Raise `pods.train.sharedMemory`, or lower `dataloaderWorkers`.",
        (_CONFIG,),
        signs=_log(
            "out of shared memory\\. Please try to raise your shared memory limit",
            "insufficient shared memory \\(shm\\)",
            "shared memory segment /dev/shm/[^\n]*(?:No space left|Cannot allocate)",
            "unable to (?:open shared memory object|write to file|resize file|allocate shared memory)[^\n]*"
            "(?:No space left|Cannot allocate)",
        ),
    ),
)
"""They come before those for a full disk or memory, whose words they use too."""

TIMED_OUT = Reason(
    ("TrainingStalled",),
    "Nothing was finished for `guards.stallMinutes`, or a process waited in vain for another for "
    "`ddpTimeoutSeconds`: a process hangs.",
    "`rank-0.log` and so on end with where each process stood, or with its last words. NCCL's network, a GPU that fell "
    "off the bus (`dmesg`), a volume that does not answer. If single steps or saves take so long, raise "
    "`ddpTimeoutSeconds` and `guards.stallMinutes`.",
    _BOUNDED,
    signs=(
        Sign(Where.PROGRAM),
        *_peers(
            "Watchdog caught collective operation timeout",  # NCCL's watchdog, before it aborts the rank
            "Received a dump signal due to a collective timeout",  # and in the logs of others then
            "Timed out waiting",  # Gloo, for what a peer was to send or to take
            "Application timeout caused pair closure",  # Gloo, of other peers of a rank that has timed out
            "wait timeout after",  # the store by which ranks meet
        ),
    ),
)

CONNECTION_LOST = Reason(
    ("ConnectionLost",),
    "Processes of the training lost each other, and nothing else is known: the network between them, or NCCL.",
    "The network between nodes; `NCCL_DEBUG: INFO` in `pods.train.env` says more. A node that is no longer reached.",
    _BOUNDED,
    signs=_peers(
        "Connection closed by (?:remote )?peer",
        "Connection reset by peer",
        "Connection refused",
        "Broken pipe",
        "Socket closed",
        "NCCL communicator was aborted",
        "remote process exited",
        "ncclRemoteError",
    ),
)

NCCL_FAILED = Reason(
    ("NcclFailed",),
    "NCCL, by which GPUs exchange gradients, failed by itself; its own words are in the sentence.",
    "`NCCL_DEBUG: INFO` in `pods.train.env` says more: mostly the network (`NCCL_SOCKET_IFNAME`, `NCCL_IB_HCA`), "
    "InfiniBand's locked memory, or /dev/shm.",
    _BOUNDED,
    signs=_peers(
        "ncclSystemError",
        "ncclInternalError",
        "ncclUnhandledCudaError",
        "unhandled system error",
        "unhandled cuda error",
        "NCCL error in: ",
    ),
)

PEERS = (TIMED_OUT, CONNECTION_LOST, NCCL_FAILED)
"""What a process of a training says of others. Whatever else is known of its end comes before it."""
