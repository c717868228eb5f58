"""The contract between whoever plans a fine-tuning job and the programs that carry it out.

Both sides import this module, and :mod:`.reasons`, which says what failures mean; both need only the standard library.
It holds

- the names of the stages and their recipe numbers,
- the content key: what identifies a piece of work across jobs, machines and restarts,
- ``stage.json`` (:class:`StageConfig`), the whole input of a stage program,
- ``result.json`` (:class:`StageResult`), written last, which makes a piece of work count as done,
- the report (:class:`Report`), the few bytes by which a program tells an edge that cannot read the volume,
- ``failure.json`` (:class:`Failure`) and the exit codes, which say why it is not.

A stage program runs as ``python -m tunesmith_stages.<stage> --config stage.json`` and makes one or more *units*: the
pieces of work with a content key of their own. `fetch` has a unit per source, `quantize` one per quantization type,
every other stage has exactly one.
"""

from __future__ import annotations

import base64
import dataclasses
import enum
import hashlib
import json
import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tunesmith_stages.reasons import recognised
from tunesmith_stages.reasons.classes import FAILURE_CLASSES
from tunesmith_stages.reasons.exit_codes import ExitCode
from tunesmith_stages.reasons.row import Reason, Where

__all__ = [
    "ALL_LINEAR",
    "CONTRACT_VERSION",
    "FAILURE_CLASSES",
    "KEY_DIGITS",
    "MAX_NUMBERS",
    "MAX_REPORT_BYTES",
    "RECIPES",
    "UNITS_PER_PROGRAM",
    "ExitCode",
    "Failure",
    "FileEntry",
    "Input",
    "LaterUnit",
    "Report",
    "StageConfig",
    "StageName",
    "StageResult",
    "UnitConfig",
    "UnitReport",
    "canonical_json",
    "content_key",
    "digest_of",
    "manifest_digest",
]

CONTRACT_VERSION = 1

ALL_LINEAR = "AllLinear"
"""In a list of target modules: every linear module but the output layer; of a mixture of experts neither the experts
nor what chooses among them."""


class StageName(enum.StrEnum):
    """The stages, in the order in which they run."""

    FETCH = "fetch"
    PREPARE = "prepare"
    REHEARSE = "rehearse"
    TRAIN = "train"
    CONVERT = "convert"
    QUANTIZE = "quantize"
    REGISTER = "register"


RECIPES: Mapping[StageName, int] = {
    StageName.FETCH: 1,
    StageName.PREPARE: 2,
    StageName.REHEARSE: 1,
    StageName.TRAIN: 1,
    StageName.CONVERT: 1,
    StageName.QUANTIZE: 1,
    StageName.REGISTER: 1,
}
"""The recipe number of each stage. Raise it by hand, and only when the stage's outputs change for the same inputs."""


# --- content keys ----------------------------------------------------------------------------------------------------


def canonical_json(value: object) -> bytes:
    """Return the one JSON text of `value`: sorted keys, no blanks, UTF-8.

    Raises:
        TypeError: `value` holds a float, whose text could differ between programs (decimals travel as strings),
            or something that JSON has no form for.
    """
    _refuse_floats(value)
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


_PLAIN = (str, bytes, int)
"""Nearly everything that is keyed; asked for first, because asking for a Mapping takes several times as long."""


def _refuse_floats(value: object) -> None:
    if isinstance(value, _PLAIN):
        return
    if isinstance(value, float):
        raise TypeError(f"a keyed value must not be a float, got {value!r}; write decimals as strings")
    if isinstance(value, Mapping):
        for item in value.values():
            _refuse_floats(item)
    elif isinstance(value, Sequence):
        for item in value:
            _refuse_floats(item)


def digest_of(value: object) -> str:
    """Return the sha256 of `value`'s canonical JSON, as 64 hexadecimal digits."""
    return hashlib.sha256(canonical_json(value)).hexdigest()


def content_key(
    stage: StageName, params: Mapping[str, Any], inputs: Mapping[str, Input], recipe: int | None = None
) -> str:
    """Return the content key of a unit of work: 64 hexadecimal digits. `recipe` is today's where none is given.

    It covers the stage's name and recipe number, the unit's own parameters and the digests of its inputs. Where an
    input lies, who asks for it and on which machine it is made do not enter.
    """
    return digest_of(
        {
            "stage": str(stage),
            "recipe": RECIPES[stage] if recipe is None else recipe,
            "params": params,
            "inputs": {role: item.digest for role, item in inputs.items()},
        }
    )


def _object(text: str) -> dict[str, Any]:
    """Return the JSON object that a file of the contract holds; anything else is a ValueError."""
    try:
        data = json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(data, dict):
        raise ValueError(f"it must hold a JSON object, not {text[:40]!r}")
    return data


# --- stage.json ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Input:
    """Something that an earlier stage left on the volume: where it lies and what it is."""

    path: str
    """Folder, relative to the volume's root."""
    digest: str
    """sha256 of its manifest; the only part that enters a key."""


@dataclass(frozen=True)
class UnitConfig:
    """One piece of work: what is made from what. Everything here but `name` and `key` itself enters the key."""

    name: str
    """What people call it: a source's name, a quantization type, or the stage's name."""
    key: str
    params: Mapping[str, Any] = field(default_factory=dict)
    inputs: Mapping[str, Input] = field(default_factory=dict)
    role: str = ""
    """What later stages call what is made here; enters no key."""


@dataclass(frozen=True)
class LaterUnit:
    """A piece of work that follows. Its key is known once there is an input for everything that it needs."""

    stage: StageName
    name: str
    params: Mapping[str, Any]
    needs: tuple[str, ...]
    """The roles of its inputs."""
    role: str
    """What later stages call what it makes."""


@dataclass(frozen=True)
class StageConfig:
    """The whole input of a stage program (``stage.json``)."""

    stage: StageName
    job: str
    """Name of the FineTuneJob, for people and logs."""
    volume: str
    """Absolute path of the volume's root as the stage program sees it."""
    attempt: str
    """Names this try; unique among the tries of a unit."""
    units: tuple[UnitConfig, ...]
    runtime: Mapping[str, Any] = field(default_factory=dict)
    """How, not what: processes, devices, the server's address. Enters no key."""
    later: tuple[LaterUnit, ...] = ()
    """What follows this stage, in order: a program looks up which of it is on the volume already and reports it."""
    known: Mapping[str, Input] = field(default_factory=dict)
    """By role, what stages before this one made, for `later`."""
    version: int = CONTRACT_VERSION

    def to_json(self) -> str:
        """Return the text of ``stage.json``."""
        return json.dumps(dataclasses.asdict(self), indent=2, sort_keys=True, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> StageConfig:
        """Read ``stage.json``.

        Raises:
            ValueError: it is not JSON, or of another version of the contract.
            KeyError, TypeError: a field is missing or of the wrong kind.
        """
        data = _object(text)
        if data.get("version") != CONTRACT_VERSION:
            raise ValueError(f"stage.json is of version {data.get('version')!r}; this program reads {CONTRACT_VERSION}")
        units = tuple(
            UnitConfig(
                name=unit["name"],
                key=unit["key"],
                params=unit["params"],
                inputs={role: Input(**item) for role, item in unit["inputs"].items()},
                role=unit["role"],
            )
            for unit in data["units"]
        )
        later = (
            LaterUnit(StageName(unit["stage"]), unit["name"], unit["params"], tuple(unit["needs"]), unit["role"])
            for unit in data["later"]
        )
        return cls(
            stage=StageName(data["stage"]),
            job=data["job"],
            volume=data["volume"],
            attempt=data["attempt"],
            units=units,
            runtime=data["runtime"],
            later=tuple(later),
            known={role: Input(**item) for role, item in data["known"].items()},
        )


# --- result.json -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FileEntry:
    """One file of a manifest."""

    path: str
    """Relative to the folder that the manifest describes, with forward slashes."""
    size: int
    """Bytes."""
    sha256: str


def manifest_digest(files: Sequence[FileEntry]) -> str:
    """Return the digest of a folder's content: the sha256 over its files' paths, sizes and hashes."""
    return digest_of([dataclasses.asdict(entry) for entry in sorted(files, key=lambda entry: entry.path)])


@dataclass(frozen=True)
class StageResult:
    """What a unit of work came to (``result.json``). It exists only when everything else of the unit does."""

    stage: StageName
    unit: str
    key: str
    recipe: int
    digest: str
    """Digest of what was made; what later stages put into their keys."""
    path: str
    """Folder with what was made, relative to the volume's root."""
    files: tuple[FileEntry, ...]
    """Every file under `path`."""
    outputs: Mapping[str, Any] = field(default_factory=dict)
    """What later stages and people want to know without opening the files."""
    numbers: Mapping[str, float] = field(default_factory=dict)
    """Figures for people: counts, losses, seconds. At most 20."""
    tools: Mapping[str, str] = field(default_factory=dict)
    """Name and version of every tool that had a hand in it."""
    started: str = ""
    """RFC 3339, UTC."""
    finished: str = ""
    """RFC 3339, UTC."""
    version: int = CONTRACT_VERSION

    @property
    def bytes(self) -> int:
        """Size of what was made."""
        return sum(entry.size for entry in self.files)

    def as_input(self) -> Input:
        """Return what a later stage needs to use this result."""
        return Input(path=self.path, digest=self.digest)

    def to_json(self) -> str:
        """Return the text of ``result.json``."""
        return json.dumps(dataclasses.asdict(self), indent=2, sort_keys=True, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> StageResult:
        """Read ``result.json``; errors as :meth:`StageConfig.from_json`."""
        data = _object(text)
        if data.get("version") != CONTRACT_VERSION:
            raise ValueError(f"result.json is of version {data.get('version')!r}; expected {CONTRACT_VERSION}")
        data["stage"] = StageName(data["stage"])
        data["files"] = tuple(FileEntry(**entry) for entry in data["files"])
        return cls(**data)


# --- the report ------------------------------------------------------------------------------------------------------

MAX_REPORT_BYTES = 4096
"""Kubernetes keeps so much of a container's termination message
(https://kubernetes.io/docs/tasks/debug/debug-application/determine-reason-pod-failure/)."""

UNITS_PER_PROGRAM = 16
"""At most so many units are given to one program by an edge that reads reports."""

KEY_DIGITS = 16
"""So many digits of a key stand in a report."""

MAX_NUMBERS = 20
_NUMBER_NAME = re.compile("[A-Za-z0-9_]{1,24}")
_MAX_REASON = 40
_MAX_MESSAGE = 1800
_MAX_HINT = 600
_LARGEST = 1e300  # more than anything that is counted; neither infinity nor NaN is less
_EXACT = 1 << 53  # a float is exact up to here
_HEXADECIMAL = re.compile("[0-9a-f]*")
_RECORD = struct.Struct(">32sQ?")  # digest, bytes, cached; the version of a source may follow
_VERSION_BYTES = 32


@dataclass(frozen=True)
class UnitReport:
    """That a unit of work is on the volume."""

    key: str
    """The first :data:`KEY_DIGITS` digits of its key: of the key in stage.json, for `fetch` as well."""
    digest: str
    """sha256 of what was made, in hexadecimal digits."""
    bytes: int
    cached: bool = False
    """It was there before the program began."""
    version: str = ""
    """`fetch` only: the version of the source that was found (64 hexadecimal digits)."""

    def packed(self) -> str:
        """Return it as one short text: the digits of the key, a colon, all else in base 64.

        Raises:
            ValueError: the key, the digest or the version has another number of digits, or the size is out of range.
        """
        for digits, allowed in ((self.key, {KEY_DIGITS}), (self.digest, {64}), (self.version, {0, 64})):
            if len(digits) not in allowed or not _HEXADECIMAL.fullmatch(digits):
                raise ValueError(f"{digits!r} must be {max(allowed)} hexadecimal digits")
        if not 0 <= self.bytes < 1 << 64:
            raise ValueError(f"a size must be from 0 to 2^64 - 1 bytes, not {self.bytes}")
        record = _RECORD.pack(bytes.fromhex(self.digest), self.bytes, self.cached) + bytes.fromhex(self.version)
        return f"{self.key}:{base64.urlsafe_b64encode(record).rstrip(b'=').decode()}"

    @classmethod
    def unpacked(cls, text: str) -> UnitReport:
        """Return what :meth:`packed` made a text of.

        Raises:
            ValueError: it made no such text.
        """
        key, _, coded = text.partition(":")
        record = base64.b64decode(coded + "=" * (-len(coded) % 4), altchars=b"-_", validate=True)
        if len(record) not in {_RECORD.size, _RECORD.size + _VERSION_BYTES}:
            raise ValueError(f"{text[:40]!r} is no report of a unit")
        digest, size, cached = _RECORD.unpack_from(record)
        return cls(key, digest.hex(), size, cached, record[_RECORD.size :].hex())


@dataclass(frozen=True)
class Report:
    """What a program tells at its end: what there is now, figures, and why it failed if it did.

    It travels as the termination message of a container, so it never exceeds :data:`MAX_REPORT_BYTES`: there are at
    most :data:`UNITS_PER_PROGRAM` units of its own and as many later ones, figures are written with six digits, and a
    failure's sentences are cut (they are whole in ``failure.json`` and in the log). No unit is ever cut.
    """

    units: tuple[UnitReport, ...] = ()
    numbers: Mapping[str, float] = field(default_factory=dict)
    """The stage's figures: the first 20 that are finite and have a name of at most 24 letters and digits."""
    failure: Failure | None = None

    def to_json(self) -> str:
        """Return the text of the report, compact: ``v`` version, ``u`` units, ``n`` numbers, ``f`` failure.

        Raises:
            ValueError: it has more units than a report holds, or one that cannot be packed.
        """
        versions = sum(unit.version != "" for unit in self.units)
        if len(self.units) > 2 * UNITS_PER_PROGRAM or versions > UNITS_PER_PROGRAM:
            raise ValueError(f"a report holds {UNITS_PER_PROGRAM} units and as many later ones, not {len(self.units)}")
        data: dict[str, Any] = {
            "v": CONTRACT_VERSION,
            "u": [unit.packed() for unit in self.units],
            "n": _short_numbers(self.numbers),
        }
        if self.failure is not None:
            data["f"] = {"c": self.failure.code, "r": _cut(self.failure.reason, _MAX_REASON), "m": "", "h": ""}
            room = MAX_REPORT_BYTES - len(_compact(data))
            data["f"]["h"] = _cut(self.failure.hint, min(_MAX_HINT, room // 3))
            data["f"]["m"] = _cut(self.failure.message, min(_MAX_MESSAGE, MAX_REPORT_BYTES - len(_compact(data))))
        return _compact(data).decode()

    @classmethod
    def from_json(cls, text: str) -> Report:
        """Read a report; errors as :meth:`StageConfig.from_json`."""
        data = _object(text)
        if data.get("v") != CONTRACT_VERSION:
            raise ValueError(f"the report is of version {data.get('v')!r}; expected {CONTRACT_VERSION}")
        return cls(
            units=tuple(UnitReport.unpacked(_text(unit)) for unit in data["u"]),
            numbers={name: _number(value) for name, value in dict(data["n"]).items()},
            failure=_failure(data["f"]) if "f" in data else None,
        )


def _compact(data: object) -> bytes:
    return json.dumps(data, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def _short_numbers(numbers: Mapping[str, float]) -> dict[str, float]:
    """Return the numbers that a report may hold: whole ones as they are, all others with six digits."""
    good = {name: value for name, value in numbers.items() if _NUMBER_NAME.fullmatch(name) and abs(value) <= _LARGEST}
    return {name: _short(good[name]) for name in list(good)[:MAX_NUMBERS]}


def _short(value: float) -> float:
    if abs(value) >= _EXACT or value != int(value):
        value = float(f"{value:.6g}")
    return int(value) if abs(value) < _EXACT and value == int(value) else value


def _cut(text: str, limit: int) -> str:
    """Return `text`, or as much of its beginning as takes at most `limit` bytes between the quotes of a JSON text."""
    text = text.encode("utf-8", "replace").decode()  # half of a surrogate pair has no form in UTF-8
    if len(_compact(text)) - 2 <= limit:
        return text
    size, kept = len("…".encode()), 0
    for character in text:
        size += len(_compact(character)) - 2
        if size > limit:
            break
        kept += 1
    return text[:kept] + "…" if kept else ""


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"it must be a text, not {value!r}")
    return value


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= _LARGEST:
        raise ValueError(f"it must be a finite number, not {value!r}")
    return value


def _failure(data: Mapping[str, Any]) -> Failure:
    code = ExitCode(data["c"])
    if code is ExitCode.OK:
        raise ValueError("a failure must not have the exit code of success")
    return Failure(code, _text(data["r"]), _text(data["m"]), _text(data["h"]))


# --- failures --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Failure:
    """Why a stage ended without a result (``failure.json``)."""

    code: ExitCode
    reason: str
    """One CamelCase word."""
    message: str
    """What happened, and where: file, row, field."""
    hint: str
    """What to do next."""

    def to_json(self) -> str:
        """Return the text of ``failure.json``."""
        return json.dumps(dataclasses.asdict(self), indent=2, sort_keys=True, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Failure:
        """Read ``failure.json``; errors as :meth:`StageConfig.from_json`."""
        data = _object(text)
        return cls(ExitCode(data["code"]), data["reason"], data["message"], data["hint"])

    @classmethod
    def of(cls, row: Reason, message: str = "", code: ExitCode | None = None) -> Failure:
        """Return the failure that a row of the table of reasons stands for, with a `message` of its own."""
        return cls(code or row.code, row.name, message or row.means, row.hint)

    @classmethod
    def from_exit_code(cls, code: int) -> Failure:
        """Return what is known of a program that left nothing but its exit code; more than 128: ended by a signal."""
        row = recognised(Where.EXIT_CODE, str(code))
        if row is None or row.name == "InternalError":
            return cls.of(FAILURE_CLASSES[ExitCode.INTERNAL], f"The program ended with exit code {code}.")
        return cls.of(row)
