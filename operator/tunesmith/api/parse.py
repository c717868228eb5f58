"""Reads FineTuneJobs: strictly from the files that people write, leniently from the API server."""

from __future__ import annotations

import base64
import copy
import re
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from tunesmith.api.finetunejob import FineTuneJob
from tunesmith.api.problems import InvalidFileError, Path, Problem, dotted, problems_in
from tunesmith.api.yaml_file import MAX_BYTES, read_yaml

_HALF_CHARACTER = re.compile("[\ud800-\udfff]")

__all__ = ["MAX_BYTES", "InvalidJobError", "Problem", "parse_job", "parse_job_file", "parse_object"]


class InvalidJobError(InvalidFileError):
    """A file or object that is no valid FineTuneJob."""


def parse_job(text: str) -> FineTuneJob:
    """Return the one FineTuneJob that a YAML text holds; a field that is not known is an error.

    Raises:
        InvalidJobError: it holds none, several, or one with problems.
    """
    return parse_job_file(text)[0]


def parse_job_file(text: str) -> tuple[FineTuneJob, dict[str, dict[str, bytes]]]:
    """Return the one FineTuneJob of a YAML text, and by name what the ConfigMaps in it hold under their keys.

    Raises:
        InvalidJobError: it holds no FineTuneJob, several, or one with problems.
    """
    try:
        file = read_yaml(text, "a FineTuneJob", "apiVersion, kind, metadata and spec", beside=("ConfigMap",))
    except InvalidFileError as error:
        raise InvalidJobError(error.problems) from None
    try:
        job = FineTuneJob.model_validate(file.data)
    except ValidationError as error:
        raise InvalidJobError(problems_in(error, FineTuneJob, file.lines)) from None
    return job, dict(map(_config_map, file.beside))


def _config_map(data: Any) -> tuple[str, dict[str, bytes]]:
    """Return name and contents of a ConfigMap: of its texts (`data`) and of its bytes in base 64 (`binaryData`).

    Raises:
        InvalidJobError: it holds something else there, which the API server would not take either.
    """
    meta = data.get("metadata")
    name = str(meta.get("name", "")) if isinstance(meta, dict) else ""
    contents: dict[str, bytes] = {}
    for part, read in (("data", _text), ("binaryData", _bytes)):
        items = data.get(part)
        for key, text in items.items() if isinstance(items, dict) else ():
            try:
                if key in contents:
                    raise ValueError("must not be in `data` as well")
                contents[key] = read(text)
            except ValueError as error:
                raise InvalidJobError([Problem(str(error), f"{part}.{key} of the ConfigMap {name}")]) from None
    return name, contents


def _text(value: object) -> bytes:
    if not isinstance(value, str) or (not value.isascii() and _HALF_CHARACTER.search(value)):
        raise ValueError("must be a text: put it in quotes")
    return value.encode()


def _bytes(value: object) -> bytes:
    try:
        if isinstance(value, str):
            return base64.b64decode(re.sub(r"[\r\n]", "", value), validate=True)
    except ValueError:
        pass
    raise ValueError("must be bytes in base 64")


def parse_object(data: Mapping[str, Any]) -> tuple[FineTuneJob, list[str]]:
    """Return the FineTuneJob that the API server gave, and the paths of its fields that are not known here.

    The CRD may be newer than the operator. A field that only the CRD knows is left out: the job runs as if it was not
    there, and the operator says so. The status is not looked at.

    Raises:
        InvalidJobError: it is invalid in another way, which the CRD's schema and rules could not tell.
    """
    known = {name: value for name, value in data.items() if name != "status"}
    try:
        return FineTuneJob.model_validate(known), []
    except ValidationError as error:
        unknown = [detail["loc"] for detail in error.errors() if detail["type"] == "extra_forbidden"]
    known = copy.deepcopy(known)
    for path in unknown:
        _remove(known, path)
    try:
        return FineTuneJob.model_validate(known), [dotted(path) for path in unknown]
    except ValidationError as error:
        raise InvalidJobError(problems_in(error, FineTuneJob, {})) from None


def _remove(data: Any, path: Path) -> None:
    *parents, last = path
    for part in parents:
        data = data[part]
    del data[last]
