"""What Tunesmith put on a volume, thing by thing.

Only ``store``, ``stages`` and ``runs`` are looked at, and in them only what has a name that
:mod:`tunesmith_stages.volume` gives. Everything else is somebody else's and is not in the inventory, so it can never be
removed. Symbolic links are not followed anywhere: Tunesmith makes none.
"""

from __future__ import annotations

import errno
import json
import os
import re
import stat
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from tunesmith.core.retention import Entry, Kind
from tunesmith_stages.contract import StageName
from tunesmith_stages.path_name import is_name
from tunesmith_stages.volume import Volume

REMOVED_PREFIX = ".removed-"
"""So begins the name of what is being removed; no reader looks at such a name."""

_KEY = re.compile(r"[0-9a-f]{64}")
_KEYED = re.compile(r"([0-9a-f]{64})\.(.+)")
_LOG = re.compile(rf"({'|'.join(StageName)})\.(.+?)(?:\.node-[1-9][0-9]*)?\.log")
_TRACKED = re.compile(r"[0-9a-f]{16}")
_MOST_BYTES = 8 << 20
"""Of a JSON file that is read."""


def inventory(volume: Volume) -> list[Entry]:
    """Return everything that Tunesmith put on the volume.

    Raises:
        OSError: it cannot be looked at.
    """
    found = [entry for stage in StageName for entry in _of_a_stage(volume, stage)]
    for kind in ("models", "datasets"):
        found += _of_the_store(volume, volume.sources(kind), kind)
    found += _downloads(volume)
    found += _runs(volume)
    return found


def held_keys(volume: Volume) -> dict[str, Path]:
    """Return, by key, the locks of units that processes of some machine have taken."""
    locks = (path for stage in StageName for path in _plain(volume.units(stage)) if path.suffix == ".lock")
    return {path.stem: path for path in locks if _KEY.fullmatch(path.stem)}


def last_use(path: Path) -> float:
    """Return when something at `path` or below was last written; 0 if it is not there."""
    return _measure(path)[1]


def job_folders(volume: Volume) -> dict[str, Path]:
    """Return the folders of jobs below ``runs``, by the job's name."""
    return {path.name: path for path in _folders(volume.root / "runs") if is_name(path.name)}


def tries(volume: Volume) -> Iterator[tuple[str, str]]:
    """Yield the job and the attempt that made each finished unit."""
    for stage in StageName:
        for path in _folders(volume.units(stage)):
            if _KEY.fullmatch(path.name) and (config := _read(path / "stage.json")):
                yield str(config.get("job", "")), str(config.get("attempt", ""))


# --- stages ----------------------------------------------------------------------------------------------------------


def _of_a_stage(volume: Volume, stage: StageName) -> Iterator[Entry]:
    for path in _folders(volume.units(stage)):
        if path.name.startswith(REMOVED_PREFIX):
            yield _entry(volume, path, Kind.REMOVED)
        elif _KEY.fullmatch(path.name):
            yield from _of_a_unit(volume, stage, path)
        elif named := _KEYED.fullmatch(path.name):
            yield _beside_a_unit(volume, stage, path, named[1], named[2])


def _of_a_unit(volume: Volume, stage: StageName, path: Path) -> Iterator[Entry]:
    """Yield a finished unit; that of `convert` in two parts, because its content is of use only for a while."""
    config = _read(path / "stage.json")
    result = _read(path / "result.json") or _read(volume.cleared_result(stage, path.name))
    size, used = _measure(path)
    if stage is StageName.CONVERT and _is_folder(path / "out"):
        content, _ = _measure(path / "out")
        exported = _mapping(result.get("outputs")).get("keepsMerged") is True
        where = volume.relative(path / "out")
        yield Entry(Kind.CONTENT, where, used, content, stage, path.name, is_export=exported)
        size -= content
    stored = str(result.get("path", "")) if stage is StageName.FETCH else ""
    yield Entry(
        Kind.UNIT,
        volume.relative(path),
        used,
        size,
        stage,
        path.name,
        job=str(config.get("job", "")),
        inputs=_inputs_of(config, path.name),
        stored=stored,
        finished=str(result.get("finished", "")),
    )


def _beside_a_unit(volume: Volume, stage: StageName, path: Path, key: str, rest: str) -> Entry:
    if rest.startswith("broken-"):
        return _entry(volume, path, Kind.SET_ASIDE)
    if stage is StageName.TRAIN and rest == "checkpoints":
        return _entry(volume, path, Kind.CHECKPOINTS, stage=stage, key=key)
    if stage is StageName.QUANTIZE and rest == "imatrix":
        return _entry(volume, path, Kind.MATRIX)
    job = str(_read(path / "stage.json").get("job", ""))
    return _entry(volume, path, Kind.ATTEMPT, stage=stage, key=key, attempt=rest, job=job)


def _inputs_of(config: Mapping[str, Any], key: str) -> tuple[str, ...]:
    units = config.get("units")
    for unit in units if isinstance(units, list) else ():
        if _mapping(unit).get("key") == key:
            inputs = _mapping(_mapping(unit).get("inputs")).values()
            return tuple(str(_mapping(item).get("path", "")) for item in inputs)
    return ()


# --- store and runs --------------------------------------------------------------------------------------------------


def _of_the_store(volume: Volume, folder: Path, kind: str) -> Iterator[Entry]:
    for path in _folders(folder):
        if path.name.startswith(REMOVED_PREFIX):
            yield _entry(volume, path, Kind.REMOVED)
        elif _KEY.fullmatch(path.name):
            manifest = volume.store_manifest(kind, path.name)
            yield _entry(volume, path, Kind.SOURCE, used=last_use(manifest))
        elif (named := _KEYED.fullmatch(path.name)) and named[2].startswith("broken-"):
            yield _entry(volume, path, Kind.SET_ASIDE)
    for path in _plain(folder):
        named = _KEYED.fullmatch(path.name)
        if named and named[2] == "manifest.json" and not _is_folder(folder / named[1]):
            yield _entry(volume, path, Kind.SET_ASIDE)


def _downloads(volume: Volume) -> Iterator[Entry]:
    for path in _folders(volume.root / "store" / "downloads"):
        if path.name.startswith(REMOVED_PREFIX):
            yield _entry(volume, path, Kind.REMOVED)
        elif _KEY.fullmatch(path.name[:64]):
            yield _entry(volume, path, Kind.DOWNLOAD, key=path.name[:64], attempt=path.name[65:])


def _runs(volume: Volume) -> Iterator[Entry]:
    for path in _folders(volume.root / "runs"):
        if path.name.startswith(REMOVED_PREFIX):
            yield _entry(volume, path, Kind.REMOVED)
    for name, path in job_folders(volume).items():
        parts = [*_logs(volume, name), *_tracked(volume, name)]
        size, used = _measure(path)
        yield from parts
        yield Entry(Kind.RUN, volume.relative(path), used, size - sum(part.bytes for part in parts), job=name)


def _logs(volume: Volume, job: str) -> Iterator[Entry]:
    for path in _plain(volume.logs(job)):
        if named := _LOG.fullmatch(path.name):
            yield _entry(volume, path, Kind.LOG, stage=named[1], attempt=named[2], job=job)


def _tracked(volume: Volume, job: str) -> Iterator[Entry]:
    for path in _folders(volume.run(job) / "tracking"):
        if _TRACKED.fullmatch(path.name):
            yield _entry(volume, path, Kind.TRACKING, stage=StageName.TRAIN, key=path.name, job=job)


# --- the file system -------------------------------------------------------------------------------------------------


def _entry(volume: Volume, path: Path, kind: Kind, *, used: float = 0.0, **facts: str) -> Entry:
    size, written = _measure(path)
    return Entry(kind, volume.relative(path), max(used, written), size, **facts)  # type: ignore[arg-type]


def _measure(path: Path) -> tuple[int, float]:
    """Return the bytes on disk of what lies at `path` and below, and when some of it was last written.

    A file with several names counts at each of them with its share. What is gone meanwhile counts for nothing.
    """
    try:
        found = path.lstat()
    except FileNotFoundError:
        return 0, 0.0
    if not stat.S_ISDIR(found.st_mode):
        return found.st_blocks * 512 // max(1, found.st_nlink), found.st_mtime
    size, used = found.st_blocks * 512, found.st_mtime
    for below in _scan(path):
        more, later = _measure(below)
        size, used = size + more, max(used, later)
    return size, used


def _scan(folder: Path) -> list[Path]:
    try:
        with os.scandir(folder) as items:
            return [Path(item.path) for item in items]
    except (FileNotFoundError, NotADirectoryError):
        return []


def _is_folder(path: Path) -> bool:
    with suppress(FileNotFoundError, NotADirectoryError):
        return stat.S_ISDIR(path.lstat().st_mode)
    return False


def _folders(folder: Path) -> list[Path]:
    """Return the folders in a folder, in the order of their names; none if it, or one above it, is a link."""
    return [path for path in _below(folder) if _is_folder(path)]


def _plain(folder: Path) -> list[Path]:
    """Return the regular files in a folder."""
    found = []
    for path in _below(folder):
        with suppress(FileNotFoundError):
            if stat.S_ISREG(path.lstat().st_mode):
                found.append(path)
    return found


def _below(folder: Path) -> list[Path]:
    try:
        is_here = folder.resolve() == folder
    except RuntimeError:  # a link that leads back to itself
        is_here = False
    return sorted(_scan(folder)) if is_here and _is_folder(folder) else []


def _read(path: Path) -> Mapping[str, Any]:
    """Return the JSON object in a file; an empty one if there is none, or something else.

    Raises:
        OSError: nobody knows, because it cannot be looked at.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        if error.errno not in {errno.ENOENT, errno.ENOTDIR, errno.ELOOP}:
            raise
        return {}
    with os.fdopen(handle, "rb") as file:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            return {}
        try:
            return _mapping(json.loads(file.read(_MOST_BYTES)))
        except (ValueError, RecursionError):
            return {}


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}
