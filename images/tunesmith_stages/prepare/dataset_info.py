"""Reads LLaMA-Factory's ``dataset_info.json``: which file holds a dataset, and what its rows look like.

The fields and their defaults are those of LLaMA-Factory 0.9.5 (src/llamafactory/data/parser.py and data/README.md).
A name that its entry leaves out of `columns` is no column, but for entries without `columns`, which have the defaults.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, NoReturn

from tunesmith_stages.contract import ExitCode
from tunesmith_stages.prepare.conversations import shown
from tunesmith_stages.prepare.text_files import BOM
from tunesmith_stages.program import StageError

FILE = "dataset_info.json"

_HUBS = {"hf_hub_url": "huggingFace", "ms_hub_url": "modelScope"}
_NOT_READ = {
    "script_url": "a script, which would be run",
    "cloud_file_name": "a file in a cloud's storage",
    "om_hub_url": "a hub that is not known",
}
_TEXTS = ("subset", "split", "folder")
_COLUMNS = ("prompt", "query", "response", "history", "messages", "system", "tools")
_MEDIA = ("images", "videos", "audios")
_PREFERENCES = ("chosen", "rejected", "kto_tag")
_TAGS = ("role", "content", "user", "assistant", "observation", "function", "system")
_FORMATS = ("alpaca", "sharegpt", "openai")
_KNOWN = {*_HUBS, *_NOT_READ, *_TEXTS, "file_name", "formatting", "ranking", "num_samples", "columns", "tags"}


@dataclass(frozen=True)
class Entry:
    """One entry of a dataset_info.json."""

    name: str
    file_name: str | None
    """The file or folder with the rows, below the folder of the dataset_info.json; None if they are on a hub."""
    hubs: Mapping[str, str]
    """By hub (``huggingFace``, ``modelScope``), the repository with the rows; one has precedence over a file."""
    formatting: str
    """``alpaca``, ``sharegpt`` or ``openai``."""
    ranking: bool
    columns: Mapping[str, str] | None
    tags: Mapping[str, str]
    """Without the ``_tag`` at the end of their names."""
    num_samples: int | None
    subset: str | None
    split: str | None
    folder: str | None
    """Of the repository."""
    unknown: tuple[str, ...]
    """Names of fields that no version of the format has that is known here."""

    def require_one_answer(self) -> None:
        """Refuse what supervised fine-tuning cannot take.

        Raises:
            StageError: the entry is of preference data.
        """
        columns = self.columns or {}
        if self.ranking or any(name in columns for name in _PREFERENCES):
            why = "`ranking` is true" if self.ranking else f"`columns` has `{_first(_PREFERENCES, columns)}`"
            message = f"the entry `{self.name}` of {FILE} is preference data (ranking): {why}"
            hint = LABELS_HINT if "kto_tag" in columns and not self.ranking else PAIRS_HINT
            raise StageError(ExitCode.BAD_DATA, message, reason="PreferenceData", hint=hint)

    def require_text(self) -> None:
        """Refuse what no method can take.

        Raises:
            StageError: the entry is of media.
        """
        columns = self.columns or {}
        if any(name in columns for name in _MEDIA):
            word = _first(_MEDIA, columns)
            message = f"the entry `{self.name}` of {FILE} is media: `columns` has `{word}`"
            raise StageError(
                ExitCode.BAD_DATA, message, reason="MediaData", hint="Only text is trained on. Use another dataset."
            )


PAIRS_HINT = (
    "Set `training.method` to DPO or ORPO, which learn from both answers, or learn the chosen ones alone: without "
    "`datasetInfo`, with `format: Alpaca` and `columns: {prompt: ..., response: chosen}`, if they are texts."
)
LABELS_HINT = (
    "Set `training.method: KTO`, which learns from answers that are desirable and ones that are not, or use a dataset "
    "in which every answer is one to learn."
)
SINGLE_HINT = "Set `training.method: SFT`, which learns the answers as they are, or use another dataset."


def read_entry(content: bytes, name: str) -> Entry:
    """Return the entry `name` of a ``dataset_info.json``.

    Raises:
        StageError: the file is not JSON, has no such entry, or one that leads nowhere, upward, or to what is not read.
    """
    given = _entries(content).get(name)
    if given is None:
        names = ", ".join(f"`{known}`" for known in list(_entries(content))[:20])
        _refuse(f"has no entry `{name}`; it has {names or 'none'}", "Give `datasetInfo` one of these names.")
    where = f"entry `{name}`"
    if not isinstance(given, dict):
        _refuse(f"{where} must be an object, got {shown(given)}")
    hubs = {hub: _text(given, key, where) for key, hub in _HUBS.items() if given.get(key)}
    file_name = None if hubs else _file_name(given, where)
    formatting = given.get("formatting") or "alpaca"
    if formatting not in _FORMATS:
        _refuse(f"{where}: `formatting` must be one of {', '.join(_FORMATS)}, got {shown(formatting)}")
    columns = _names(given, "columns", where)
    tags = _names(given, "tags", where) or {}
    split = _text(given, "split", where) if given.get("split") else None
    if file_name is not None and split not in {None, "train"}:
        _refuse(f"{where}: `split` is {split!r}, but a file has the split `train` alone", "Remove it from the entry.")
    return Entry(
        name,
        file_name,
        hubs,
        formatting,
        _ranking(given, where),
        None if columns is None else {key: columns[key] for key in columns if key in _known_columns()},
        {key.removesuffix("_tag"): word for key, word in tags.items() if key.removesuffix("_tag") in _TAGS},
        _num_samples(given, where),
        _text(given, "subset", where) if given.get("subset") else None,
        split,
        _text(given, "folder", where) if given.get("folder") else None,
        _unknown(given, columns or {}, tags),
    )


def entry_alone(content: bytes, name: str) -> bytes:
    """Return a ``dataset_info.json`` with the entry `name` alone, as it is; errors as :func:`read_entry`."""
    read_entry(content, name)
    return json.dumps({name: _entries(content)[name]}, ensure_ascii=False, indent=2).encode() + b"\n"


def _entries(content: bytes) -> dict[str, Any]:
    try:
        entries = json.loads(content.removeprefix(BOM).decode())
    except RecursionError:
        _refuse("is not JSON that can be read: it is nested too deeply")
    except ValueError as error:  # not UTF-8, too
        _refuse(f"is not JSON: {error}")
    if not isinstance(entries, dict):
        _refuse("must hold an object, {name: {file_name: ...}}")
    return entries


def _file_name(given: Mapping[str, Any], where: str) -> str:
    """Return the path of the file or folder with the rows."""
    for key, what in _NOT_READ.items():
        if given.get(key):
            _refuse(f"{where} leads to {what} (`{key}`), which is not read", "Put the data beside it as `file_name`.")
    if not given.get("file_name"):
        _refuse(f"{where} leads nowhere: it has no `file_name`, `hf_hub_url` or `ms_hub_url`")
    name = _text(given, "file_name", where)
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name or re.match("[A-Za-z]:", name):
        _refuse(f"{where}: `file_name` {name!r} leads out of the folder", "Put the file beside the dataset_info.json.")
    return str(path)


def _text(given: Mapping[str, Any], key: str, where: str) -> str:
    value = given[key]
    if not isinstance(value, str):
        _refuse(f"{where}: `{key}` must be a text, got {shown(value)}")
    return value


def _ranking(given: Mapping[str, Any], where: str) -> bool:
    value = given.get("ranking") or False
    if not isinstance(value, bool):
        _refuse(f"{where}: `ranking` must be true or false, got {shown(value)}")
    return value


def _num_samples(given: Mapping[str, Any], where: str) -> int | None:
    value = given.get("num_samples")
    if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
        _refuse(f"{where}: `num_samples` must be a whole number above 0, got {shown(value)}")
    return value


def _names(given: Mapping[str, Any], key: str, where: str) -> dict[str, str] | None:
    """Return an object of names; those that are null are left out."""
    value = given.get(key)
    if value is None:
        return None
    if not isinstance(value, dict) or not all(isinstance(item, str | None) for item in value.values()):
        _refuse(f"{where}: `{key}` must be an object of names, got {shown(value)}")
    return {name: item for name, item in value.items() if item}


def _known_columns() -> set[str]:
    return {*_COLUMNS, *_MEDIA, *_PREFERENCES}


def _unknown(given: Mapping[str, Any], columns: Mapping[str, str], tags: Mapping[str, str]) -> tuple[str, ...]:
    return (
        *(key for key in given if key not in _KNOWN),
        *(f"columns.{key}" for key in columns if key not in _known_columns()),
        *(f"tags.{key}" for key in tags if key.removesuffix("_tag") not in _TAGS),
    )


def _first(names: tuple[str, ...], columns: Mapping[str, str]) -> str:
    return next(name for name in names if name in columns)


def _refuse(message: str, hint: str = "Correct the entry; LLaMA-Factory's data/README.md describes it.") -> NoReturn:
    raise StageError(ExitCode.BAD_DATA, f"{FILE}: {message}", reason="BadDatasetInfo", hint=hint)
