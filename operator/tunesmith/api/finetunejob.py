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

from tunesmith.api.datasets import Dataset, DatasetUse
from tunesmith.api.pods import Pods, Scheduling, Storage
from tunesmith.api.sources import (
    MODEL_SOURCES,
    HuggingFaceModel,
    JobSource,
    ModelScopeModel,
    VolumeSource,
    has_one_of,
    one_of_in_cel,
)
from tunesmith.api.values import (
    MODULE_PATTERN,
    NAME_PATTERN,
    NOT_NEGATIVE_PATTERN,
    ApiModel,
    Bool,
    Decimal,
    Fraction,
    Int,
    Name,
    Once,
    PositiveDecimal,
    Rule,
    SignedDecimal,
    broken,
)
from tunesmith_stages import model_name
from tunesmith_stages.contract import ALL_LINEAR, UNITS_PER_PROGRAM
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


# --- training --------------------------------------------------------------------------------------------------------


class FinetuningType(StrEnum):
    """How much of the model is trained."""

    FULL = "Full"
    LORA = "LoRA"


class Lora(ApiModel):
    """Low-rank adaptation (LoRA)."""

    RULES: ClassVar = (
        Rule(
            f"must be either [{ALL_LINEAR}] or a list of module names",
            lambda lora: ALL_LINEAR not in lora.target_modules or len(lora.target_modules) == 1,
            f"!('{ALL_LINEAR}' in self.targetModules) || size(self.targetModules) == 1",
            ("targetModules",),
        ),
    )

    rank: Annotated[Int, Field(ge=1, le=1024)] = 16
    """Rank of the update matrices."""

    alpha: Annotated[Int, Field(ge=1, le=4096)] = 32
    """The update is scaled by alpha / rank."""

    dropout: Fraction = "0"
    """Share of the adapter's inputs that is dropped while training."""

    target_modules: Annotated[
        tuple[Annotated[str, Field(pattern=MODULE_PATTERN)], ...], Field(min_length=1, max_length=64)
    ] = (ALL_LINEAR,)
    """The modules that get an adapter, by the end of their names (`q_proj`), or AllLinear: every linear layer but the
    output head; of a mixture of experts neither the experts nor what chooses among them."""


class LrSchedule(StrEnum):
    """How the learning rate goes on after the warm-up."""

    COSINE = "Cosine"
    LINEAR = "Linear"
    CONSTANT = "Constant"


class Precision(StrEnum):
    """Number format of the computation."""

    BF16 = "BF16"
    FP16 = "FP16"
    FP32 = "FP32"


class Validation(ApiModel):
    """What is held back from training to measure the evaluation loss."""

    fraction: Fraction | None = None
    """Share of the rows that is held back. Default: 0.1, or nothing if a dataset has `use: Validation`."""

    eval_steps: Annotated[Int, Field(ge=1, le=1_000_000)] | None = None
    """Measure every so many steps. Default: at the end only."""


class Checkpoint(ApiModel):
    """What an interrupted training goes on from."""

    save_steps: Annotated[Int, Field(ge=1, le=1_000_000)] = 500
    """Save every so many steps."""

    keep: Annotated[Int, Field(ge=1, le=100)] = 2
    """How many to keep; older ones are removed once a newer one is whole."""


class Deepspeed(ApiModel):
    """How DeepSpeed spreads the training over the processes."""

    zero_stage: Annotated[
        Int,
        Field(json_schema_extra={"enum": [0, 2, 3]}),
        Rule("must be 0, 2 or 3", lambda stage: stage in {0, 2, 3}, ""),  # the enum says it to the API server
    ] = 2
    """ZeRO stage: 0 copies everything to each process, 2 splits gradients and optimizer, 3 the weights too."""


class Training(ApiModel):
    """Supervised fine-tuning with DeepSpeed."""

    RULES: ClassVar = (
        Rule(
            "goes with `finetuningType: LoRA` only; remove it, or train LoRA",
            lambda training: training.lora is None or training.finetuning_type is FinetuningType.LORA,
            "!has(self.lora) || self.finetuningType == 'LoRA'",
            ("lora",),
        ),
        Rule(
            "must be BF16 or FP32 on the CPU (`gpusPerNode: 0`)",
            lambda training: training.gpus_per_node > 0 or training.precision is not Precision.FP16,
            "self.gpusPerNode > 0 || self.precision != 'FP16'",
            ("precision",),
        ),
        Rule(
            "goes with `gpusPerNode: 0` only: each GPU has one process",
            lambda training: training.processes_per_node is None or training.gpus_per_node == 0,
            "!has(self.processesPerNode) || self.gpusPerNode == 0",
            ("processesPerNode",),
        ),
        Rule(
            "must not be given together with `maxSteps`: remove one of them",
            lambda training: training.max_steps is None or training.num_train_epochs is None,
            "!has(self.numTrainEpochs) || !has(self.maxSteps)",
            ("numTrainEpochs",),
        ),
    )

    finetuning_type: FinetuningType = FinetuningType.LORA
    """LoRA trains small matrices beside the weights, which are merged afterwards; Full trains all weights."""

    lora: Lora | None = None
    """Settings of LoRA. Default: rank 16, alpha 32, all linear layers."""

    sequence_length: Annotated[Int, Field(ge=16, le=1_048_576)] = 2048
    """Longest row, in tokens. Longer rows are left out and counted: cut ones would teach answers without an end."""

    packing: Bool = False
    """Put several samples into one row of up to `sequenceLength` tokens, so that little is computed for padding. The
    samples of a row do not see each other; that is proven before the training."""

    per_device_train_batch_size: Annotated[Int, Field(ge=1, le=4096)] = 1
    """Rows per process in one forward pass."""

    per_device_eval_batch_size: Annotated[Int, Field(ge=1, le=4096)] | None = None
    """Rows per process in one pass of the evaluation. Default: as in training."""

    gradient_accumulation_steps: Annotated[Int, Field(ge=1, le=4096)] = 8
    """Forward passes per optimizer step."""

    learning_rate: PositiveDecimal = "0.0001"
    """Highest learning rate."""

    lr_schedule: LrSchedule = LrSchedule.COSINE
    """How the learning rate goes on after the warm-up."""

    warmup_steps: Annotated[Int, Field(ge=0, le=1_000_000)] = 0
    """Steps over which the learning rate rises from 0."""

    weight_decay: Decimal = "0"
    """Weight decay of AdamW."""

    max_grad_norm: Decimal = "1"
    """The gradient is scaled down to this norm; 0 turns it off."""

    num_train_epochs: PositiveDecimal | None = None
    """How often the data is gone through. Default: 3, unless `maxSteps` is given."""

    max_steps: Annotated[Int, Field(ge=1, le=100_000_000)] | None = None
    """Stop after so many optimizer steps, whatever the epochs."""

    precision: Precision = Precision.BF16
    """Number format of the computation. FP16 needs GPUs."""

    gradient_checkpointing: Bool = True
    """Compute activations again in the backward pass, which saves memory and costs about a quarter of the speed."""

    validation: Validation | None = None
    """Hold back part of the rows and measure the loss on them. Default: none."""

    checkpoint: Checkpoint = Checkpoint()
    """What an interrupted training goes on from."""

    logging_steps: Annotated[Int, Field(ge=1, le=1_000_000)] = 10
    """Report loss, gradient norm, learning rate and speed every so many steps."""

    seed: Annotated[Int, Field(ge=0, le=2_147_483_647)] = 42
    """Seed of everything random: sampling, splitting, shuffling, new weights."""

    deepspeed: Deepspeed = Deepspeed()
    """How DeepSpeed spreads the training over the processes."""

    nodes: Annotated[Int, Field(ge=1, le=64)] = 1
    """Nodes of a cluster that train together, with a pod on each. `tunesmith run` trains on one."""

    gpus_per_node: Annotated[Int, Field(ge=0, le=64)] = 1
    """GPUs on each node, one process each. 0 trains on the CPU with `processesPerNode` processes."""

    processes_per_node: Annotated[Int, Field(ge=1, le=64)] | None = None
    """Processes on each node of a training on the CPU. Default: 1. With GPUs there is one process for each."""

    @property
    def processes(self) -> int:
        """Number of training processes on each node."""
        return self.gpus_per_node or self.processes_per_node or 1

    @property
    def world_size(self) -> int:
        """Number of training processes over all nodes."""
        return self.nodes * self.processes

    @property
    def global_batch_size(self) -> int:
        """Rows per optimizer step over all processes."""
        return self.world_size * self.per_device_train_batch_size * self.gradient_accumulation_steps


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
        elif any(getattr(item, "pattern", "") == NOT_NEGATIVE_PATTERN for item in info.metadata):
            said.append(f"double({place}) == {float(info.default)}")  # `1e-4` is `0.0001`
        elif name != but:
            said.append(f"{place} == {json.dumps(info.default)}")
    return " && ".join(said)


_TRAINS_NOTHING_IN_CEL = (
    "(!has(self.datasets) || size(self.datasets) == 0)"
    f" && {_says_nothing(Training, 'self.training')} && {_says_nothing(Export, 'self.export', but='quantizations')}"
)


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
    )

    suspend: Bool = False
    """Stop the job and give back what it holds on the cluster; a training keeps its newest checkpoint. False goes on
    from there. `tunesmith run` refuses to run a suspended job."""

    dry_run: Bool = False
    """Stop after `rehearse`: the data is checked and the way out is tried, nothing is trained."""

    storage: Storage = Storage()
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
    """Keep the finished Kubernetes Jobs of the stages, with their logs, for so long. The FineTuneJob itself stays."""


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
