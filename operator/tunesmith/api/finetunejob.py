"""The FineTuneJob: one pydantic model per object of the YAML.

The docstring of a field is its documentation everywhere: in ``docs/api.md``, in the CRD and so in ``kubectl explain``.
Names are camelCase in YAML and snake_case here. Decimals are strings, because a float's text is not the same in every
program that reads it.
"""

from __future__ import annotations

import json
import re
from enum import StrEnum
from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticKnownError

from tunesmith.api.datasets import Dataset, DatasetFormat, DatasetUse
from tunesmith.api.pods import JobStorage, Pods, Scheduling
from tunesmith.api.sources import (
    MODEL_SOURCES,
    HuggingFaceModel,
    JobSource,
    ModelScopeModel,
    VolumeSource,
    has_one_of,
    one_of_in_cel,
)
from tunesmith.api.training import Method, Training
from tunesmith.api.values import (
    BELOW_ONE_PATTERN,
    NAME_PATTERN,
    NOT_NEGATIVE_PATTERN,
    ApiModel,
    Bool,
    Decimal,
    Int,
    Name,
    Once,
    Rule,
    SignedDecimal,
    broken,
)
from tunesmith_stages import model_name
from tunesmith_stages.contract import UNITS_PER_PROGRAM
from tunesmith_stages.quantization_types import NAMES, NEEDS_IMATRIX, NOT_SERVED

MODEL_NAME_PATTERN = (
    r"^(([A-Za-z0-9_][A-Za-z0-9_.:-]{0,349}/)?[A-Za-z0-9_][A-Za-z0-9_-]{0,79}/)?"
    r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}(:[A-Za-z0-9_][A-Za-z0-9_.-]{0,79})?$"
)


_PLACE = re.compile(r"(?i):(cloud|local|[^/:]*-cloud)$")
_CHECKED = re.compile(rf"(^|/){model_name.CHECK_PREFIX}[^/]*$")
_LONG_TAG = re.compile(r":[^/:]{71,}$")
"""80 characters are allowed, and the longest type adds nine (`-mxfp4_moe`)."""


def _model_name(value: object) -> object:
    trouble = model_name.problem(value) if isinstance(value, str) else None
    if trouble is not None:
        raise broken(f"must be a name that Ollama takes, [[host/]namespace/]model[:tag]: {trouble}")
    return value


# --- the base model --------------------------------------------------------------------------------------------------


class TemplateName(StrEnum):
    """Chat templates that come with Tunesmith."""

    DEFAULT = "default"
    ALPACA = "alpaca"
    CHATML = "chatml"
    DEEPSEEK = "deepseek"
    GEMMA = "gemma"
    LLAMA3 = "llama3"
    MISTRAL = "mistral"
    PHI = "phi"
    QWEN = "qwen"
    VICUNA = "vicuna"
    YI = "yi"
    ZEPHYR = "zephyr"


class ChatTemplate(ApiModel):
    """What turns a conversation into the text that the model sees. It is trained with, and served."""

    RULES: ClassVar = (
        Rule(
            "must not be given together with `jinja`: remove one of them",
            lambda template: template.name is None or template.jinja is None,
            "!has(self.name) || !has(self.jinja)",
            ("name",),
        ),
    )

    name: TemplateName | None = None
    """One of the templates that come with Tunesmith. The base model's tokenizer must have its control tokens.
    Default: the tokenizer's own template."""

    jinja: Annotated[str, Field(min_length=1, max_length=65536)] | None = None
    """A Jinja template in the form of Hugging Face chat templates."""

    default_system: Annotated[str, Field(min_length=1, max_length=65536)] | None = None
    """System message of conversations that bring none, in training and when served. Default: the template's own."""

    enable_thinking: Bool | None = None
    """What a template of a thinking model is told as `enable_thinking`, in training and when served. Default:
    nothing, so the template's own choice."""


class Model(ApiModel):
    """The base model. Give exactly one source."""

    RULES: ClassVar = (
        Rule(
            "must have exactly one source: `volume`, `huggingFace`, `modelScope`, `job` or `gguf`",
            has_one_of(MODEL_SOURCES),
            one_of_in_cel(MODEL_SOURCES),
        ),
        Rule(
            "must not be given with `gguf`, which holds a template and is not trained",
            lambda model: model.chat_template is None or model.gguf is None,
            "!has(self.chatTemplate) || !has(self.gguf)",
            ("chatTemplate",),
        ),
    )

    volume: VolumeSource | None = None
    """A folder on the volume in the form of Hugging Face models: config.json, tokenizer.json and safetensors files."""

    hugging_face: HuggingFaceModel | None = None
    """A model of the Hugging Face Hub."""

    model_scope: ModelScopeModel | None = None
    """A model of ModelScope."""

    job: JobSource | None = None
    """What another FineTuneJob has trained on the same volume."""

    gguf: VolumeSource | None = None
    """A .gguf file on the volume. It is not trained: the job quantizes it and serves it."""

    chat_template: ChatTemplate | None = None
    """The chat template to train with and to serve. Default: the tokenizer's own."""


# --- export and serving ----------------------------------------------------------------------------------------------


def _quantization(value: object) -> object:
    if value not in NAMES:
        raise PydanticKnownError("enum", {"expected": ", ".join(NAMES)})
    return value


Quantization = Annotated[
    str,
    Field(json_schema_extra={"enum": [*NAMES]}),
    BeforeValidator(_quantization),
]
"""A quantization type, in llama.cpp's spelling."""

_NOT_QUANTIZED = frozenset({"F16", "BF16", "F32"})


class OutType(StrEnum):
    """Number format of the GGUF that the quantizations are made from."""

    F16 = "F16"
    BF16 = "BF16"
    F32 = "F32"
    Q8_0 = "Q8_0"


class ImportanceMatrix(StrEnum):
    """When an importance matrix guides the quantization."""

    AUTO = "Auto"
    ALWAYS = "Always"
    NEVER = "Never"


class Export(ApiModel):
    """What is made of the trained model."""

    RULES: ClassVar = (
        Rule(
            f"must not be Never for types that need an importance matrix: {', '.join(sorted(NEEDS_IMATRIX))}",
            lambda export: (
                export.importance_matrix is not ImportanceMatrix.NEVER or not NEEDS_IMATRIX & {*export.quantizations}
            ),
            f"self.importanceMatrix != 'Never' || !self.quantizations.exists(type, type in {sorted(NEEDS_IMATRIX)})",
            ("importanceMatrix",),
        ),
        Rule(
            f"must not name {', '.join(sorted(NOT_SERVED))}: Ollama refuses to serve them",
            lambda export: not NOT_SERVED & {*export.quantizations},
            f"!self.quantizations.exists(type, type in {sorted(NOT_SERVED)})",
            ("quantizations",),
        ),
    )

    out_type: OutType = OutType.BF16
    """Number format of the GGUF that the quantizations are made from. Q8_0 halves its size on the volume, and costs
    the quantizations a little precision."""

    quantizations: Annotated[tuple[Quantization, ...], Field(min_length=1, max_length=UNITS_PER_PROGRAM), Once()] = (
        "Q4_K_M",
    )
    """Quantization types to make, by llama.cpp's names. The first is served under the model's name, each other one
    under that name with the type at its end (`support-bot:v1-q8_0`)."""

    importance_matrix: ImportanceMatrix = ImportanceMatrix.AUTO
    """Measure on training samples which weights matter, and quantize accordingly. Auto does it if a type needs it;
    Always does it for every type."""

    keep_merged: Bool = False
    """Keep the trained model in the form of Hugging Face models on the volume as well, LoRA merged into it."""

    def uses_imatrix(self, quantization: str) -> bool:
        """Tell whether a type is quantized with an importance matrix."""
        if self.importance_matrix is ImportanceMatrix.ALWAYS:
            return quantization not in _NOT_QUANTIZED
        return quantization in NEEDS_IMATRIX


class OllamaParameters(ApiModel):
    """Parameters that Ollama runs the model with, in Ollama's own spelling."""

    model_config = ConfigDict(alias_generator=None)

    num_ctx: Annotated[Int, Field(ge=1, le=16_777_216)] | None = None
    """Tokens of context. Default: the model's own context length, at most 8192."""
    num_predict: Annotated[Int, Field(ge=-2, le=16_777_216)] | None = None
    """At most so many tokens in an answer; -1 is without bound."""
    num_keep: Annotated[Int, Field(ge=-1, le=16_777_216)] | None = None
    """Tokens of the prompt to keep when the context is full."""
    seed: Annotated[Int, Field(ge=0, le=2_147_483_647)] | None = None
    """Seed of the sampling."""
    temperature: Decimal | None = None
    """Temperature of the sampling; 0 always takes the likeliest token."""
    top_k: Annotated[Int, Field(ge=0, le=1_000_000)] | None = None
    """Sample from the so many likeliest tokens only."""
    top_p: Decimal | None = None
    """Sample from the likeliest tokens that make up this share of the probability."""
    min_p: Decimal | None = None
    """Leave out tokens below this share of the likeliest one's probability."""
    repeat_last_n: Annotated[Int, Field(ge=-1, le=16_777_216)] | None = None
    """How far back to look for repetitions; 0 is off, -1 the whole context."""
    repeat_penalty: Decimal | None = None
    """How strongly repetitions are penalised; 1.0 is off."""
    presence_penalty: SignedDecimal | None = None
    """Penalty of tokens that occurred already."""
    frequency_penalty: SignedDecimal | None = None
    """Penalty of tokens by how often they occurred."""
    stop: (
        Annotated[tuple[Annotated[str, Field(min_length=1, max_length=256)], ...], Field(min_length=1, max_length=16)]
        | None
    ) = None
    """Texts at which an answer ends. The end-of-turn token needs none: it is proven to stop the model."""


class SmokeTest(ApiModel):
    """A question that the served model must answer before it gets its name."""

    prompt: Annotated[str, Field(min_length=1, max_length=65536)]
    """What is asked."""

    expect: Annotated[str, Field(min_length=1, max_length=65536)]
    """Text that the answer must hold. It is asked with temperature 0."""


class RegisterMethod(StrEnum):
    """How a model gets into Ollama."""

    API = "API"
    EXEC = "Exec"


class DeletionPolicy(StrEnum):
    """What becomes of the served model when its FineTuneJob is deleted."""

    RETAIN = "Retain"
    DELETE = "Delete"


class Ollama(ApiModel):
    """How the model is served."""

    model: Annotated[
        str,
        Field(min_length=1, max_length=255, pattern=MODEL_NAME_PATTERN),
        BeforeValidator(_model_name),
        Rule(
            "must not have the tag `cloud` or `local`, nor one that ends in `-cloud`: Ollama reads that as a place",
            lambda name: not _PLACE.search(name),
            f"!self.matches(r'{_PLACE.pattern}')",
        ),
        Rule(
            f"must not begin with `{model_name.CHECK_PREFIX}`, which is kept for models that are still being proven",
            lambda name: not _CHECKED.search(name),
            f"!self.matches(r'{_CHECKED.pattern}')",
        ),
    ]
    """Name under which Ollama serves it, such as `support-bot:v1`. A model of that name is replaced, but only once
    the new one is proven."""

    servers: Annotated[tuple[Name, ...], Field(min_length=1, max_length=16), Once()] = ("main",)
    """Ollama servers that get the model, by the names that the administrator gave them. `tunesmith run` takes every
    name for the one server that it is given."""

    method: RegisterMethod = RegisterMethod.API
    """API uploads the model to the server. Exec runs `ollama create` inside the server's pod, which reads the model
    from the volume; the administrator must have allowed it for that server. `tunesmith run` always uploads."""

    parameters: OllamaParameters = OllamaParameters()
    """Parameters that Ollama runs the model with."""

    system: Annotated[str, Field(min_length=1, max_length=65536)] | None = None
    """System message for conversations that bring none."""

    license: Annotated[str, Field(min_length=1, max_length=262144)] | None = None
    """Text of the model's licence."""

    smoke_tests: Annotated[tuple[SmokeTest, ...], Field(max_length=64)] = ()
    """Questions that the served model must answer before it gets its name."""

    deletion_policy: DeletionPolicy = DeletionPolicy.RETAIN
    """What becomes of the model in Ollama when this FineTuneJob is deleted, on a cluster. Retain leaves it. Delete
    removes it from each of the servers, if it is still the one that this job registered there. What is not done within
    ten minutes is given up and told in an Event. `tunesmith run` never removes a model: a file cannot be deleted
    there."""


# --- the whole -------------------------------------------------------------------------------------------------------


def _trains_nothing(spec: FineTuneJobSpec) -> bool:
    """Tell whether nothing is said about a training, as fits a base that is not trained."""
    export = Export(quantizations=spec.export.quantizations)
    return not spec.datasets and spec.training == Training() and spec.export == export


def _says_nothing(model: type[ApiModel], path: str, *, but: str = "") -> str:
    """Return in CEL: the object at `path` holds its defaults alone, in all fields `but` one."""
    said = []
    for name, info in model.model_fields.items():
        place = f"{path}.{info.alias or name}"
        if isinstance(info.default, ApiModel):
            said.append(_says_nothing(type(info.default), place))
        elif info.default is None:
            said.append(f"!has({place})")
        elif any(getattr(item, "pattern", "") in {NOT_NEGATIVE_PATTERN, BELOW_ONE_PATTERN} for item in info.metadata):
            said.append(f"double({place}) == {float(info.default)}")  # `1e-4` is `0.0001`
        elif name != but:
            said.append(f"{place} == {json.dumps(info.default)}")
    return " && ".join(said)


_TRAINS_NOTHING_IN_CEL = (
    "(!has(self.datasets) || size(self.datasets) == 0)"
    f" && {_says_nothing(Training, 'self.training')} && {_says_nothing(Export, 'self.export', but='quantizations')}"
)


_UNUSED_BY = {
    Method.SFT: {"chosen", "rejected", "desirable"},
    Method.DPO: {"response", "text", "desirable"},
    Method.ORPO: {"response", "text", "desirable"},
    Method.KTO: {"text", "chosen", "rejected"},
}
"""Columns that do not go with a method."""


def _columns_fit_method(spec: FineTuneJobSpec) -> bool:
    """Tell whether no dataset names a column that the method does not learn from."""
    columns = (dataset.columns.model_dump(exclude_none=True) for dataset in spec.datasets if dataset.columns)
    return not any(_UNUSED_BY[spec.training.method] & given.keys() for given in columns)


def _columns_fit_method_in_cel() -> str:
    """Return the same in CEL."""
    unused = (
        f"(self.training.method == '{method}' && "
        + " && ".join(f"!has(item.columns.{column})" for column in sorted(columns))
        + ")"
        for method, columns in _UNUSED_BY.items()
    )
    return f"!has(self.datasets) || self.datasets.all(item, !has(item.columns) || {' || '.join(unused)})"


class FineTuneJobSpec(ApiModel):
    """What is wanted: a base model, data, how to train, what to make of it and where it is to be served."""

    RULES: ClassVar = (
        Rule(
            "must have a tag of at most 70 characters if there are several quantizations: their types are added to it",
            lambda spec: len(spec.export.quantizations) < 2 or not _LONG_TAG.search(spec.ollama.model),
            f"size(self.export.quantizations) < 2 || !self.ollama.model.matches(r'{_LONG_TAG.pattern}')",
            ("ollama", "model"),
        ),
        Rule(
            "must hold at least one dataset with `use: Training`",
            lambda spec: spec.model.gguf is not None or any(item.use is DatasetUse.TRAINING for item in spec.datasets),
            "has(self.model.gguf) || (has(self.datasets) && self.datasets.exists(item, item.use == 'Training'))",
            ("datasets",),
        ),
        Rule(
            "must come without `datasets`, `training` and `export` but its `quantizations`: a GGUF is not trained",
            lambda spec: spec.model.gguf is None or _trains_nothing(spec),
            f"!has(self.model.gguf) || ({_TRAINS_NOTHING_IN_CEL})",
            ("model", "gguf"),
        ),
        Rule(
            "must not name types that need an importance matrix: that is measured on training samples",
            lambda spec: spec.model.gguf is None or not NEEDS_IMATRIX & {*spec.export.quantizations},
            f"!has(self.model.gguf) || !self.export.quantizations.exists(type, type in {sorted(NEEDS_IMATRIX)})",
            ("export", "quantizations"),
        ),
        Rule(
            "must not be given together with a dataset that has `use: Validation`: remove one of them",
            lambda spec: (
                spec.training.validation is None
                or spec.training.validation.fraction in {None, "0"}
                or all(item.use is DatasetUse.TRAINING for item in spec.datasets)
            ),
            "!has(self.training.validation) || !has(self.training.validation.fraction) || "
            "double(self.training.validation.fraction) == 0.0 || !has(self.datasets) || "
            "self.datasets.all(item, item.use == 'Training')",
            ("training", "validation", "fraction"),
        ),
        Rule(
            "must name no columns that the job's `training.method` does not learn from: DPO and ORPO take `chosen` and "
            "`rejected` and no `response`, KTO takes `response` and `desirable`, SFT `response` alone; `text` is SFT's",
            _columns_fit_method,
            _columns_fit_method_in_cel(),
            ("datasets",),
        ),
        Rule(
            "must have answers that people prefer with the `training.method` DPO, ORPO and KTO: neither `format: Text` "
            "nor `builtin` has them",
            lambda spec: (
                not spec.training.method.prefers
                or all(item.format is not DatasetFormat.TEXT and item.builtin is None for item in spec.datasets)
            ),
            "self.training.method == 'SFT' || !has(self.datasets) || "
            "self.datasets.all(item, item.format != 'Text' && !has(item.builtin))",
            ("datasets",),
        ),
    )

    suspend: Bool = False
    """Stop the job and give back what it holds on the cluster; a training keeps its newest checkpoint. False goes on
    from there. `tunesmith run` refuses to run a suspended job."""

    dry_run: Bool = False
    """Stop after `rehearse`: the data is checked and the way out is tried, nothing is trained."""

    storage: JobStorage = JobStorage()
    """The volume that everything is kept on, on a cluster."""

    model: Model
    """The base model that is fine-tuned."""

    datasets: Annotated[tuple[Dataset, ...], Field(max_length=64), Once("name")] = ()
    """The data, mixed in the order of the seed. A job with `model.gguf` has none."""

    training: Training = Training()
    """How it is trained."""

    export: Export = Export()
    """What is made of the trained model."""

    ollama: Ollama
    """How it is served."""

    pods: Pods = Pods()
    """What the pods are like, on a cluster."""

    scheduling: Scheduling = Scheduling()
    """How the job queues and whom it may displace, on a cluster."""

    active_deadline_seconds: Annotated[Int, Field(ge=60, le=31_536_000)] | None = None
    """End a training that runs longer than this on a cluster; time in a queue or suspended does not count.
    Default: none."""

    ttl_seconds_after_finished: Annotated[Int, Field(ge=60, le=31_536_000)] = 604_800
    """Keep the ended Kubernetes Jobs of the stages, with their pods and logs, for so long after the FineTuneJob became
    Ready or Stalled. It itself stays, and so does everything on the volume: nothing is made again. `tunesmith run` has
    no such Jobs."""


class Metadata(BaseModel):
    """Kubernetes' own metadata, of which only the names matter here."""

    model_config = ConfigDict(extra="allow", frozen=True, use_attribute_docstrings=True)

    name: Annotated[str, Field(min_length=1, max_length=52, pattern=NAME_PATTERN)]
    """Name of the job: lower-case letters, digits and hyphens, at most 52 characters."""

    namespace: str | None = None
    """Namespace on a cluster."""


class FineTuneJob(ApiModel):
    """A FineTuneJob fine-tunes a model on your data and serves it in Ollama."""

    RULES: ClassVar = (
        Rule(
            "must be another job",
            lambda job: job.spec.model.job is None or job.spec.model.job.name != job.metadata.name,
            "!has(self.spec.model.job) || self.spec.model.job.name != self.metadata.name",
            ("spec", "model", "job", "name"),
        ),
    )

    api_version: Literal["tunesmith.dev/v1alpha1"]
    """Always tunesmith.dev/v1alpha1."""

    kind: Literal["FineTuneJob"]
    """Always FineTuneJob."""

    metadata: Metadata
    """Kubernetes' own metadata: name, namespace, labels, annotations."""

    spec: FineTuneJobSpec
    """What is wanted."""
