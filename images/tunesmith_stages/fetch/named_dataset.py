"""Datasets that LLaMA-Factory's ``dataset_info.json`` names: in a folder of the volume, or in a hub's repository.

The store gets the files that the entry leads to, and a ``dataset_info.json`` with that entry alone, for `prepare`.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from tunesmith_stages.contract import ExitCode, FileEntry, UnitConfig, digest_of
from tunesmith_stages.fetch import from_hub, on_volume
from tunesmith_stages.fetch.asked import Asked
from tunesmith_stages.fetch.data_files import data_names, dataset_files
from tunesmith_stages.fetch.from_hub import Loads
from tunesmith_stages.fetch.storing import open_source, store_copies
from tunesmith_stages.prepare.dataset_info import FILE, Entry, entry_alone, read_entry
from tunesmith_stages.program import Made, StageError, Work
from tunesmith_stages.volume import UnsafePathError, Volume

_NO_LIST = f"With `datasetInfo` the source is a folder or repository with LLaMA-Factory's {FILE} at its top."
_DEFAULT_BRANCH = {"huggingFace": "main", "modelScope": "master"}


def version_on_volume(asked: Asked) -> str:
    """Return a version that changes with the folder, with what its entry leads to below it, and with a hub's commit.

    Empty if something is missing, which `fetch` complains of.

    Raises:
        StageError: a hub does not tell.
    """
    given = asked.source["volume"]["path"]
    folder = asked.volume.version(given)
    try:
        entry = read_entry(_content(asked.volume, asked.volume.root / given / FILE), asked.source["datasetInfo"])
        entry.require_text()
    except (OSError, UnsafePathError, StageError):
        return ""
    if entry.file_name is None:
        return _version_of_hub(asked, from_hub.version(_on_hub(asked, entry)))
    return (
        folder
        if "/" not in entry.file_name and _is_file(asked, entry)
        else digest_of([folder, asked.volume.version(f"{given}/{entry.file_name}")])
    )


def _content(volume: Volume, path: Path) -> bytes:
    with open_source(volume, path) as file:
        return file.read()


def _version_of_hub(asked: Asked, commit: str) -> str:
    return digest_of([asked.volume.version(asked.source["volume"]["path"]), commit])


def _is_file(asked: Asked, entry: Entry) -> bool:
    folder: str = asked.source["volume"]["path"]
    return (asked.volume.root / folder / str(entry.file_name)).is_file()


def bring_from_volume(work: Work) -> Made:
    """Bring the dataset that an entry in a folder of the volume names.

    Raises:
        StageError: there is no such folder or entry, or what it leads to is missing or of no use.
        UnsafePathError: it leads out of the volume.
    """
    source = work.params["source"]
    given, name = source["volume"]["path"], source["datasetInfo"]
    content = _content(work.volume, on_volume.find(work, f"{given}/{FILE}", _NO_LIST))
    entry = read_entry(content, name)
    entry.require_text()
    alone = entry_alone(content, name)
    if entry.file_name is None:
        return _bring_from_hub(work, entry, alone)
    place = on_volume.find(
        work, f"{given}/{entry.file_name}", f"Put it there, or correct the entry `{name}` of {FILE}."
    )
    files = dataset_files(place, f"{given}/{entry.file_name}")
    top = Path(entry.file_name)
    stored = {(top / path.name if place.is_dir() else top).as_posix(): path for path in files}
    return store_copies(work, stored, {}, {FILE: alone})


def _bring_from_hub(work: Work, entry: Entry, alone: bytes) -> Made:
    given = Asked(work.volume, work.unit, work.runtime)
    asked = _on_hub(given, entry)
    # The sources before this one may have taken hours; what comes must be what the key says.
    commit = from_hub.version(asked)
    if given.version not in {"", _version_of_hub(given, commit)}:
        raise StageError(
            ExitCode.TEMPORARY,
            f"the dataset that the entry `{entry.name}` of {FILE} leads to has changed since it was looked up",
            hint="It is looked up anew by the next attempt.",
        )
    asked = dataclasses.replace(asked, unit=_with_version(asked.unit, commit))

    def select(loads: Loads) -> tuple[list[FileEntry], dict[str, Any]]:
        entries = loads.data_files(entry.subset, entry.split or "train", entry.folder or "")
        return [*entries, loads.write(FILE, alone)], {}

    return from_hub.bring_selected(work, asked, select)


def _on_hub(asked: Asked, entry: Entry) -> Asked:
    """Return the repository that an entry names as the source of its unit, not looked up yet."""
    hub = next(name for name in _DEFAULT_BRANCH if name in entry.hubs)
    source = {hub: {"repo": entry.hubs[hub], "revision": _DEFAULT_BRANCH[hub]}}
    unit = dataclasses.replace(asked.unit, params={**asked.unit.params, "source": source})
    return dataclasses.replace(asked, unit=_with_version(unit, ""))


def _with_version(unit: UnitConfig, version: str) -> UnitConfig:
    return dataclasses.replace(unit, params={**unit.params, "refresh": version})


def bring_from_repository(work: Work) -> Made:
    """Bring the dataset that an entry in a hub's repository names; its file must lie in the same repository.

    Raises:
        StageError: there is no such entry or file, or the hub refuses or fails.
    """
    name = work.params["source"]["datasetInfo"]

    def select(loads: Loads) -> tuple[list[FileEntry], dict[str, Any]]:
        if FILE not in loads.files:
            raise StageError(
                ExitCode.MISSING_INPUT, f"{loads.called} has no {FILE}", reason="SourceNotFound", hint=_NO_LIST
            )
        content = loads.content(FILE)
        entry = read_entry(content, name)
        entry.require_text()
        entries = loads.bring(_in_repository(loads, entry))
        return [*entries, loads.write(FILE, entry_alone(content, name))], {}

    return from_hub.bring_selected(work, Asked(work.volume, work.unit, work.runtime), select)


def _in_repository(loads: Loads, entry: Entry) -> list[str]:
    if entry.file_name is None:
        raise StageError(
            ExitCode.BAD_CONFIG,
            f"the entry `{entry.name}` of {FILE} in {loads.called} leads to another repository",
            reason="BadDatasetInfo",
            hint="Name that repository itself as the dataset's source.",
        )
    below = [path for path in loads.files if path.startswith(f"{entry.file_name}/")]
    found = data_names([entry.file_name] if entry.file_name in loads.files else below)
    if not found:
        raise StageError(
            ExitCode.MISSING_INPUT,
            f"the entry `{entry.name}` of {FILE} in {loads.called} leads nowhere: {entry.file_name!r} holds no data",
            reason="SourceNotFound",
            hint="Name another entry in `datasetInfo`, or another `revision`.",
        )
    return found
