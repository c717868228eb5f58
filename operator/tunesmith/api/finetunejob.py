"""The FineTuneJob: one pydantic model per object of the YAML.

The docstring of a field is its documentation everywhere: in ``docs/api.md``, in the CRD and so in ``kubectl explain``.
Names are camelCase in YAML and snake_case here. Decimals are strings, because a float's text is not the same in every
program that reads it.
"""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from tunesmith.api.pods import Pods, Scheduling, Storage
from tunesmith.api.values import (
    MODULE_PATTERN,
    NAME_PATTERN,
    WORD_PATTERN,
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
    VolumePath,
    broken,
)
from tunesmith_stages import model_name
from tunesmith_stages.contract import ALL_LINEAR

MODEL_NAME_PATTERN = (
    r"^(([A-Za-z0-9_][A-Za-z0-9_.:-]{0,349}/)?[A-Za-z0-9_][A-Za-z0-9_-]{0,79}/)?"
    r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}(:[A-Za-z0-9_][A-Za-z0-9_.-]{0,79})?$"
)


_PLACE = re.compile(r"(?i):(cloud|local|[^/:]*-cloud)$")
_CHECKED = re.compile(rf"(^|/){model_name.CHECK_PREFIX}[^/]*$")
_LONG_TAG = re.compile(r":[^/:]{74,}$")
"""80 characters are allowed, and the longest type adds seven (`-q4_k_m`)."""


def _model_name(value: object) -> object:
    trouble = model_name.problem(value) if isinstance(value, str) else None
    if trouble is not None:
        raise broken(f"must be a name that Ollama takes, [[host/]namespace/]model[:tag]: {trouble}")
    return value


# --- sources ---------------------------------------------------------------------------------------------------------


class VolumeSource(ApiModel):
    """Something that lies on the volume already."""

    path: VolumePath
    """Folder or file, relative to the volume's root. It must not lead out of the volume."""


class ChatTemplate(ApiModel):
    """The template that turns a conversation into the text that the model sees."""

    jinja: Annotated[str, Field(min_length=1, max_length=65536)]
    """A Jinja template in the form of Hugging Face chat templates. It is trained with, and served."""


class Model(ApiModel):
    """The base model that is fine-tuned."""

    volume: VolumeSource
    """A folder on the volume in the form of Hugging Face models: config.json, tokenizer.json and safetensors files."""

    chat_template: ChatTemplate | None = None
    """The chat template to train with and to serve. Default: the tokenizer's own."""


class Builtin(StrEnum):
    """Datasets that come with Tunesmith."""

    SELF_COGNITION = "SelfCognition"


class Language(StrEnum):
    """Languages of the built-in datasets (ISO 639-1)."""

    EN = "en"
    ZH = "zh"


class DatasetFormat(StrEnum):
    """The shapes of rows that are understood."""

    AUTO = "Auto"
    ALPACA = "Alpaca"
    MESSAGES = "Messages"


ColumnName = Annotated[str, Field(min_length=1, max_length=256)]


_OF_ALPACA = ("prompt", "query", "response", "system", "history")
_OF_ALPACA_IN_CEL = " || ".join(f"has(self.columns.{column})" for column in _OF_ALPACA)


class Columns(ApiModel):
    """Which column of the data holds what. A column that is not named here has the format's own name."""

    prompt: ColumnName | None = None
    """Alpaca: what the user says. Default: `instruction`."""

    query: ColumnName | None = None
    """Alpaca: what is added to the prompt on a new line. Default: `input`, which rows may lack."""

    response: ColumnName | None = None
    """Alpaca: what the assistant answers. Default: `output`."""

    system: ColumnName | None = None
    """Alpaca: the system message. Default: `system`, which rows may lack."""

    history: ColumnName | None = None
    """Alpaca: earlier turns, a list of [user, assistant] pairs. Default: `history`, which rows may lack."""

    messages: ColumnName | None = None
    """Messages: the list of {role, content}. Default: `messages`."""

    @property
    def of_alpaca(self) -> bool:
        """Whether a column of Alpaca rows is named."""
        return any(getattr(self, column) for column in _OF_ALPACA)


class Dataset(ApiModel):
    """One dataset. Give exactly one source: `volume` or `builtin`."""

    RULES: ClassVar = (
        Rule(
            "must have exactly one source, `volume` or `builtin`",
            lambda item: (item.volume is None) != (item.builtin is None),
            "has(self.volume) != has(self.builtin)",
        ),
        Rule(
            "goes with `builtin` only",
            lambda item: item.languages is None or item.builtin is not None,
            "!has(self.languages) || has(self.builtin)",
            ("languages",),
        ),
        Rule(
            "goes with `volume` only: a built-in dataset knows its own",
            lambda item: item.columns is None or item.builtin is None,
            "!has(self.columns) || !has(self.builtin)",
            ("columns",),
        ),
        Rule(
            "must be Auto for a built-in dataset, which knows its own",
            lambda item: item.format is DatasetFormat.AUTO or item.builtin is None,
            "self.format == 'Auto' || !has(self.builtin)",
            ("format",),
        ),
        Rule(
            "must hold `name` and `author`: SelfCognition has a place for each of them",
            lambda item: item.builtin is not Builtin.SELF_COGNITION or {"name", "author"} <= item.substitutions.keys(),
            "!has(self.builtin) || self.builtin != 'SelfCognition' || "
            "(has(self.substitutions) && 'name' in self.substitutions && 'author' in self.substitutions)",
            ("substitutions",),
        ),
        Rule(
            "must not name columns of both formats: Messages rows have `messages` alone",
            lambda item: not (item.columns and item.columns.messages and item.columns.of_alpaca),
            f"!has(self.columns) || !has(self.columns.messages) || !({_OF_ALPACA_IN_CEL})",
            ("columns",),
        ),
        Rule(
            "must name columns of Messages rows, `messages` alone, if `format` is Messages",
            lambda item: (
                item.columns is None or item.format is not DatasetFormat.MESSAGES or not item.columns.of_alpaca
            ),
            f"!has(self.columns) || self.format != 'Messages' || !({_OF_ALPACA_IN_CEL})",
            ("columns",),
        ),
        Rule(
            "must name columns of Alpaca rows, not `messages`, if `format` is Alpaca",
            lambda item: not (item.format is DatasetFormat.ALPACA and item.columns and item.columns.messages),
            "!has(self.columns) || self.format != 'Alpaca' || !has(self.columns.messages)",
            ("columns",),
        ),
    )

    name: Annotated[str, Field(min_length=1, max_length=52, pattern=NAME_PATTERN)]
    """What it is called in reports and messages."""

    volume: VolumeSource | None = None
    """A .json or .jsonl file on the volume, or a folder of them."""

    builtin: Builtin | None = None
    """A dataset that comes with Tunesmith. SelfCognition teaches the model its name and its author."""

    languages: Annotated[tuple[Language, ...], Field(min_length=1, max_length=2)] | None = None
    """Which languages of a built-in dataset to use. Default: all of them."""

    format: DatasetFormat = DatasetFormat.AUTO
    """The shape of its rows: Alpaca (instruction, input, output) or Messages (OpenAI's list of role and content).
    Auto looks at the columns and says what it found."""

    columns: Columns | None = None
    """Names of the columns, where they differ from the format's own."""

    max_samples: Annotated[Int, Field(ge=1, le=100_000_000)] | None = None
    """At most so many rows, drawn at random with `training.seed`. A built-in dataset is repeated to reach it."""

    substitutions: Annotated[
        dict[Annotated[str, Field(pattern=WORD_PATTERN)], Annotated[str, Field(max_length=4096)]],
        Field(max_length=32),
    ] = Field(default_factory=dict)
    """Text to put in place of `{{name}}`, `{{author}}` and the like, by name without the braces."""


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
    output head."""


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

    fraction: Fraction = "0.1"
    """Share of the rows that is held back."""

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


class OutType(StrEnum):
    """Number format of the GGUF that the quantizations are made from."""

    F16 = "F16"
    BF16 = "BF16"


class Quantization(StrEnum):
    """Quantization types, in llama.cpp's spelling."""

    Q4_0 = "Q4_0"
    Q4_K_M = "Q4_K_M"
    Q5_K_M = "Q5_K_M"
    Q6_K = "Q6_K"
    Q8_0 = "Q8_0"
    F16 = "F16"


class Export(ApiModel):
    """What is made of the trained model."""

    out_type: OutType = OutType.BF16
    """Number format of the GGUF that the quantizations are made from."""

    quantizations: Annotated[tuple[Quantization, ...], Field(min_length=1, max_length=6), Once()] = (
        Quantization.Q4_K_M,
    )
    """Quantization types to make. The first is served under the model's name, each other one under that name with
    the type at its end (`support-bot:v1-q8_0`)."""


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


class FineTuneJobSpec(ApiModel):
    """What is wanted: a base model, data, how to train, what to make of it and where it is to be served."""

    RULES: ClassVar = (
        Rule(
            "must have a tag of at most 73 characters if there are several quantizations: their types are added to it",
            lambda spec: len(spec.export.quantizations) < 2 or not _LONG_TAG.search(spec.ollama.model),
            f"size(self.export.quantizations) < 2 || !self.ollama.model.matches(r'{_LONG_TAG.pattern}')",
            ("ollama", "model"),
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

    datasets: Annotated[tuple[Dataset, ...], Field(min_length=1, max_length=64), Once("name")]
    """The data, mixed in the order of the seed."""

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

    api_version: Literal["tunesmith.dev/v1alpha1"]
    """Always tunesmith.dev/v1alpha1."""

    kind: Literal["FineTuneJob"]
    """Always FineTuneJob."""

    metadata: Metadata
    """Kubernetes' own metadata: name, namespace, labels, annotations."""

    spec: FineTuneJobSpec
    """What is wanted."""
