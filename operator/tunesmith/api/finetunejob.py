"""The FineTuneJob: one pydantic model per object of the YAML.

The docstring of a field is its documentation everywhere: in ``docs/api.md``, in the CRD and so in ``kubectl explain``.
Names are camelCase in YAML and snake_case here. Decimals are strings, because a float's text is not the same in every
program that reads it.
"""

from __future__ import annotations

import decimal
from enum import StrEnum
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic.alias_generators import to_camel
from pydantic_core import PydanticCustomError

from tunesmith_stages import model_name
from tunesmith_stages.contract import ALL_LINEAR

GROUP = "tunesmith.dev"
VERSION = "v1alpha1"
KIND = "FineTuneJob"

NAME_PATTERN = r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?$"
MODEL_NAME_PATTERN = (
    r"^(([A-Za-z0-9_][A-Za-z0-9_.:-]{0,349}/)?[A-Za-z0-9_][A-Za-z0-9_-]{0,79}/)?"
    r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}(:[A-Za-z0-9_][A-Za-z0-9_.-]{0,79})?$"
)
BROKEN_RULE = "broken_rule"
"""Type of the errors of rules over several fields; their context holds the ``field`` to change, below the object."""


def _broken(message: str, *field: str | int) -> PydanticCustomError:
    return PydanticCustomError(BROKEN_RULE, "{message}", {"message": message, "field": field})


def _decimal(value: object) -> object:
    if isinstance(value, int | float) and not isinstance(value, bool):
        raise ValueError(f'must be a decimal in quotes: "{value}"')
    return value


def _model_name(value: object) -> object:
    trouble = model_name.problem(value) if isinstance(value, str) else None
    if trouble is not None:
        raise _broken(f"must be a name that Ollama takes, [[host/]namespace/]model[:tag]: {trouble}")
    return value


def _one_form(value: str) -> str:
    """Return the one text of a decimal: `5e-3`, `0.005` and `0.0050` are the same number and must give the same key."""
    return format(decimal.Decimal(value).normalize(), "f")


_NOT_NEGATIVE = r"^[0-9]{1,9}(\.[0-9]{1,12})?([eE]-?[0-9]{1,2})?$"
_ANY_SIGN = r"^-?[0-9]{1,9}(\.[0-9]{1,12})?([eE]-?[0-9]{1,2})?$"
_BELOW_ONE = r"^0(\.[0-9]{1,9})?$"

Fraction = Annotated[str, Field(pattern=_BELOW_ONE), BeforeValidator(_decimal), AfterValidator(_one_form)]
"""A decimal from 0 to below 1, as a string."""

Decimal = Annotated[str, Field(pattern=_NOT_NEGATIVE), BeforeValidator(_decimal), AfterValidator(_one_form)]
"""A decimal of 0 or more, as a string; exponents are allowed."""

SignedDecimal = Annotated[str, Field(pattern=_ANY_SIGN), BeforeValidator(_decimal), AfterValidator(_one_form)]
"""A decimal, as a string; exponents are allowed."""


def _volume_path(value: str) -> str:
    if value.startswith("/") or ".." in value.split("/"):
        raise ValueError("must be relative to the volume's root and must not contain '..'")
    return value


VolumePath = Annotated[str, Field(min_length=1, max_length=1024), AfterValidator(_volume_path)]
"""A path relative to the volume's root, without ``..``."""


class ApiModel(BaseModel):
    """What all objects of the API have in common."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        extra="forbid",
        frozen=True,
        populate_by_name=False,
        use_attribute_docstrings=True,
        validate_default=True,
    )


Int = Annotated[int, Field(strict=True)]
Bool = Annotated[bool, Field(strict=True)]


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


class Dataset(ApiModel):
    """One dataset. Give exactly one source: `volume` or `builtin`."""

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
        dict[Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,63}$")], Annotated[str, Field(max_length=4096)]],
        Field(max_length=32),
    ] = Field(default_factory=dict)
    """Text to put in place of `{{name}}`, `{{author}}` and the like, by name without the braces."""

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.volume is None) == (self.builtin is None):
            found = "neither is there" if self.volume is None else "both are there"
            raise _broken(f"must have exactly one source, `volume` or `builtin`; {found}")
        if self.builtin is None and self.languages is not None:
            raise _broken("goes with `builtin` only", "languages")
        if self.builtin is not None and self.columns is not None:
            raise _broken("goes with `volume` only: a built-in dataset knows its own", "columns")
        if self.builtin is not None and self.format is not DatasetFormat.AUTO:
            raise _broken("goes with `volume` only: a built-in dataset knows its own", "format")
        missing = {"name", "author"} - self.substitutions.keys()
        if self.builtin is Builtin.SELF_COGNITION and missing:
            wanted = " and ".join(f"`{name}`" for name in sorted(missing, reverse=True))
            raise _broken(f"must hold {wanted}: SelfCognition has a place for each of them", "substitutions")
        return self

    @model_validator(mode="after")
    def _columns_of_the_format(self) -> Self:
        columns = self.columns or Columns()
        named = [field for field in ("prompt", "query", "response", "system", "history") if getattr(columns, field)]
        if named and (columns.messages or self.format is DatasetFormat.MESSAGES):
            raise _broken("is a column of Alpaca rows; Messages rows have `messages` alone", "columns", named[0])
        if columns.messages and self.format is DatasetFormat.ALPACA:
            raise _broken("is a column of Messages rows, but `format` is Alpaca", "columns", "messages")
        return self


# --- training --------------------------------------------------------------------------------------------------------


class FinetuningType(StrEnum):
    """How much of the model is trained."""

    FULL = "Full"
    LORA = "LoRA"


class Lora(ApiModel):
    """Low-rank adaptation (LoRA)."""

    rank: Annotated[Int, Field(ge=1, le=1024)] = 16
    """Rank of the update matrices."""

    alpha: Annotated[Int, Field(ge=1, le=4096)] = 32
    """The update is scaled by alpha / rank."""

    dropout: Fraction = "0"
    """Share of the adapter's inputs that is dropped while training."""

    target_modules: Annotated[
        tuple[Annotated[str, Field(pattern=r"^[A-Za-z0-9_.]{1,128}$")], ...], Field(min_length=1, max_length=64)
    ] = (ALL_LINEAR,)
    """The modules that get an adapter, by the end of their names (`q_proj`), or AllLinear: every linear layer but the
    output head."""

    @model_validator(mode="after")
    def _all_or_some(self) -> Self:
        if ALL_LINEAR in self.target_modules and len(self.target_modules) > 1:
            raise _broken(f"must be either [{ALL_LINEAR}] or a list of module names", "targetModules")
        return self


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

    zero_stage: Annotated[Int, Field(json_schema_extra={"enum": [0, 2, 3]})] = 2
    """ZeRO stage: 0 copies everything to each process, 2 splits gradients and optimizer, 3 the weights too."""

    @model_validator(mode="after")
    def _known_stage(self) -> Self:
        if self.zero_stage not in (0, 2, 3):
            raise _broken(f"must be 0, 2 or 3, got {self.zero_stage}", "zeroStage")
        return self


class Training(ApiModel):
    """Supervised fine-tuning with DeepSpeed."""

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

    learning_rate: Decimal = "0.0001"
    """Highest learning rate."""

    lr_schedule: LrSchedule = LrSchedule.COSINE
    """How the learning rate goes on after the warm-up."""

    warmup_steps: Annotated[Int, Field(ge=0, le=1_000_000)] = 0
    """Steps over which the learning rate rises from 0."""

    weight_decay: Decimal = "0"
    """Weight decay of AdamW."""

    max_grad_norm: Decimal = "1"
    """The gradient is scaled down to this norm; 0 turns it off."""

    num_train_epochs: Decimal | None = None
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

    gpus_per_node: Annotated[Int, Field(ge=0, le=64)] = 1
    """GPUs, one process each. 0 trains on the CPU with `processesPerNode` processes."""

    processes_per_node: Annotated[Int, Field(ge=1, le=64)] | None = None
    """Processes of a training on the CPU. Default: 1. With GPUs there is one process for each."""

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.finetuning_type is FinetuningType.FULL and self.lora is not None:
            raise _broken("goes with `finetuningType: LoRA` only; remove it, or train LoRA", "lora")
        if self.gpus_per_node == 0 and self.precision is Precision.FP16:
            raise _broken("must be BF16 or FP32 on the CPU (`gpusPerNode: 0`), got 'FP16'", "precision")
        if self.gpus_per_node > 0 and self.processes_per_node is not None:
            raise _broken(
                f"goes with `gpusPerNode: 0` only: each of the {self.gpus_per_node} GPU(s) has one process",
                "processesPerNode",
            )
        if self.max_steps is not None and self.num_train_epochs is not None:
            raise _broken("must not be given together with `maxSteps`: remove one of them", "numTrainEpochs")
        if float(self.learning_rate) <= 0:
            raise _broken(f"must be above 0, got {self.learning_rate!r}", "learningRate")
        if self.num_train_epochs is not None and float(self.num_train_epochs) <= 0:
            raise _broken(f"must be above 0, got {self.num_train_epochs!r}", "numTrainEpochs")
        return self

    @property
    def processes(self) -> int:
        """Number of training processes."""
        return self.gpus_per_node or self.processes_per_node or 1

    @property
    def global_batch_size(self) -> int:
        """Rows per optimizer step over all processes."""
        return self.processes * self.per_device_train_batch_size * self.gradient_accumulation_steps


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

    quantizations: Annotated[tuple[Quantization, ...], Field(min_length=1, max_length=6)] = (Quantization.Q4_K_M,)
    """Quantization types to make. The first is served under the model's name, each other one under that name with
    the type at its end (`support-bot:v1-q8_0`)."""

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        for index, item in enumerate(self.quantizations):
            if item in self.quantizations[:index]:
                raise _broken(f"must name each type once, {item.value} is there twice", "quantizations", index)
        return self


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


class Ollama(ApiModel):
    """How the model is served."""

    model: Annotated[str, Field(min_length=1, max_length=255, pattern=MODEL_NAME_PATTERN), BeforeValidator(_model_name)]
    """Name under which Ollama serves it, such as `support-bot:v1`. A model of that name is replaced, but only once
    the new one is proven."""

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

    model: Model
    """The base model that is fine-tuned."""

    datasets: Annotated[tuple[Dataset, ...], Field(min_length=1, max_length=64)]
    """The data, mixed in the order of the seed."""

    training: Training = Training()
    """How it is trained."""

    export: Export = Export()
    """What is made of the trained model."""

    ollama: Ollama
    """How it is served."""

    @model_validator(mode="after")
    def _names_once(self) -> Self:
        seen: set[str] = set()
        for index, dataset in enumerate(self.datasets):
            if dataset.name in seen:
                raise _broken(
                    f"must differ from the other datasets' names, got {dataset.name!r} again", "datasets", index, "name"
                )
            seen.add(dataset.name)
        return self

    @model_validator(mode="after")
    def _served_names(self) -> Self:
        trouble = model_name.problem_of_any(self.ollama.model, self.export.quantizations)
        if trouble is not None:
            raise _broken(trouble, "ollama", "model")
        return self


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
