"""What Kubernetes, the libraries of a training and exit codes really say, and the reason that must come of it.

Each case is (where it stands, the word, the text, the reason, what becomes of it). The texts are as their programs
write them: kubelet, scheduler and controllers of Kubernetes 1.33, PyTorch 2.15, CUDA 13, NCCL 2.27, Gloo, DeepSpeed,
requests 2.34, httpx 0.28, huggingface_hub 2.4, modelscope_hub 0.5.
"""

from __future__ import annotations

from dataclasses import dataclass

from tunesmith_stages.reasons.row import Where

LATER, AT_ONCE, NO, WAITS = "later", "at once", "no", "goes on by itself"


@dataclass(frozen=True)
class Seen:
    """Something that stands somewhere."""

    where: Where
    word: str
    text: str
    reason: str
    then: str
    """What becomes of the work."""


def _exit(code: int, reason: str, then: str) -> Seen:
    return Seen(Where.EXIT_CODE, str(code), "", reason, then)


def _log(reason: str, then: str, *texts: str) -> list[Seen]:
    return [Seen(Where.LOG, "", text, reason, then) for text in texts]


def _peers(reason: str, *texts: str) -> list[Seen]:
    return [Seen(Where.PEERS, "", text, reason, LATER) for text in texts]


EXIT_CODES = [
    _exit(65, "BadData", NO),
    _exit(66, "MissingInput", NO),
    _exit(69, "Unavailable", LATER),
    _exit(70, "InternalError", NO),
    _exit(74, "NoSpace", LATER),
    _exit(75, "Temporary", LATER),
    _exit(77, "NoPermission", NO),
    _exit(78, "BadConfig", NO),
    _exit(79, "OutOfMemory", NO),
    _exit(80, "GateFailed", NO),
    _exit(81, "Interrupted", AT_ONCE),
    _exit(126, "ContainerCannotRun", NO),
    _exit(127, "ContainerCannotRun", NO),
    _exit(132, "Crashed", NO),
    _exit(134, "Crashed", NO),
    _exit(135, "FileUnreadable", LATER),
    _exit(136, "Crashed", NO),
    _exit(137, "Killed", LATER),
    _exit(139, "Crashed", NO),
    _exit(143, "Interrupted", AT_ONCE),
]

CONTAINERS = [
    Seen(Where.ENDED, "OOMKilled", "", "OutOfMemory", NO),
    Seen(Where.ENDED, "StartError", "exec: python3: not found: unknown", "ContainerCannotRun", NO),
    Seen(Where.ENDED, "ContainerCannotRun", "exec format error", "ContainerCannotRun", NO),
    Seen(Where.HELD_UP, "ErrImagePull", "401 Unauthorized", "ImagePullBackOff", WAITS),
    Seen(Where.HELD_UP, "ImagePullBackOff", "Back-off pulling image", "ImagePullBackOff", WAITS),
    Seen(Where.HELD_UP, "ErrImageNeverPull", "is not present with pull policy of Never", "ImagePullBackOff", WAITS),
    Seen(Where.HELD_UP, "InvalidImageName", "couldn't parse image name", "ImagePullBackOff", WAITS),
    Seen(Where.HELD_UP, "CreateContainerConfigError", 'secret "tunesmith-hf" not found', "SecretNotFound", WAITS),
    Seen(
        Where.HELD_UP,
        "CreateContainerConfigError",
        "couldn't find key token in Secret team-a/tunesmith-hf",
        "SecretNotFound",
        WAITS,
    ),
    Seen(
        Where.HELD_UP,
        "CreateContainerConfigError",
        "container has runAsNonRoot and image will run as root",
        "ContainerConfigInvalid",
        WAITS,
    ),
]

_LOW = "The node was low on resource: memory. Threshold quantity: 100Mi, available: 91Mi."
PODS = [
    Seen(Where.POD, "Evicted", _LOW, "Interrupted", AT_ONCE),
    *(
        Seen(Where.POD, word, "Pod was terminated by its node", "Interrupted", AT_ONCE)
        for word in ("NodeLost", "NodeShutdown", "Preempting", "Terminated", "Shutdown", "UnexpectedAdmissionError")
    ),
    *(
        Seen(Where.POD, word, "Pod was rejected: Node didn't have enough resource", "Interrupted", AT_ONCE)
        for word in ("NodeAffinity", "OutOfcpu", "OutOfmemory", "OutOfephemeral-storage", "OutOfpods")
    ),
    Seen(Where.POD, "OutOfnvidia.com/gpu", "Pod was rejected: requested: 1, used: 8", "Interrupted", AT_ONCE),
    Seen(Where.CONDITION, "DisruptionTarget", "", "Interrupted", AT_ONCE),
    Seen(
        Where.POD,
        "Evicted",
        "Pod ephemeral local storage usage exceeds the total limit of containers 10Gi. ",
        "ScratchSpaceTooSmall",
        NO,
    ),
    Seen(
        Where.POD,
        "Evicted",
        'Container stage exceeded its local ephemeral storage limit "10Gi". ',
        "ScratchSpaceTooSmall",
        NO,
    ),
    Seen(
        Where.POD,
        "Evicted",
        'Usage of EmptyDir volume "scratch" exceeds the limit "10Gi". ',
        "ScratchSpaceTooSmall",
        NO,
    ),
]

_BEFORE = 'Error creating: pods "bot-fetch-1-x" is forbidden: '
CLUSTER = [
    Seen(
        Where.SCHEDULER, "SchedulingGated", "Scheduling is blocked due to non-empty scheduling gates", "Queued", WAITS
    ),
    Seen(
        Where.SCHEDULER,
        "Unschedulable",
        '0/3 nodes are available: persistentvolumeclaim "tunesmith" not found.',
        "VolumeClaimNotFound",
        WAITS,
    ),
    Seen(
        Where.SCHEDULER,
        "Unschedulable",
        "0/3 nodes are available: pod has unbound immediate PersistentVolumeClaims.",
        "VolumeClaimNotBound",
        WAITS,
    ),
    Seen(
        Where.SCHEDULER,
        "Unschedulable",
        "0/3 nodes are available: 3 Insufficient nvidia.com/gpu.",
        "Unschedulable",
        WAITS,
    ),
    Seen(
        Where.EVENT,
        "FailedCreate",
        f"{_BEFORE}exceeded quota: team, requested: limits.cpu=8, used: limits.cpu=60, limited: limits.cpu=64",
        "QuotaExceeded",
        WAITS,
    ),
    Seen(
        Where.EVENT,
        "FailedCreate",
        f"{_BEFORE}failed quota: team: must specify requests.nvidia.com/gpu for: stage",
        "QuotaExceeded",
        WAITS,
    ),
    Seen(
        Where.EVENT,
        "FailedCreate",
        f'{_BEFORE}violates PodSecurity "restricted:latest": runAsUser=0',
        "PodSecurityRefused",
        WAITS,
    ),
    Seen(
        Where.EVENT,
        "FailedCreate",
        f'{_BEFORE}error looking up service account team-a/tunesmith-exec: serviceaccount "tunesmith-exec" not found',
        "ServiceAccountNotFound",
        WAITS,
    ),
    Seen(
        Where.EVENT,
        "FailedCreate",
        f"{_BEFORE}no PriorityClass with name batch was found",
        "PriorityClassNotFound",
        WAITS,
    ),
    Seen(
        Where.EVENT,
        "FailedCreate",
        f'{_BEFORE}pod rejected: RuntimeClass "nvidia" not found',
        "RuntimeClassNotFound",
        WAITS,
    ),
    Seen(
        Where.EVENT,
        "FailedCreate",
        f"{_BEFORE}maximum memory usage per Container is 1Gi, but limit is 4Gi",
        "PodsForbidden",
        WAITS,
    ),
    Seen(
        Where.EVENT,
        "FailedMount",
        'MountVolume.SetUp failed for volume "token" : secret "tunesmith-hf" not found',
        "SecretNotFound",
        WAITS,
    ),
    Seen(
        Where.EVENT,
        "FailedMount",
        'MountVolume.SetUp failed for volume "token" : references non-existent secret key: token',
        "SecretNotFound",
        WAITS,
    ),
    Seen(
        Where.EVENT,
        "FailedMount",
        'MountVolume.SetUp failed for volume "nfs" : mount failed: exit status 32: access denied by server',
        "VolumeNotMounted",
        WAITS,
    ),
    Seen(
        Where.EVENT,
        "FailedAttachVolume",
        'Multi-Attach error for volume "pvc-1": Volume is already exclusively attached to one node',
        "VolumeNotMounted",
        WAITS,
    ),
    Seen(Where.API, "Forbidden", 'jobs.batch "x" is forbidden: exceeded quota: team', "QuotaExceeded", WAITS),
    Seen(Where.API, "Forbidden", 'admission webhook "policy" denied the request', "ApiRefused", WAITS),
]

_HUB = "https://huggingface.co/api/models/o/n"
_CUDA = "torch.AcceleratorError: CUDA error: "
_SHM = "No space left on device (28)"
LIBRARIES = [
    *_log(
        "DriverTooOld",
        NO,
        "RuntimeError: The NVIDIA driver on your system is too old (found version 12020). Please update",
        "Insufficient driver: 12020 < 13020",
        f"{_CUDA}CUDA driver version is insufficient for CUDA runtime version",
        f"{_CUDA}the provided PTX was compiled with an unsupported toolchain.",
        f"{_CUDA}system has unsupported display driver / cuda driver combination",
        "Error 804: forward compatibility was attempted on non supported HW",
    ),
    *_log("GpuNotSupported", NO, f"{_CUDA}no kernel image is available for execution on the device"),
    *_log(
        "GpuMissing",
        NO,
        "RuntimeError: Found no NVIDIA driver on your system. Please check that you have an NVIDIA GPU",
        f"{_CUDA}no CUDA-capable device is detected",
    ),
    *_log(
        "GpuBusy",
        LATER,
        f"{_CUDA}CUDA-capable device(s) is/are busy or unavailable",
        f"{_CUDA}system not yet initialized",
    ),
    *_log(
        "GpuFault",
        LATER,
        f"{_CUDA}uncorrectable ECC error encountered",
        f"{_CUDA}uncorrectable NVLink error detected during the execution",
        f"{_CUDA}Invalid access of peer GPU memory over nvlink or a hardware error",
        f"{_CUDA}hardware stack error",
        f"{_CUDA}unknown error",
        "pynvml.NVMLError_GpuIsLost: GPU is lost",
        "NVRM: Xid (PCI:0000:3b:00): 79, pid=1234, GPU has fallen off the bus.",
    ),
    *_log(
        "SharedMemoryTooSmall",
        NO,
        "RuntimeError: DataLoader worker (pid 41) is killed by signal: Bus error. It is possible that dataloader's "
        "workers are out of shared memory. Please try to raise your shared memory limit.",
        "ERROR: Unexpected bus error encountered in worker. This might be caused by insufficient shared memory (shm).",
        "ncclSystemError: System call failed.\nLast error:\n"
        f"Error while creating shared memory segment /dev/shm/nccl-vGcPYb (size 33030528), error: {_SHM}",
        f"RuntimeError: unable to open shared memory object </torch_41_7> in read-write mode: {_SHM}",
        f"RuntimeError: unable to write to file </torch_41_1>: {_SHM}",
        f"RuntimeError: unable to resize file </torch_41_2> to the right size: {_SHM}",
        "RuntimeError: unable to allocate shared memory(shm) for file </torch_41_3>: Cannot allocate memory (12)",
    ),
    *_log(
        "NoSpace",
        LATER,
        "OSError: [Errno 28] No space left on device: '/data/stages/train'",
        "OSError: [Errno 122] Disk quota exceeded",
        "RuntimeError: PytorchStreamWriter failed writing file data/0: file write failed",
        "[enforce fail at inline_container.cc:664] . unexpected pos 64 vs 0",
    ),
    *_log("Temporary", LATER, "OSError: [Errno 116] Stale file handle: 'store/models'"),
    *_log("VolumeReadOnly", LATER, "OSError: [Errno 30] Read-only file system: '/data/stages'"),
    *_log(
        "VolumeFails",
        LATER,
        "OSError: [Errno 5] Input/output error",
        "safetensors_rust.SafetensorError: Error while serializing: I/O error: Input/output (os error 5)",
    ),
    *_log(
        "OutOfMemory",
        NO,
        "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79 GiB",
        f"{_CUDA}out of memory",
        "RuntimeError: [enforce fail at alloc_cpu.cpp:119] DefaultCPUAllocator: can't allocate memory: you tried",
        "OSError: [Errno 12] Cannot allocate memory",
        "terminate called after throwing an instance of 'std::bad_alloc'",
        "RuntimeError: CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "RuntimeError: cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
        "Failed to CUDA calloc 2560 bytes",
        "Failed to CUDA host alloc 4096 bytes",
    ),
    *_log(
        "HubAccessDenied",
        NO,
        f"requests.exceptions.HTTPError: 401 Client Error: Unauthorized for url: {_HUB}",
        f"huggingface_hub.errors.RepositoryNotFoundError: 401 Client Error.\n\nRepository Not Found for url: {_HUB}.",
        f"httpx.HTTPStatusError: Client error '401 Unauthorized' for url '{_HUB}'",
        '{"error":"Invalid credentials in Authorization header"}',
        "modelscope_hub.errors.AuthenticationError: [E3001] [401] User not logged in. (request_id=1)",
    ),
]

_NCCL = "torch.distributed.DistBackendError: NCCL error in: ProcessGroupNCCL.cpp:3699, "
OTHERS = [
    *_peers(
        "TrainingStalled",
        "[Rank 0] Watchdog caught collective operation timeout: WorkNCCL(SeqNum=78, OpType=BROADCAST)",
        "[PG ID 0 Rank 1] Received a dump signal due to a collective timeout from  rank 0",
        "RuntimeError: [gloo/transport/tcp/unbound_buffer.cc:78] Timed out waiting 1800000ms for recv operation",
        "RuntimeError: [gloo/transport/tcp/pair.cc:454] Application timeout caused pair closure",
        "store->get('0') got error: wait timeout after 1800000ms, keys: /default_pg/0//cuda//0",
    ),
    *_peers(
        "ConnectionLost",
        "RuntimeError: [gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:2345",
        f"{_NCCL}unhandled system error\nLast error:\nsocketProgress: Connection closed by remote peer 10.0.0.2<4711>",
        f"{_NCCL}unhandled system error\nLast error:\nCall to recv from 10.0.0.2<47> failed: Connection reset by peer",
        "torch.distributed.DistNetworkError: Connection refused",
        "[TCPStore.cpp:125] recvValue failed on SocketImpl: Broken pipe",
        "RuntimeError: [gloo/transport/tcp/pair.cc:537] Socket closed [10.0.0.2]",
        "torch.distributed.DistBackendError: NCCL communicator was aborted on rank 2.",
        f"{_NCCL}remote process exited or there was a network error, NCCL version 2.27.5",
        "ncclRemoteError: A call failed possibly due to a network error or a remote process exiting prematurely.",
    ),
    *_peers(
        "NcclFailed",
        f"{_NCCL}unhandled system error (run with NCCL_DEBUG=INFO for details), NCCL version 2.27.5",
        "ncclSystemError: System call (e.g. socket, malloc) or external library call failed or device error.",
        "ncclInternalError: Internal check failed.",
        f"{_NCCL}unhandled cuda error (run with NCCL_DEBUG=INFO for details), NCCL version 2.27.5",
        "ncclUnhandledCudaError: Call to CUDA function failed.",
        f"{_NCCL}internal error - please report this issue to the NCCL developers",
    ),
]

ALL = [*EXIT_CODES, *CONTAINERS, *PODS, *CLUSTER, *LIBRARIES, *OTHERS]
