"""What `register` notes on the volume before it lets models go live: by it they are known again as its own.

The note lies among the attempt's logs, as ``live.json``, so that it is there also if the attempt was killed half-way.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from tunesmith_stages import model_name
from tunesmith_stages.contract import StageName
from tunesmith_stages.volume import Volume, write_whole

_NOTE = "live.json"


def note_live(logs: Path, server: str, models: Mapping[str, str]) -> None:
    """Note what is about to go live.

    Args:
        logs: the attempt's folder of logs.
        server: what the administrator calls the server.
        models: manifest digest by name.
    """
    write_whole(logs / _NOTE, json.dumps({"server": server, "models": dict(models)}, indent=2, sort_keys=True) + "\n")


def registered(volume: Volume, key: str) -> Iterator[tuple[str, str, str]]:
    """Yield server, name in its one form (``model_name.canonical``), and digest of all that a unit has registered.

    That is what its result says, and what its attempts were about to let go live. What cannot be read says nothing.

    Raises:
        OSError: the volume cannot be looked at.
    """
    result = volume.result(StageName.REGISTER, key)
    if result is not None:
        for name, model in result.outputs["models"].items():
            yield result.unit, model_name.canonical(name), model["digest"]
    for folder in (volume.unit(StageName.REGISTER, key), *volume.attempts(StageName.REGISTER, key)):
        yield from _noted(folder / "logs" / _NOTE)


def _noted(path: Path) -> Iterator[tuple[str, str, str]]:
    try:
        note = json.loads(path.read_text(encoding="utf-8"))
        found = [(str(note["server"]), model_name.canonical(name), str(d)) for name, d in note["models"].items()]
    except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError, AttributeError):
        return
    yield from found
