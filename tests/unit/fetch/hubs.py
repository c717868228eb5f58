"""Units of `fetch` whose source is a hub, and servers that play the hubs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from support.builders import stage_config
from support.file_server import FileServer, Repository
from support.hub_server import Elsewhere, HubServer
from support.model_scope_server import ModelScopeServer
from tunesmith_stages.contract import Failure, Report, StageConfig, StageName, StageResult
from tunesmith_stages.fetch import hub, transfer
from tunesmith_stages.fetch.stage import fetch, resolved
from tunesmith_stages.program import carry_out
from tunesmith_stages.volume import Volume

Server = Callable[..., HubServer | ModelScopeServer]
SERVERS: Mapping[str, Server] = {"huggingFace": HubServer, "modelScope": ModelScopeServer}
ENDPOINTS = {"huggingFace": "HF_ENDPOINT", "modelScope": "MODELSCOPE_ENDPOINT"}
TOKENS = {"huggingFace": "HF_TOKEN", "modelScope": "MODELSCOPE_API_TOKEN"}


def play(monkeypatch: pytest.MonkeyPatch, form: str, server: FileServer, home: Path) -> None:
    """Let the hub's client ask this server, with no token and without long waits."""
    monkeypatch.setenv(ENDPOINTS[form], server.url)
    monkeypatch.setenv("MODELSCOPE_HOME", str(home / "modelscope"))
    monkeypatch.setenv("HF_HOME", str(home / "huggingface"))
    for variable in TOKENS.values():
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(hub, "WAITS", (0.0, 0.0, 0.0))
    monkeypatch.setattr(transfer, "STALL_SECONDS", 0.3)


@contextmanager
def storage() -> Iterator[Elsewhere]:
    """Run another host to which a hub redirects."""
    elsewhere = Elsewhere()
    with elsewhere.running():
        yield elsewhere


def asking(
    root: Path,
    form: str,
    kind: str = "models",
    *,
    attempt: str = "1",
    runtime: Mapping[str, Any] | None = None,
    **more: Any,
) -> StageConfig:
    """Return the stage.json of a unit whose source is the repository ``o/n`` of a hub."""
    name = more.pop("datasetInfo", None)
    source = {form: {"repo": "o/n", "revision": "main", **more}} | ({"datasetInfo": name} if name else {})
    params = {"kind": kind, "source": source, "refresh": ""}
    told = {"resolve": True, **(runtime or {})}
    return stage_config(root, StageName.FETCH, params=params, unit="base", attempt=attempt, runtime=told)


def run(config: StageConfig) -> Report:
    """Carry the stage out."""
    return carry_out(config, fetch, resolve=resolved)


def failure(config: StageConfig) -> Failure:
    """Return why the stage fails."""
    found = run(config).failure
    assert found is not None
    return found


def result(config: StageConfig) -> StageResult:
    """Return the result of a stage that succeeds."""
    report = run(config)
    assert report.failure is None, report.failure
    volume = Volume(Path(config.volume))
    found = volume.result(StageName.FETCH, resolved(volume, config.units[0], config.runtime).key)
    assert found is not None
    return found


def stored(config: StageConfig) -> dict[str, bytes]:
    """Return what a stage that succeeds brings into the store, by path."""
    made = result(config)
    folder = Path(config.volume) / made.path
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def repositories(files: Mapping[str, bytes | str], kind: str = "models", **more: Any) -> dict[str, Repository]:
    """Return the repository ``o/n`` of a hub."""
    return {f"{kind}/o/n": Repository.of(files, **more)}
