"""Datasets that come with Tunesmith, or with the job: built in, as a ConfigMap, or inline."""

from __future__ import annotations

import hashlib
from pathlib import Path

from tunesmith_stages.contract import ExitCode
from tunesmith_stages.fetch.asked import Asked
from tunesmith_stages.fetch.data_files import ALLOWED, DESCRIPTIONS, may_hold_rows
from tunesmith_stages.fetch.storing import BUILTIN, store_copies
from tunesmith_stages.program import Made, StageError, Work

_BUILTIN_NAMES = {"SelfCognition": "self_cognition"}


def no_version(_asked: Asked) -> str:
    """Return the version of what stands in the key itself: none."""
    return ""


def bring_builtin(work: Work) -> Made:
    """Copy a dataset that comes with Tunesmith into the store."""
    source = work.params["source"]
    name = _BUILTIN_NAMES[source["builtin"]]
    files = [BUILTIN / f"{name}.{code}.jsonl" for code in source["languages"]]
    return store_copies(work, {path.name: path for path in files}, {})


def bring_inline(work: Work) -> Made:
    """Write the rows that the job itself holds into the store, as ``inline.jsonl``."""
    return store_copies(work, {}, {}, {"inline.jsonl": work.params["source"]["inline"].encode()})


def version_of_config_map(asked: Asked) -> str:
    """Return the digest of a ConfigMap's content; empty if it is not there, which `fetch` complains of."""
    try:
        return hashlib.sha256(Path(asked.runtime["configMaps"][asked.unit.name]).read_bytes()).hexdigest()
    except (KeyError, OSError):
        return ""


def bring_config_map(work: Work) -> Made:
    """Write what a ConfigMap's key holds into the store, as a file of that name.

    Raises:
        StageError: it is not there, or its key does not end as a file with rows does.
    """
    source = work.params["source"]["configMap"]
    name, key = source["name"], source["key"]
    if not may_hold_rows(key) or Path(key).name != key:
        raise StageError(
            ExitCode.BAD_CONFIG,
            f"the key {key!r} of the ConfigMap {name!r} (`{work.unit.name}`) must be a name that ends in {ALLOWED}, "
            f"and not one of {', '.join(DESCRIPTIONS)}",
            reason="UnknownFileType",
            hint="Name the key as a file of its format would be called.",
        )
    try:
        content = Path(work.runtime["configMaps"][work.unit.name]).read_bytes()
    except (KeyError, FileNotFoundError) as error:
        raise StageError(
            ExitCode.MISSING_INPUT,
            f"the ConfigMap {name!r} with the key {key!r} (`{work.unit.name}`) is not there",
            reason="ConfigMapNotFound",
            hint="On a cluster make it in the job's namespace; for `tunesmith run` put it into the job's file, as a "
            "further YAML document.",
        ) from error
    return store_copies(work, {}, {}, {key: content})
