"""The status of a FineTuneJob: the models from which the CRD's schema of it is made.

The operator alone writes it. It is the record of what was done (``docs/design/0003-the-cluster-edge.md``), so its
bounds are wide enough for all that the operator may have to say. Numbers with a fraction are texts, as in the spec.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from tunesmith.api.pods import UserId
from tunesmith.api.values import WORD_PATTERN, ApiModel, Bool, Int, Once, Subdomain

Time = Annotated[str, Field(json_schema_extra={"format": "date-time"})]
"""A time in UTC by RFC 3339, such as `2026-11-21T14:05:00Z`."""

DIGEST_PATTERN = r"^[0-9a-f]{64}$"
REASON_PATTERN = r"^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$"
NUMBER_NAME_PATTERN = r"^[A-Za-z0-9_.-]{1,64}$"

Digest = Annotated[str, Field(pattern=DIGEST_PATTERN, max_length=64)]
"""A sha256 in hexadecimal digits."""

UNSEEN_GENERATION = -1
"""`observedGeneration` of a job that the operator has not seen. The API server gives each new job this status: tools
that wait by kstatus (`helm --wait`, Flux) take an object without any status for one that is ready."""

Count = Annotated[Int, Field(ge=0, le=2_147_483_647)]
Bytes = Annotated[Int, Field(ge=0, json_schema_extra={"format": "int64"})]
Short = Annotated[str, Field(max_length=256)]
"""One line: a name, a figure, a time that is left."""
Text = Annotated[str, Field(max_length=32_768)]
"""Sentences for people."""

SourceName = Annotated[str, Field(min_length=1, max_length=128)]
"""Name of a unit of `fetch`: `base` or `dataset:<name>`."""


class State(StrEnum):
    """Where a stage of a FineTuneJob stands."""

    WAITING = "Waiting"
    """An earlier stage must come first, or it must wait until it is tried again."""
    PENDING = "Pending"
    """Its Job is there, but no program runs."""
    RUNNING = "Running"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"
    UNKNOWN = "Unknown"
    """It ended, but what came of it must be looked up on the volume."""


class ConditionStatus(StrEnum):
    """Whether a condition holds."""

    TRUE = "True"
    FALSE = "False"
    UNKNOWN = "Unknown"


class Condition(ApiModel):
    """One aspect of how the job stands, in the form that Kubernetes' tools know."""

    type: Annotated[str, Field(min_length=1, max_length=316)]
    """Ready, Reconciling, Stalled, Succeeded, or what a stage came to, such as Trained."""

    status: ConditionStatus
    """Whether it holds."""

    observed_generation: Annotated[Int, Field(ge=0, json_schema_extra={"format": "int64"})] | None = None
    """The generation of the spec that it was told of."""

    last_transition_time: Time
    """When its status changed."""

    reason: Annotated[str, Field(min_length=1, max_length=1024, pattern=REASON_PATTERN)]
    """Why, in one word."""

    message: Text
    """Why, in sentences."""


class Source(ApiModel):
    """The version of a source that the job was made from."""

    name: SourceName
    """`base` or `dataset:<name>`."""

    version: Annotated[str, Field(max_length=64)] = ""
    """What `fetch` found: a digest over names, sizes and times of change, or a revision."""

    spec: Annotated[str, Field(max_length=64)] = ""
    """Digest of the source's own part of the spec; the source is looked up again when it changes."""


class Unit(ApiModel):
    """Something that a stage made and that lies on the volume."""

    name: SourceName
    """A source's name, a quantization type, a server's name, or the stage's name."""

    key: Digest
    """Its content key."""

    digest: Digest
    """Digest of what was made."""

    bytes: Bytes = 0
    """Its size."""

    version: Annotated[str, Field(max_length=64)] = ""
    """`fetch` only: the version of the source."""


class Stage(ApiModel):
    """Where one stage stands and what it made."""

    name: Annotated[str, Field(min_length=1, max_length=32)]
    """The stage."""

    state: State
    """Waiting, Pending, Running, Succeeded, Failed, or Unknown: ended, and what came of it is being looked up."""

    job: Annotated[str, Field(max_length=253)] = ""
    """The Kubernetes Job of the newest attempt."""

    keys: Annotated[tuple[Digest, ...], Field(max_length=128)] = ()
    """The content keys of what that attempt is to make."""

    attempts: Count = 0
    """How often it was begun."""

    failures: Count = 0
    """Failures that may pass, one after the other; the next try waits longer after each."""

    interruptions: Count = 0
    """Attempts, one after the other, that were ended from outside within half a minute; the next try waits too."""

    start_time: Time | None = None
    """When the newest attempt's program started."""

    completion_time: Time | None = None
    """When it ended."""

    next_attempt_time: Time | None = None
    """Not to be tried again before."""

    reason: Short = ""
    """Why it failed or does not run, in one word."""

    message: Text = ""
    """Why, in sentences."""

    hint: Text = ""
    """What to do about it."""

    exit_code: Annotated[Int, Field(ge=0, le=255)] | None = None
    """Exit code of the program."""

    log_tail: Annotated[str, Field(max_length=2048)] = ""
    """The last lines that the program wrote before it failed, at most 20, without what looks like a secret. The whole
    log is on the volume: `kubectl tunesmith logs`."""

    cached: Bool = False
    """Everything that it makes was on the volume already."""

    elapsed_seconds: Count = 0
    """Seconds that earlier attempts at the same keys took."""

    save_seconds: Count = 0
    """Longest time that a step and the saving of a checkpoint took, in seconds."""

    units: Annotated[tuple[Unit, ...], Field(max_length=128), Once("name")] = ()
    """What it made."""

    numbers: Annotated[
        dict[Annotated[str, Field(pattern=NUMBER_NAME_PATTERN)], Annotated[str, Field(max_length=64)]],
        Field(max_length=32),
    ] = Field(default_factory=dict)
    """Its figures, such as rows, losses and seconds."""


class Progress(ApiModel):
    """How far the running stage is."""

    stage: Annotated[str, Field(max_length=32)] = ""
    """The stage that runs, or that is next."""

    unit: Annotated[str, Field(max_length=128)] = ""
    """What it makes at the moment, if it makes several things."""

    text: Short = ""
    """How far it is, such as `37 %`, or what it does."""

    done: Bytes = 0
    """So many of `total` are done."""

    total: Bytes = 0
    """How many there are; 0 if that is not known."""

    of: Annotated[str, Field(max_length=64)] = ""
    """What is counted: steps, rows, bytes."""

    loss: Annotated[str, Field(max_length=32)] = ""
    """Newest training loss."""

    eval_loss: Annotated[str, Field(max_length=32)] = ""
    """Newest evaluation loss."""

    learning_rate: Annotated[str, Field(max_length=32)] = ""
    """Newest learning rate."""

    tokens_per_second: Annotated[str, Field(max_length=32)] = ""
    """Newest speed, over all processes."""

    grad_norm: Annotated[str, Field(max_length=32)] = ""
    """Newest length of the gradient, before it is clipped."""

    gpu_memory_bytes: Bytes | None = None
    """Memory that the training takes on its fullest GPU; without GPUs there is none."""

    peak_gpu_memory_bytes: Bytes | None = None
    """The most that it took there so far."""

    eta: Annotated[str, Field(max_length=32)] = ""
    """Time that is left of the stage, such as `1h12m`."""

    eta_seconds: Count | None = None
    """The same in seconds."""

    last_update_time: Time | None = None
    """When the program said so."""


class Artifact(ApiModel):
    """Something that the job made to be used."""

    name: Annotated[str, Field(min_length=1, max_length=64)]
    """A quantization type, or what of the training it is: `adapter` or `model`."""

    path: Annotated[str, Field(max_length=1024)]
    """Where it lies, relative to the volume's root."""

    digest: Digest
    """Digest of its files."""

    bytes: Bytes = 0
    """Its size."""

    model: Annotated[str, Field(max_length=512)] = ""
    """Its name in Ollama."""


class Served(ApiModel):
    """The models that one Ollama server has of this job."""

    server: Annotated[str, Field(min_length=1, max_length=63)]
    """The server's name."""

    models: Annotated[tuple[Annotated[str, Field(min_length=1, max_length=512)], ...], Field(max_length=16)] = ()
    """Names of the models, each proven."""


class StorageInUse(ApiModel):
    """The volume that the job uses, and as whom: what the administrator and the job say, put together."""

    claim_name: Annotated[str, Field(max_length=253)]
    """The PersistentVolumeClaim."""

    sub_path: Annotated[str, Field(max_length=1024)] = ""
    """Folder of the claim that is the volume's root."""

    run_as_user: UserId | None = None
    """User that the programs run as."""

    run_as_group: UserId | None = None
    """Group that the programs run as."""

    supplemental_groups: Annotated[tuple[UserId, ...], Field(max_length=16), Once()] = ()
    """Further groups of the programs."""


class FineTuneJobStatus(ApiModel):
    """How the job stands. The operator writes it; edits by hand are overwritten."""

    observed_generation: Annotated[Int, Field(ge=-1, json_schema_extra={"format": "int64"})] | None = None
    """The generation of the spec that the status is of; -1 before the operator has seen the job."""

    conditions: Annotated[tuple[Condition, ...], Field(max_length=32), Once("type")] = ()
    """Ready, Reconciling and Stalled as Kubernetes' tools know them, and more. The reason of Ready is the one word for
    how the job stands."""

    sources: Annotated[tuple[Source, ...], Field(max_length=128), Once("name")] = ()
    """The versions of the base model and the datasets that the job is made from."""

    refresh: Annotated[str, Field(max_length=1024)] = ""
    """Last value of the annotation `tunesmith.dev/refresh` that the sources were looked up for."""

    retry: Annotated[str, Field(max_length=1024)] = ""
    """Last value of the annotation `tunesmith.dev/retry` that the job was tried again for."""

    stages: Annotated[tuple[Stage, ...], Field(max_length=16), Once("name")] = ()
    """Every stage, in order."""

    progress: Progress | None = None
    """How far the running stage is."""

    artifacts: Annotated[tuple[Artifact, ...], Field(max_length=32), Once("name")] = ()
    """What the job made to be used."""

    ollama: Annotated[tuple[Served, ...], Field(max_length=16), Once("server")] = ()
    """The models that are served."""

    image: Annotated[str, Field(max_length=1024)] = ""
    """Image of the stages that the job was begun with, and goes on with."""

    image_pull_secrets: Annotated[tuple[Subdomain, ...], Field(max_length=128)] = ()
    """Secrets by which the image is pulled, as the administrator names them."""

    recipes: Annotated[dict[Annotated[str, Field(pattern=WORD_PATTERN)], Count], Field(max_length=16)] = Field(
        default_factory=dict
    )
    """Recipe number of each stage that the job was begun with, and goes on with."""

    storage: StorageInUse | None = None
    """The volume that the job uses."""
