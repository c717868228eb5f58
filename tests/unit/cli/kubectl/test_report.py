"""`kubectl tunesmith report`: made by a pod beside the volume."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tunesmith.cli.kubectl import log_reader
from tunesmith.cli.kubectl.commands import _save
from tunesmith.cli.kubectl.errors import SaidError
from tunesmith.cli.kubectl.report import read_report
from unit.cli.kubectl.items import PLACE, container, item, ready
from unit.cli.kubectl.played_api import Answer, PlayedApi, serving

OVER: Mapping[str, Any] = {"phase": "Succeeded", "containerStatuses": container(terminated={"exitCode": 0})}
BROKEN: Mapping[str, Any] = {
    "phase": "Failed",
    "containerStatuses": container(terminated={"exitCode": 66, "reason": "Error"}),
}
JOB = item({**ready("Training"), **PLACE, "stages": []})


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have it look a hundred times as often."""
    monkeypatch.setattr(log_reader, "_POLL", 0.01)


def read(api: PlayedApi, *, as_text: bool = False) -> bytes:
    async def reading() -> bytes:
        async with serving(api) as cluster:
            wanted = read_report(cluster, "team-a", "support-bot", as_text=as_text, tell=lambda _: None)
            return await asyncio.wait_for(wanted, 20)

    return asyncio.run(reading())


@pytest.mark.parametrize("as_text", [False, True])
def test_pod_makes_the_report(as_text: bool) -> None:
    """The pod runs the program that makes reports, for this job and in this form, and is removed."""
    made = b"<!DOCTYPE html>\n" + b"<p>row</p>\n" * 1000
    api = PlayedApi(JOB, reader=(OVER, Answer(made)))
    assert read(api, as_text=as_text) == made
    (pod,) = api.created
    (program,) = pod["spec"]["containers"]
    assert program["command"] == ["python", "-m", "tunesmith_stages.report"]
    assert program["args"] == ["--volume", "/volume", "--job", "support-bot", *(["--text"] if as_text else [])]
    assert all(mount.get("readOnly") for mount in program["volumeMounts"] if mount["mountPath"] == "/volume")
    assert not api.pods


def test_volume_without_the_job() -> None:
    """What the program says of a job that it does not find is said to whoever asked."""
    said = b"JobNotFound: nothing of a job 'support-bot' is on the volume\nSee the status.\n"
    with pytest.raises(SaidError) as error:
        read(PlayedApi(JOB, reader=(BROKEN, Answer(said))))
    assert error.value.what == "JobNotFound: nothing of a job 'support-bot' is on the volume"
    assert error.value.hint == "See the status."


def test_page_is_saved(tmp_path: Path) -> None:
    """The page is where it is wanted; a place that cannot be written is named."""
    _save(tmp_path / "page.html", b"<p>")
    assert (tmp_path / "page.html").read_bytes() == b"<p>"
    with pytest.raises(SaidError, match="No such file or directory"):
        _save(tmp_path / "none" / "page.html", b"<p>")
