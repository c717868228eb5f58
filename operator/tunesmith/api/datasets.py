"""The datasets of a FineTuneJob: what their rows look like, and how they are mixed."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import Field

from tunesmith.api.sources import (
    DATASET_SOURCES,
    Builtin,
    ConfigMapSource,
    HuggingFaceDataset,
    InlineRow,
    Language,
    ModelScopeDataset,
    VolumeSource,
    has_one_of,
    one_of_in_cel,
)
from tunesmith.api.values import NAME_PATTERN, WORD_PATTERN, ApiModel, Int, PositiveDecimal, Rule


class DatasetFormat(StrEnum):
    """The shapes of rows that are understood."""

    AUTO = "Auto"
    ALPACA = "Alpaca"
    SHARE_GPT = "ShareGPT"
    MESSAGES = "Messages"
    PROMPT_COMPLETION = "PromptCompletion"
    TEXT = "Text"


class DatasetUse(StrEnum):
    """What rows are for."""

    TRAINING = "Training"
    VALIDATION = "Validation"


class OnBadRow(StrEnum):
    """What happens to rows that cannot be used."""

    FAIL = "Fail"
    SKIP = "Skip"


ColumnName = Annotated[str, Field(min_length=1, max_length=256)]
Tag = Annotated[str, Field(min_length=1, max_length=256)]


class Columns(ApiModel):
    """Which column of the data holds what. A column that is not named here has the format's own name."""

    prompt: ColumnName | None = None
    """Alpaca, PromptCompletion: what the user says. Default: `instruction` (Alpaca), `prompt`."""

    query: ColumnName | None = None
    """Alpaca: what is added to the prompt on a new line. Default: `input`, which rows may lack."""

    response: ColumnName | None = None
    """Alpaca, PromptCompletion: what the assistant answers. Default: `output` (Alpaca), `completion`."""

    system: ColumnName | None = None
    """Alpaca, ShareGPT: the system message. Default: `system`, which rows may lack."""

    history: ColumnName | None = None
    """Alpaca: earlier turns, a list of [user, assistant] pairs. Default: `history`, which rows may lack."""

    messages: ColumnName | None = None
    """Messages, ShareGPT: the list of messages. Default: `messages` or `conversations`."""

    tools: ColumnName | None = None
    """Messages, ShareGPT: the tools that the assistant may call. Default: `tools`, which rows may lack."""

    text: ColumnName | None = None
    """Text: the text. Default: `text`."""

    chosen: ColumnName | None = None
    """With `training.method` DPO and ORPO, any format but Text: the better answer. Default: `chosen`."""

    rejected: ColumnName | None = None
    """The same: the worse answer. Default: `rejected`."""

    desirable: ColumnName | None = None
    """With `training.method: KTO`, any format but Text: whether the answer is one to give, true or false. Default:
    `kto_tag`, or `label`."""


_PREFERENCES = ("chosen", "rejected", "desirable")
_COLUMNS_OF = {
    DatasetFormat.ALPACA: ("prompt", "query", "response", "system", "history", *_PREFERENCES),
    DatasetFormat.SHARE_GPT: ("messages", "system", "tools", *_PREFERENCES),
    DatasetFormat.MESSAGES: ("messages", "tools", *_PREFERENCES),
    DatasetFormat.PROMPT_COMPLETION: ("prompt", "response", *_PREFERENCES),
    DatasetFormat.TEXT: ("text",),
}


class Tags(ApiModel):
    """ShareGPT: the words that its messages use. One that is not named here is the usual one."""

    role: Tag | None = None
    """Key of the role. Default: `from`, or `role`."""

    content: Tag | None = None
    """Key of the text. Default: `value`, or `content`."""

    user: Tag | None = None
    """Role of the user. Default: `human`, or `user`."""

    assistant: Tag | None = None
    """Role of the assistant. Default: `gpt`, or `assistant`."""

    observation: Tag | None = None
    """Role of what a tool returned. Default: `observation`, or `tool`."""

    function: Tag | None = None
    """Role of the assistant's call of a tool. Default: `function_call`."""

    system: Tag | None = None
    """Role of the system message. Default: `system`."""


def _given(columns: Columns | None) -> set[str]:
    return set(columns.model_dump(exclude_none=True)) if columns else set()


def _columns_fit(dataset: Dataset) -> bool:
    given = _given(dataset.columns)
    formats = _COLUMNS_OF if dataset.format is DatasetFormat.AUTO else (dataset.format,)
    return any(given <= set(_COLUMNS_OF[name]) for name in formats)


def _columns_fit_in_cel() -> str:
    """Return in CEL: the columns that are named are those of one format, of the one that is named if it is."""
    fits = (
        f"((self.format == 'Auto' || self.format == '{name}') && {_none_of(set(Columns.model_fields) - {*columns})})"
        for name, columns in _COLUMNS_OF.items()
    )
    return "!has(self.columns) || " + " || ".join(fits)


def _none_of(columns: Iterable[str]) -> str:
    return "(" + " && ".join(f"!has(self.columns.{column})" for column in sorted(columns)) + ")"


class Dataset(ApiModel):
    """One dataset. Give exactly one source."""

    RULES: ClassVar = (
        Rule(
            "must have exactly one source: `volume`, `huggingFace`, `modelScope`, `configMap`, `inline` or `builtin`",
            has_one_of(DATASET_SOURCES),
            one_of_in_cel(DATASET_SOURCES),
        ),
        Rule(
            "goes with `builtin` only",
            lambda item: item.languages is None or item.builtin is not None,
            "!has(self.languages) || has(self.builtin)",
            ("languages",),
        ),
        Rule(
            "must not be given for a built-in dataset, which knows its own",
            lambda item: item.columns is None or item.builtin is None,
            "!has(self.columns) || !has(self.builtin)",
            ("columns",),
        ),
        Rule(
            "must be Auto for a built-in dataset, which knows its own, and with `datasetInfo`, which says it",
            lambda item: item.format is DatasetFormat.AUTO or (item.builtin is None and item.dataset_info is None),
            "self.format == 'Auto' || (!has(self.builtin) && !has(self.datasetInfo))",
            ("format",),
        ),
        Rule(
            "must not be given with `datasetInfo`, which names the columns",
            lambda item: item.columns is None or item.dataset_info is None,
            "!has(self.columns) || !has(self.datasetInfo)",
            ("columns",),
        ),
        Rule(
            "goes with `volume`, `huggingFace` or `modelScope` only: a folder with a dataset_info.json",
            lambda item: item.dataset_info is None or bool(item.volume or item.hugging_face or item.model_scope),
            "!has(self.datasetInfo) || has(self.volume) || has(self.huggingFace) || has(self.modelScope)",
            ("datasetInfo",),
        ),
        Rule(
            "goes with `format` ShareGPT only, or Auto, and not with `datasetInfo`",
            lambda item: (
                item.tags is None
                or (
                    item.format in {DatasetFormat.AUTO, DatasetFormat.SHARE_GPT}
                    and item.builtin is None
                    and item.dataset_info is None
                )
            ),
            "!has(self.tags) || (self.format in ['Auto', 'ShareGPT'] && !has(self.builtin) && !has(self.datasetInfo))",
            ("tags",),
        ),
        Rule(
            "must hold `name` and `author`: SelfCognition has a place for each of them",
            lambda item: item.builtin is not Builtin.SELF_COGNITION or {"name", "author"} <= item.substitutions.keys(),
            "!has(self.builtin) || self.builtin != 'SelfCognition' || "
            "(has(self.substitutions) && 'name' in self.substitutions && 'author' in self.substitutions)",
            ("substitutions",),
        ),
        Rule(
            "must name columns of one format, of `format` if that is given: "
            + "; ".join(f"{name}: {', '.join(columns)}" for name, columns in _COLUMNS_OF.items()),
            _columns_fit,
            _columns_fit_in_cel(),
            ("columns",),
        ),
    )

    name: Annotated[str, Field(min_length=1, max_length=52, pattern=NAME_PATTERN)]
    """What it is called in reports and messages."""

    volume: VolumeSource | None = None
    """A .json, .jsonl, .csv, .parquet or .txt file on the volume, or a folder of them."""

    hugging_face: HuggingFaceDataset | None = None
    """A dataset of the Hugging Face Hub."""

    model_scope: ModelScopeDataset | None = None
    """A dataset of ModelScope."""

    config_map: ConfigMapSource | None = None
    """A small dataset in a ConfigMap."""

    inline: Annotated[tuple[InlineRow, ...], Field(min_length=1, max_length=1000)] | None = None
    """The rows themselves, for a few."""

    builtin: Builtin | None = None
    """A dataset that comes with Tunesmith. SelfCognition teaches the model its name and its author."""

    languages: Annotated[tuple[Language, ...], Field(min_length=1, max_length=2)] | None = None
    """Which languages of a built-in dataset to use. Default: all of them."""

    dataset_info: Annotated[str, Field(min_length=1, max_length=256)] | None = None
    """Name of an entry of the dataset_info.json (LLaMA-Factory) in the source's folder. The entry says which file
    holds the rows and what they look like."""

    use: DatasetUse = DatasetUse.TRAINING
    """Training, or Validation: the rows are not trained on, the evaluation loss is measured on them."""

    format: DatasetFormat = DatasetFormat.AUTO
    """The shape of its rows: Alpaca (instruction, input, output), ShareGPT (conversations of from and value), Messages
    (OpenAI's list of role and content), PromptCompletion, or Text, which is learnt whole. Auto looks at the columns
    and says what it found. With DPO, ORPO and KTO rows have two answers or a label besides."""

    columns: Columns | None = None
    """Names of the columns, where they differ from the format's own."""

    tags: Tags | None = None
    """ShareGPT: words that its messages use, where they differ from the usual ones."""

    max_samples: Annotated[Int, Field(ge=1, le=100_000_000)] | None = None
    """At most so many rows, drawn at random with `training.seed`. A built-in dataset is repeated to reach it."""

    weight: Annotated[
        PositiveDecimal, Rule("must be at most 100", lambda weight: float(weight) <= 100, "double(self) <= 100.0")
    ] = "1"
    """How often each row is used, after `maxSamples`: 2 takes each twice, 0.5 half of them, drawn at random."""

    on_bad_row: OnBadRow = OnBadRow.FAIL
    """Fail ends the job at the first row that cannot be used, and names file, row and field. Skip leaves such rows out
    and counts them."""

    substitutions: Annotated[
        dict[Annotated[str, Field(pattern=WORD_PATTERN)], Annotated[str, Field(max_length=4096)]],
        Field(max_length=32),
    ] = Field(default_factory=dict)
    """Text to put in place of `{{name}}`, `{{author}}` and the like, by name without the braces."""
