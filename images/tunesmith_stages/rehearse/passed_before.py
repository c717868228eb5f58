"""What has passed before on this volume need not be checked again, as long as all is as it was.

A check that has passed leaves a small file on the volume, named after everything that it depended on: what is checked,
with which programs, in which versions. If anything of that changes, the file of that name is not there, and the check
is made again. A failure is never remembered.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tunesmith_stages
from tunesmith_stages.contract import RECIPES, StageName, digest_of
from tunesmith_stages.ollama_gate import exec_settings
from tunesmith_stages.program import Work
from tunesmith_stages.progress import now_text
from tunesmith_stages.register.reference import probes_of
from tunesmith_stages.rehearse.report import Check, Passed
from tunesmith_stages.rehearse.twin import adapted, variant
from tunesmith_stages.tools import llama_cpp
from tunesmith_stages.volume import Volume, sha256_of, write_whole

_PACKAGES = (
    "torch",
    "transformers",
    "tokenizers",
    "sentencepiece",
    "protobuf",
    "peft",
    "safetensors",
    "numpy",
    "jinja2",
)
"""What has a hand in making a model, a vocabulary and a prompt."""


def look_up(volume: Volume, facts: Mapping[str, Any]) -> Passed | None:
    """Return the checks that have passed with these facts; None if none are known to."""
    try:
        found = json.loads(volume.passed(digest_of(facts)).read_text(encoding="utf-8"))
        checks = tuple(Check(str(check["name"]), True, str(check["sentence"])) for check in found["checks"])
        return Passed(str(found["when"]), checks) if found["facts"] == facts else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def remember(work: Work, facts: Mapping[str, Any], checks: Sequence[Check]) -> None:
    """Remember that `checks` have passed with these facts."""
    content = {
        "when": now_text(),
        "job": work.config.job,
        "facts": facts,
        "checks": [{"name": check.name, "sentence": check.sentence} for check in checks],
    }
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    write_whole(work.volume.passed(digest_of(facts)), text)


# --- what a check depends on -----------------------------------------------------------------------------------------


def of_the_weights(work: Work) -> dict[str, Any]:
    """Return what the reading of every number depends on: the base's folder is named after what is in it."""
    return {"what": "weights", "recipe": RECIPES[StageName.REHEARSE], "base": work.unit.inputs["base"].digest}


def of_the_way_out(work: Work) -> dict[str, Any]:
    """Return what the twin's way as far as the quantized file depends on.

    Of the data that is the template, the tokens and the kinds of messages, by which a template goes different ways: not
    what the messages say.
    """
    prepared = work.input("prepared")
    return {
        "what": "way out",
        "programs": _programs(),
        "tools": {**_versions(), "llama.cpp": llama_cpp().version},
        "base": work.unit.inputs["base"].digest,
        "prepared": {name: sha256_of(prepared / name) for name in ("chat_template.jinja", "tokens.json")},
        "messages": _kinds_of_messages(probes_of(prepared)),
        "targetModules": sorted(adapted(work)),
        "variant": variant(work),
        "gradientCheckpointing": bool(work.runtime["estimate"]["gradientCheckpointing"]),
        "outType": work.params["outType"],
        "quantizations": list(work.params["quantizations"]),
    }


def of_a_server(work: Work, name: str, version: str, way_out: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the twin's proof on a server depends on.

    The server is asked for prompts of the data, too: what it makes of these says nothing of others.
    """
    served = ("parameters", "system", "license")
    return {
        "what": "server",
        "way out": digest_of(way_out),
        "server": name,
        "url": work.runtime["servers"][name]["url"],
        "exec": exec_settings(work.runtime, name),
        "version": version,
        "prompts": sha256_of(work.input("prepared") / "probes.json"),
        **{field: work.params[field] for field in served},
    }


@functools.cache
def _programs() -> str:
    """Return a digest of the stage programs themselves."""
    folder = Path(tunesmith_stages.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        digest.update(f"{path.relative_to(folder)} {sha256_of(path)}\n".encode())
    return digest.hexdigest()


def _versions() -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in _PACKAGES}


def _kinds_of_messages(probes: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Return each role with the fields that its messages have, each combination once."""
    kinds = {(str(message["role"]), *sorted(message)) for probe in probes for message in probe["messages"]}
    return [list(kind) for kind in sorted(kinds)]
