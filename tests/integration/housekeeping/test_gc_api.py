"""`tunesmith gc` and a real API server: it asks for the FineTuneJobs, and removes nothing if it cannot."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.cluster import ApiServer, api_server
from support.installed import until
from support.made_volume import aged, applied, carried_out_on, observed
from tunesmith.api.crd import custom_resource_definition
from tunesmith.api.finetunejob import FineTuneJob
from tunesmith_stages.contract import ExitCode, StageName
from tunesmith_stages.volume import Volume

TEAM = "team-a"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    """Yield an API server that serves FineTuneJobs."""
    with api_server(tmp_path_factory.mktemp("gc") / "server") as running:
        running.kubectl("apply", "--server-side", "--filename=-", objects=custom_resource_definition())
        running.kubectl("create", "namespace", TEAM)
        until(lambda: running.serves("finetunejobs"), 60, lambda: "finetunejobs are not served")
        yield running


def gc(server: ApiServer, volume: Volume, *arguments: str, namespace: str = TEAM) -> subprocess.CompletedProcess[str]:
    """Run the command with the administrator's kubeconfig."""
    environ = {**os.environ, "KUBECONFIG": str(server.kubeconfig), "COLUMNS": "160"}
    command = [sys.executable, "-m", "tunesmith", "gc", f"--volume={volume.root}", f"--namespace={namespace}"]
    return subprocess.run([*command, *arguments], check=False, capture_output=True, text=True, timeout=300, env=environ)


def put(server: ApiServer, volume: Volume, name: str, *, generation: int = 1) -> None:
    """Create a FineTuneJob, carry it out, and give it the status of a job that ended well."""
    item = applied({"spec.ollama.model": f"{name}:v1"}, name=name)
    bare = {**item, "metadata": {"name": name, "namespace": TEAM}}
    server.kubectl("create", "--filename=-", objects=bare)
    carried_out_on(volume, FineTuneJob.model_validate({**bare, "metadata": {"name": name}}))
    now: dict[str, Any] = {"lastTransitionTime": "2026-11-22T10:00:00Z", "observedGeneration": generation}
    status = observed(item, volume)["status"]
    status["conditions"] = [{**one, **now} for one in status["conditions"]]
    patch = json.dumps({"status": {**status, "observedGeneration": generation}})
    server.kubectl(
        "patch", "finetunejob", name, "--namespace", TEAM, "--subresource=status", "--type=merge", f"--patch={patch}"
    )


def test_a_life(server: ApiServer, tmp_path: Path) -> None:
    """What a FineTuneJob needs stays while it is there, and goes when it is deleted; what another one shares stays."""
    volume = Volume(tmp_path)
    put(server, volume, "keeps")
    put(server, volume, "goes")
    aged(volume)
    done = gc(server, volume, "--delete", "--json")
    assert done.returncode == 0, done.stderr
    assert [one["kind"] for one in json.loads(done.stdout)["things"] if one["removed"]] == ["intermediate"]
    assert json.loads(gc(server, volume, "--delete", "--json").stdout)["removed"] == 0

    registered = {path.name for path in volume.units(StageName.REGISTER).iterdir()}
    server.kubectl("delete", "finetunejob", "goes", "--namespace", TEAM)
    done = gc(server, volume, "--delete", "--json")
    assert sorted(one["kind"] for one in json.loads(done.stdout)["things"] if one["removed"]) == [
        *["log"] * 1,
        "result",
        "run",
    ], done.stdout
    assert len(registered - {path.name for path in volume.units(StageName.REGISTER).iterdir()}) == 1
    assert not volume.run("goes").exists()
    assert volume.run("keeps").exists()

    server.kubectl(
        "create", "--filename=-", objects={**applied(name="new"), "metadata": {"name": "new", "namespace": TEAM}}
    )
    server.kubectl("delete", "finetunejob", "keeps", "--namespace", TEAM)
    done = gc(server, volume, "--delete")
    assert "FineTuneJob new has not been looked at yet" in done.stdout
    assert list(volume.units(StageName.TRAIN).iterdir())
    server.kubectl("delete", "finetunejob", "new", "--namespace", TEAM)


def test_a_wrong_namespace(server: ApiServer, tmp_path: Path) -> None:
    """A namespace without any FineTuneJob may be a typing error: nothing is removed."""
    volume = Volume(tmp_path)
    carried_out_on(volume, FineTuneJob.model_validate({**applied(), "metadata": {"name": "support-bot"}}))
    aged(volume)
    before = sorted(volume.root.rglob("*"))
    done = gc(server, volume, "--delete", namespace="tema-a")
    assert done.returncode == ExitCode.BAD_CONFIG
    assert "the namespace tema-a has no FineTuneJob" in done.stderr.replace("The", "the")
    assert sorted(volume.root.rglob("*")) == before
