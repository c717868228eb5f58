"""What a FineTuneJob says about its pods, its storage and its scheduling. All of it is for clusters only."""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import Field

from tunesmith.api.values import (
    QUALIFIED_PATTERN,
    ApiModel,
    Bool,
    Int,
    LabelValue,
    Once,
    Quantity,
    Rule,
    Subdomain,
    VolumePath,
)

# --- storage and scheduling ------------------------------------------------------------------------------------------

UserId = Annotated[Int, Field(ge=1, le=2_147_483_647)]
"""A user or group of the container; never root."""


class Storage(ApiModel):
    """The volume that everything is kept on, on a cluster.

    What is left out is as the administrator set it for the namespace. `tunesmith run` takes its volume from the command
    line instead.
    """

    claim_name: Subdomain | None = None
    """PersistentVolumeClaim in the job's namespace. Pods on several nodes use it at once: ReadWriteMany."""

    sub_path: VolumePath | None = None
    """Folder of the claim that is the volume's root. Default: the claim's own root."""

    run_as_user: UserId | None = None
    """User that the programs run as; it must be allowed to write to the volume."""

    run_as_group: UserId | None = None
    """Group that the programs run as."""

    supplemental_groups: Annotated[tuple[UserId, ...], Field(max_length=16), Once()] = ()
    """Further groups of the programs, such as the one that owns an NFS export."""


class Retention(ApiModel):
    """How long what this job made stays on the volume. `tunesmith gc` keeps to it; nothing else removes anything."""

    keep_intermediates: Bool = False
    """Keep the converted model, from which quantizations are made, also after all of them are registered. Without it, a
    further quantization converts once more. Nothing is ever trained again for that: the trained model stays."""

    keep_versions: Annotated[Int, Field(ge=1, le=1000)] = 1
    """So many trained versions of the job stay, with their quantizations: the one that it asks for now, and those that
    it asked for before an edit, the newest first. An edit back to a version that stays trains nothing."""


class JobStorage(Storage):
    """The volume that everything is kept on, on a cluster, and what stays there.

    What is left out of the volume is as the administrator set it for the namespace. `tunesmith run` takes its volume
    from the command line instead.
    """

    retention: Retention | None = None
    """What stays on the volume of what the job has made, when `tunesmith gc` cleans it up. Default: what the job needs
    as it is written now."""


class Scheduling(ApiModel):
    """How the training queues and whom it may displace, on a cluster."""

    queue_name: Subdomain | None = None
    """Kueue's LocalQueue that the training waits in. Default: none."""

    priority_class_name: (
        Annotated[
            Subdomain,
            Rule(
                "must not begin with `system-`: those classes are for what the cluster itself needs",
                lambda name: not name.startswith("system-"),
                "!self.startsWith('system-')",
            ),
        ]
        | None
    ) = None
    """PriorityClass of the pods; not one of the cluster's own, `system-...`. Default: the cluster's."""


# --- mappings by name ------------------------------------------------------------------------------------------------

QualifiedName = Annotated[str, Field(pattern=QUALIFIED_PATTERN)]
"""A key of labels, annotations or resources: `name` or `domain/name`."""

_OURS = "tunesmith.dev/"
_KUBERNETES = re.compile(r"^([a-z0-9.-]+\.)?(kubernetes|k8s|x-k8s)\.io/")
_HARMLESS = re.compile(r"^(cluster-autoscaler\.kubernetes\.io/|kueue\.x-k8s\.io/podset-)")
"""Keys of Kubernetes' own that say how pods are placed and kept, and that nothing else gives."""


def _is_free(key: str) -> bool:
    return not (key.startswith(_OURS) or (_KUBERNETES.match(key) and not _HARMLESS.match(key)))


_FREE_KEYS = Rule(
    f"must not have keys of `{_OURS}`, `kubernetes.io/` or `k8s.io/`, which others rely on; "
    "`cluster-autoscaler.kubernetes.io/` and `kueue.x-k8s.io/podset-` are allowed",
    lambda keys: all(map(_is_free, keys)),
    f"self.all(key, !key.startsWith('{_OURS}') && "
    f"(!key.matches(r'{_KUBERNETES.pattern}') || key.matches(r'{_HARMLESS.pattern}')))",
)

_NAMED_DOMAIN = Rule(
    "must have keys with a domain, such as `example.com/team`: by keys without one, Services and NetworkPolicies "
    "choose pods; only the administrator may set such",
    lambda labels: all("/" in key for key in labels),
    "self.all(key, key.contains('/'))",
)

_PLACING = re.compile(r"^([A-Za-z0-9_-]+$|(cluster-autoscaler\.kubernetes\.io|karpenter\.sh|kueue\.x-k8s\.io)/)")
"""Keys that no program takes for an order but to place a pod. (`io.katacontainers...` has no slash, but a domain.)"""
_NETWORKS_KEY = "k8s.v1.cni.cncf.io/networks"
_NETWORKS = re.compile(r"^[a-z0-9.-]+(@[a-z0-9]+)?( *, *[a-z0-9.-]+(@[a-z0-9]+)?)*$")
"""Networks of the job's own namespace by name, as Multus reads them: no other namespace, no JSON."""
_TURNS_OFF = {"sidecar.istio.io/inject": "false", "linkerd.io/inject": "disabled"}
"""What keeps a service mesh away, so that the pod ends when its program does."""


def _is_harmless(key: str, value: str) -> bool:
    if key == _NETWORKS_KEY:
        return bool(_NETWORKS.fullmatch(value))
    return bool(_PLACING.match(key)) or _TURNS_OFF.get(key) == value


_HARMLESS_NOTES = Rule(
    "must have keys without a domain, of `cluster-autoscaler.kubernetes.io/`, `karpenter.sh/` or "
    f"`kueue.x-k8s.io/podset-`, `{_NETWORKS_KEY}` with names of networks in the job's namespace, or "
    + " or ".join(f"`{key}: {value}`" for key, value in _TURNS_OFF.items())
    + ": by others, programs of the cluster put images, volumes and identities into pods; only the administrator may "
    "set such",
    lambda notes: all(_is_harmless(key, value) for key, value in notes.items()),
    f"self.all(key, key.matches(r'{_PLACING.pattern}') || "
    f"(key == '{_NETWORKS_KEY}' && self[key].matches(r'{_NETWORKS.pattern}')) || "
    + " || ".join(f"(key == '{key}' && self[key] == '{value}')" for key, value in _TURNS_OFF.items())
    + ")",
)

AnyLabels = Annotated[dict[QualifiedName, LabelValue], Field(max_length=16), _FREE_KEYS]
AnyAnnotations = Annotated[
    dict[QualifiedName, Annotated[str, Field(max_length=4096)]], Field(max_length=16), _FREE_KEYS
]
"""What an administrator may set."""
Labels = Annotated[AnyLabels, _NAMED_DOMAIN]
Annotations = Annotated[AnyAnnotations, _HARMLESS_NOTES]
NodeSelector = Annotated[dict[QualifiedName, LabelValue], Field(max_length=16)]
Amounts = Annotated[dict[QualifiedName, Quantity], Field(max_length=16)]

# --- placement -------------------------------------------------------------------------------------------------------


class TolerationOperator(StrEnum):
    """How a taint's value is compared."""

    EXISTS = "Exists"
    EQUAL = "Equal"


class TaintEffect(StrEnum):
    """What a taint does to pods that do not tolerate it."""

    NO_SCHEDULE = "NoSchedule"
    PREFER_NO_SCHEDULE = "PreferNoSchedule"
    NO_EXECUTE = "NoExecute"


class Toleration(ApiModel):
    """A taint of nodes that the pods tolerate, as Kubernetes defines it."""

    RULES: ClassVar = (
        Rule(
            "must be empty with `operator: Exists`, which takes any value",
            lambda item: not (item.operator is TolerationOperator.EXISTS and item.value),
            "!(self.operator == 'Exists' && has(self.value) && self.value != '')",
            ("value",),
        ),
        Rule(
            "must be Exists if there is no `key`: that tolerates every taint",
            lambda item: item.key is not None or item.operator is TolerationOperator.EXISTS,
            "has(self.key) || self.operator == 'Exists'",
            ("operator",),
        ),
        Rule(
            "goes with `effect: NoExecute` only",
            lambda item: item.toleration_seconds is None or item.effect is TaintEffect.NO_EXECUTE,
            "!has(self.tolerationSeconds) || (has(self.effect) && self.effect == 'NoExecute')",
            ("tolerationSeconds",),
        ),
    )

    key: Annotated[str, Field(min_length=1, max_length=317, pattern=QUALIFIED_PATTERN)] | None = None
    """The taint's key. Default: any, with `operator: Exists`."""

    operator: TolerationOperator = TolerationOperator.EQUAL
    """Equal compares the taint's value, Exists takes any."""

    value: LabelValue | None = None
    """The taint's value."""

    effect: TaintEffect | None = None
    """The taint's effect. Default: any."""

    toleration_seconds: Annotated[Int, Field(ge=0, le=31_536_000)] | None = None
    """How long a pod stays after the taint NoExecute came. Default: for ever."""


# --- environment -----------------------------------------------------------------------------------------------------

_PREFIXES = ("NCCL", "RCCL", "UCX", "FI", "GLOO", "TORCH_NCCL", "IBV", "RDMAV", "MLX5", "OMP", "KMP")
_NAMES = (
    "CUDA_DEVICE_MAX_CONNECTIONS",
    "CUDA_DEVICE_ORDER",
    "CUDA_LAUNCH_BLOCKING",
    "CUDA_MODULE_LOADING",
    "CUDA_VISIBLE_DEVICES",
    "HIP_VISIBLE_DEVICES",
    "PYTORCH_ALLOC_CONF",
    "PYTORCH_CUDA_ALLOC_CONF",
)
ENV_PATTERN = rf"^(({'|'.join(_PREFIXES)})_[A-Z0-9_]{{1,120}}|{'|'.join(_NAMES)})$"
_LOADS_OR_WRITES = re.compile(
    r"PLUGIN|^OMP_TOOL|_MAIL_|"
    r"_(DRIVERS|LIB|LIBRARY|LIBRARIES|COMMAND|DIR|PATH|FILE|CONF_FILE|CONFIG|DEST|CERT|PKEY|ADDR|COMM_ID)$"
)
"""Variables of these libraries that name code to load, a command to run, a file to read or write, or an address:
NCCL_NET_PLUGIN, FI_PROVIDER_PATH, UCX_MODULE_DIR, UCX_GDB_COMMAND, RDMAV_DRIVERS, OMP_TOOL_LIBRARIES, NCCL_DEBUG_FILE,
GLOO_DEVICE_TRANSPORT_TCP_TLS_PKEY, UCX_ERROR_MAIL_TO, NCCL_COMM_ID (where the first rank is asked for), NCCL_RAS_ADDR
(where a diagnosis is offered)."""


class EnvVar(ApiModel):
    """A variable of the environment that tunes communication or the GPU."""

    RULES: ClassVar = (
        Rule(
            "must not be a variable that names code, a command, a file or an address; only the administrator may set "
            "one",
            lambda item: not _LOADS_OR_WRITES.search(item.name),
            f"!self.name.matches(r'{_LOADS_OR_WRITES.pattern}')",
            ("name",),
        ),
    )

    name: Annotated[str, Field(min_length=1, max_length=128, pattern=ENV_PATTERN)]
    """One of NCCL, RCCL, UCX, FI (libfabric), GLOO, TORCH_NCCL, IBV, RDMAV, MLX5, OMP or KMP with its rest, such as
    `NCCL_IB_HCA`, or CUDA_VISIBLE_DEVICES, CUDA_DEVICE_ORDER, CUDA_DEVICE_MAX_CONNECTIONS, CUDA_LAUNCH_BLOCKING,
    CUDA_MODULE_LOADING, HIP_VISIBLE_DEVICES, PYTORCH_ALLOC_CONF, PYTORCH_CUDA_ALLOC_CONF. Variables that name code to
    load, a command, a file or an address are refused."""

    value: Annotated[str, Field(max_length=4096)] = ""
    """Its value."""


# --- pods ------------------------------------------------------------------------------------------------------------


class ResourceRequirements(ApiModel):
    """What a pod asks for, and what it may use at most, by the resource's name."""

    requests: Amounts = Field(default_factory=dict)
    """What a node must have free, such as `cpu: "4"` or `memory: 16Gi`."""

    limits: Amounts = Field(default_factory=dict)
    """What the pod may use at most. Above its memory a program is killed."""


QualifiedResource = Annotated[str, Field(min_length=1, max_length=317, pattern=QUALIFIED_PATTERN)]


class LocalReference(ApiModel):
    """An object in the job's namespace, by its name."""

    name: Subdomain
    """Its name."""


class PodOverrides(ApiModel):
    """What differs from the administrator's defaults in the pods of a stage. `tunesmith run` takes no notice."""

    resources: ResourceRequirements = ResourceRequirements()
    """Requests and limits. GPUs are asked for with `training.gpusPerNode`."""

    node_selector: NodeSelector = Field(default_factory=dict)
    """Labels that a node must have."""

    tolerations: Annotated[tuple[Toleration, ...], Field(max_length=16)] = ()
    """Taints that the pods tolerate, besides the administrator's."""

    env: Annotated[tuple[EnvVar, ...], Field(max_length=64), Once("name")] = ()
    """Variables of the environment that tune NCCL, RDMA, OpenMP and CUDA."""

    labels: Labels = Field(default_factory=dict)
    """Further labels of the pods, with a domain: `example.com/team: support`."""

    annotations: Annotations = Field(default_factory=dict)
    """Further annotations of the pods: what places them, such as `k8s.v1.cni.cncf.io/networks` for RDMA networks, what
    keeps a service mesh away, and notes without a domain."""

    image_pull_secrets: Annotated[tuple[LocalReference, ...], Field(max_length=8), Once("name")] = ()
    """Secrets with credentials for the registry of the stages' image, besides the administrator's."""


class TrainPodOverrides(PodOverrides):
    """The same for the pods of the training, and what they alone have."""

    gpu_resource_name: QualifiedResource | None = None
    """Resource by which a GPU is asked for. Default: the administrator's, which is `nvidia.com/gpu` if not set."""

    runtime_class_name: Subdomain | None = None
    """RuntimeClass, such as `nvidia`. Default: the administrator's."""

    scheduler_name: Subdomain | None = None
    """Scheduler. Default: the administrator's."""

    shared_memory: Quantity | None = None
    """Size of /dev/shm, which counts as memory of the pod. Default: the administrator's."""

    termination_grace_period_seconds: Annotated[Int, Field(ge=30, le=86_400)] | None = None
    """How long a training that is stopped may take to save a checkpoint. Default: the administrator's."""


class Pods(ApiModel):
    """What the pods are like, for all stages and for each, on a cluster.

    What a job says goes before what the administrator says, and what is said for a stage before what is said for all.
    """

    default: PodOverrides = PodOverrides()
    """The pods of all stages."""
    fetch: PodOverrides = PodOverrides()
    """The pods of `fetch`."""
    prepare: PodOverrides = PodOverrides()
    """The pods of `prepare`."""
    rehearse: PodOverrides = PodOverrides()
    """The pods of `rehearse`."""
    train: TrainPodOverrides = TrainPodOverrides()
    """The pods of `train`."""
    convert: PodOverrides = PodOverrides()
    """The pods of `convert`."""
    quantize: PodOverrides = PodOverrides()
    """The pods of `quantize`."""
    register_: PodOverrides = Field(PodOverrides(), alias="register")
    """The pods of `register`."""
