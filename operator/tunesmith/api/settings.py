"""The operator's settings: what the administrator decides once for a cluster, as the chart writes it from its values.

Read strictly, once, at the start. Where Helm has no other way, an empty text means that nothing is given.
`{namespace}` in a `subPath`, a `modelNamePrefix` and a `volumeMountPath` stands for the FineTuneJob's namespace.
"""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Annotated, Any, ClassVar

from pydantic import Field, ValidationError, model_validator

from tunesmith.api.pods import (
    AnyAnnotations,
    AnyLabels,
    PodOverrides,
    QualifiedResource,
    ResourceRequirements,
    Storage,
    UserId,
)
from tunesmith.api.problems import InvalidFileError, problems_in
from tunesmith.api.values import ApiModel, Int, Name, Once, Quantity, Rule, Subdomain
from tunesmith.api.yaml_file import read_yaml

DEFAULT_USER = 65532
"""User and group of the stages' image."""


class InvalidSettingsError(InvalidFileError):
    """A settings file that the operator cannot start with."""


def parse_settings(text: str) -> Settings:
    """Return the settings that a YAML text holds.

    Raises:
        InvalidSettingsError: it holds none, or some with problems.
    """
    try:
        file = read_yaml(text, "the operator's settings", "stageImage and more")
    except InvalidFileError as error:
        raise InvalidSettingsError(error.problems) from None
    try:
        return Settings.model_validate(file.data)
    except ValidationError as error:
        raise InvalidSettingsError(problems_in(error, Settings, file.lines)) from None


class SettingsModel(ApiModel):
    """What all parts of the settings have in common."""

    @model_validator(mode="before")
    @classmethod
    def _empty_is_not_given(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        return {name: value for name, value in data.items() if value != "" or name not in cls._optional_texts()}

    @classmethod
    def _optional_texts(cls) -> set[str]:
        return {info.alias or name for name, info in cls.model_fields.items() if not info.is_required()}


# --- storage ---------------------------------------------------------------------------------------------------------


class StorageOf(SettingsModel, Storage):
    """The volume of a namespace's FineTuneJobs, as far as it differs from `storage.default`."""


class DefaultStorage(StorageOf):
    """The volume of every FineTuneJob for which nothing else is said."""

    claim_name: Subdomain = "tunesmith"
    """PersistentVolumeClaim in the job's namespace."""

    run_as_user: UserId | None = DEFAULT_USER
    """User that the programs run as. null: the one that the cluster chooses, as OpenShift does, or the image's."""

    run_as_group: UserId | None = DEFAULT_USER
    """Group that the programs run as. null: as with the user."""


class StorageSettings(SettingsModel):
    """The volumes of all namespaces."""

    default: DefaultStorage = DefaultStorage()
    """For every namespace."""

    namespaces: dict[Name, StorageOf] = Field(default_factory=dict)
    """For single namespaces, over the default."""


# --- servers ---------------------------------------------------------------------------------------------------------

Url = Annotated[str, Field(max_length=2048, pattern=r"^https?://[^\s/?#@]+(/[^\s?#]*)?$")]
"""An address without user, password, query or fragment."""

Certificates = Annotated[
    str,
    Field(max_length=262_144),
    Rule("must be PEM certificates", lambda text: "-----BEGIN CERTIFICATE-----" in text, ""),
]


_PREFIX = re.compile(r"([A-Za-z0-9_.:/-]|\{namespace\}[/_.:])*")


class ExecTarget(SettingsModel):
    """The pod of an Ollama server, for the method Exec."""

    namespace: Name
    """Its namespace."""

    pod: Subdomain
    """Its name."""

    container: Name
    """The container with Ollama."""

    volume_mount_path: Annotated[str, Field(max_length=1024, pattern=r"^/[^\s]*$")]
    """Where it mounts the root of the FineTuneJobs' volume."""


class Server(SettingsModel):
    """An Ollama server that models may go to."""

    RULES: ClassVar = (
        Rule(
            "goes with an https address only",
            lambda server: server.ca_bundle is None or server.url.startswith("https:"),
            "",
            ("caBundle",),
        ),
        Rule(
            "must be given if there is `exec`: rights on the pod are given to each of them",
            lambda server: server.exec is None or bool(server.allowed_namespaces),
            "",
            ("allowedNamespaces",),
        ),
    )

    name: Name
    """What FineTuneJobs call it."""

    url: Url
    """Address as the pods of the stages reach it."""

    ca_bundle: Certificates | None = None
    """PEM certificates that sign the server's."""

    allowed_namespaces: tuple[Name, ...] = ()
    """Namespaces whose FineTuneJobs may use it. Empty: all."""

    model_name_prefix: Annotated[
        str,
        Field(max_length=255),
        Rule(
            "must be letters, digits and `_.:/-`, and `{namespace}` only with one of `/_.:` behind it: with "
            "`{namespace}-` team-a could take the names of team-a-b",
            lambda prefix: bool(_PREFIX.fullmatch(prefix)),
            "",
        ),
    ] = ""
    """Names of models must begin with it."""

    exec: ExecTarget | None = None
    """Allows the method Exec, in this pod."""


# --- pods ------------------------------------------------------------------------------------------------------------


class AnyEnvVar(SettingsModel):
    """A variable of the environment. The administrator may set any; those that Tunesmith needs go before."""

    name: Annotated[str, Field(max_length=256, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
    """Its name."""

    value: Annotated[str, Field(max_length=32_768)] = ""
    """Its value."""


class PodSettings(SettingsModel, PodOverrides):
    """What the pods of a stage are like, unless a FineTuneJob says otherwise."""

    env: Annotated[tuple[AnyEnvVar, ...], Once("name")] = ()  # type: ignore[assignment] # wider than a job's
    """Variables of the environment."""

    labels: AnyLabels = Field(default_factory=dict)
    """Further labels of the pods."""

    annotations: AnyAnnotations = Field(default_factory=dict)
    """Further annotations of the pods."""

    priority_class_name: Subdomain | None = None
    """PriorityClass."""

    runtime_class_name: Subdomain | None = None
    """RuntimeClass."""

    scheduler_name: Subdomain | None = None
    """Scheduler."""


class TrainPodSettings(PodSettings):
    """The same for the pods of the training, and what they alone have."""

    gpu_resource_name: QualifiedResource | None = None
    """Resource by which a GPU is asked for."""

    shared_memory: Quantity | None = None
    """Size of /dev/shm."""

    termination_grace_period_seconds: Annotated[Int, Field(ge=30, le=86_400)] | None = None
    """How long a training that is stopped may take to save a checkpoint."""


class PodDefaults(SettingsModel):
    """What the pods are like, for all stages and for each."""

    default: PodSettings = PodSettings()
    """All stages."""
    fetch: PodSettings = PodSettings()
    """`fetch`."""
    prepare: PodSettings = PodSettings()
    """`prepare`."""
    rehearse: PodSettings = PodSettings()
    """`rehearse`."""
    train: TrainPodSettings = TrainPodSettings()
    """`train`."""
    convert: PodSettings = PodSettings()
    """`convert`."""
    quantize: PodSettings = PodSettings()
    """`quantize`."""
    register_: PodSettings = Field(PodSettings(), alias="register")
    """`register`."""
    lookup: PodSettings = PodSettings()
    """The pods that look up what is on the volume."""


def _resources(cpu: str, memory: str, most_cpu: str, most_memory: str) -> dict[str, Any]:
    requests, limits = {"cpu": cpu, "memory": memory}, {"cpu": most_cpu, "memory": most_memory}
    return {"resources": ResourceRequirements(requests=requests, limits=limits)}


BUILT_IN_PODS = PodDefaults(
    default=PodSettings(**_resources("500m", "1Gi", "4", "8Gi")),
    prepare=PodSettings(**_resources("1", "2Gi", "4", "16Gi")),
    rehearse=PodSettings(**_resources("1", "2Gi", "4", "8Gi")),
    train=TrainPodSettings(
        **_resources("1", "8Gi", "16", "64Gi"),
        gpuResourceName="nvidia.com/gpu",
        sharedMemory="8Gi",
        terminationGracePeriodSeconds=300,
    ),
    convert=PodSettings(**_resources("1", "4Gi", "4", "16Gi")),
    quantize=PodSettings(**_resources("1", "2Gi", "8", "16Gi")),
    lookup=PodSettings(**_resources("100m", "128Mi", "1", "1Gi")),
)
"""What holds where neither the administrator nor the job says anything. Every pod has requests and limits, so that it
is admitted where quotas count them."""


# --- the whole -------------------------------------------------------------------------------------------------------


class Network(SettingsModel):
    """How pods reach what is outside of the cluster."""

    http_proxy: Url | None = None
    """Proxy for http, for `fetch`."""

    https_proxy: Url | None = None
    """Proxy for https, for `fetch`."""

    no_proxy: Annotated[str, Field(max_length=8192)] = ""
    """Hosts, domains and networks that are reached without the proxy, separated by commas."""

    ca_bundle: Certificates | None = None
    """PEM certificates that every stage trusts besides the public ones."""

    hugging_face_endpoint: Url | None = None
    """Address of a mirror of the Hugging Face Hub."""

    model_scope_endpoint: Url | None = None
    """Address of a mirror of ModelScope."""


class Trackers(SettingsModel):
    """Servers of experiment trackers that trainings may be shown on."""

    mlflow: Url | None = None
    """Address of the MLflow server. Without it FineTuneJobs with `tracking.type: MLflow` are refused."""

    weights_and_biases: Url | None = None
    """Address of the W&B server. Without it runs are kept on the volume for `wandb sync`."""


class ImagePullPolicy(StrEnum):
    """When nodes pull the image."""

    ALWAYS = "Always"
    IF_NOT_PRESENT = "IfNotPresent"
    NEVER = "Never"


class Settings(SettingsModel):
    """The operator's settings."""

    stage_image: Annotated[str, Field(min_length=1, max_length=1024, pattern=r"^[^\s]+$")]
    """Image of the stages, with its tag or digest."""

    image_pull_policy: ImagePullPolicy = ImagePullPolicy.IF_NOT_PRESENT
    """When nodes pull it."""

    image_pull_secrets: tuple[Subdomain, ...] = ()
    """Secrets with the registry's credentials, in every namespace with FineTuneJobs."""

    watch_namespaces: tuple[Name, ...] = ()
    """Namespaces whose FineTuneJobs are run. Empty: all."""

    lease_namespace: Name | None = None
    """Namespace of the Lease by which one operator of several is chosen. Default: the operator's own."""

    lease_name: Subdomain = "tunesmith-operator"
    """Name of that Lease."""

    workers: Annotated[Int, Field(ge=1, le=64)] = 8
    """FineTuneJobs that are worked on at the same moment."""

    storage: StorageSettings = StorageSettings()
    """The volumes."""

    servers: Annotated[tuple[Server, ...], Once("name")] = ()
    """Ollama servers."""

    pod_defaults: PodDefaults = PodDefaults()
    """What the pods are like; what is not given here is built in."""

    network: Network = Network()
    """How pods reach what is outside."""

    trackers: Trackers = Trackers()
    """Servers of experiment trackers."""

    gpu_memory: Quantity | None = None
    """Memory of one GPU, such as `80Gi`. With it a training that cannot fit is refused before it asks for GPUs."""

    exec_service_account: Subdomain | None = None
    """ServiceAccount of `register` by Exec, in the job's namespace."""
