"""What an earlier version has stored: today's definition serves it, and today's operator goes on from it.

``stored/`` holds the definition as it was before training had its knobs, and FineTuneJobs with what the operator of
that time wrote into their statuses: one that has ended well, one that failed, one that is suspended, one that trains,
and one with every field that there was.
"""

from __future__ import annotations

import copy
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from support.cluster import ApiServer, api_server
from support.ports import free_port
from tunesmith.api.crd import custom_resource_definition
from tunesmith_stages.contract import KEY_DIGITS, Report, UnitReport

STORED = Path(__file__).parent / "stored"
JOBS: list[dict[str, Any]] = json.loads((STORED / "objects.json").read_text(encoding="utf-8"))["finetunejobs"]
CHILDREN: list[dict[str, Any]] = json.loads((STORED / "objects.json").read_text(encoding="utf-8"))["children"]
NAMES = [job["metadata"]["name"] for job in JOBS]
SETTINGS = {"stageImage": "registry.example/tunesmith-stages:2", "servers": [{"name": "main", "url": "http://ollama"}]}
_PATIENCE = 120.0


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    """Yield an API server with what the earlier version has stored, and with today's definition."""
    with api_server(tmp_path_factory.mktemp("server") / "cluster") as made:
        define(made, yaml.safe_load((STORED / "definition.yaml").read_text(encoding="utf-8")))
        until(lambda: made.serves("finetunejobs"), "the earlier definition is not served")
        for job in JOBS:
            store(made, job)
        uid = made.get("finetunejob", "running")["metadata"]["uid"]
        for child in CHILDREN:
            made.kubectl("create", "--filename=-", objects=owned(child, uid))
        run(made, CHILDREN[-1])
        define(made, custom_resource_definition())
        until(lambda: knows_today(made), "today's definition is not served")
        yield made


def define(server: ApiServer, definition: dict[str, Any]) -> None:
    server.kubectl("apply", "--server-side", "--filename=-", objects=definition)


def store(server: ApiServer, job: dict[str, Any]) -> None:
    """Store a FineTuneJob, and what the operator knew of it."""
    server.kubectl("create", "--validate=strict", "--filename=-", objects=job)
    if "status" in job:
        patch = json.dumps({"status": job["status"]})
        name = job["metadata"]["name"]
        server.kubectl("patch", "finetunejob", name, "--subresource=status", "--type=merge", f"--patch={patch}")


def owned(child: dict[str, Any], uid: str) -> dict[str, Any]:
    """Return a child that belongs to the job `running` with this uid."""
    made = copy.deepcopy(child)
    owner = {"apiVersion": JOBS[0]["apiVersion"], "kind": JOBS[0]["kind"], "name": "running", "uid": uid}
    made["metadata"]["ownerReferences"] = [{**owner, "controller": True, "blockOwnerDeletion": True}]
    made["metadata"]["labels"]["tunesmith.dev/job-uid"] = uid
    return made


def knows_today(server: ApiServer) -> bool:
    """Tell whether a field is served that the earlier definition did not have."""
    told = server.kubectl("explain", "finetunejobs.spec.training", "--recursive")
    return "earlyStopping" in told


def until(look: Callable[[], Any], trouble: str) -> Any:
    deadline = time.monotonic() + _PATIENCE
    while not (found := look()):
        assert time.monotonic() < deadline, trouble
        time.sleep(0.1)
    return found


@pytest.mark.parametrize("name", NAMES)
def test_served_and_valid(server: ApiServer, name: str) -> None:
    """What was stored comes back with nothing lost, and can be written as it is, spec and status."""
    stored = next(job for job in JOBS if job["metadata"]["name"] == name)
    served = server.get("finetunejob", name)
    assert lacks(stored["spec"], served["spec"]) == []
    assert lacks(stored.get("status", {}), served["status"]) == []
    for part in ([], ["--subresource=status"]):
        server.kubectl("replace", "--dry-run=server", "--validate=strict", "--filename=-", *part, objects=served)


def lacks(wanted: Any, found: Any, path: str = "") -> list[str]:
    """Return where `found` has something else than `wanted`; what it has besides does not matter."""
    if isinstance(wanted, dict) and isinstance(found, dict):
        return [place for key, value in wanted.items() for place in lacks(value, found.get(key), f"{path}.{key}")]
    if isinstance(wanted, list) and isinstance(found, list) and len(wanted) == len(found):
        pairs = enumerate(zip(wanted, found, strict=True))
        return [place for number, (one, other) in pairs for place in lacks(one, other, f"{path}[{number}]")]
    return [] if wanted == found else [path]


def test_the_operator_goes_on_from_it(server: ApiServer, tmp_path: Path) -> None:
    """What ended stays as it is, nothing is trained again; the training that runs is gone on with when it ends."""
    before = {name: server.get("finetunejob", name).get("status", {}) for name in NAMES}
    (train,) = server.get("jobs")["items"]
    with operator(server, tmp_path):
        until(lambda: server.get("finetunejob", "every-field")["status"].get("conditions"), "the operator sees nothing")
        # It has been asked to stop; the other jobs were begun before it.
        assert ready(server, "every-field") == ("False", "Suspended")
        end_well(server, train)
        until(lambda: "convert" in stages(server), "what comes after the training is not begun")
        assert sorted(stages(server)) == ["convert", "train"]
        for name, reason in (("settled", "Succeeded"), ("stalled", "OutOfMemory"), ("paused", "Suspended")):
            assert ready(server, name)[1] == reason
            assert server.get("finetunejob", name)["status"]["stages"] == before[name]["stages"]
    assert train["metadata"]["uid"] in {job["metadata"]["uid"] for job in server.get("jobs")["items"]}
    trained = next(item for item in server.get("finetunejob", "running")["status"]["stages"] if item["name"] == "train")
    assert (trained["state"], trained["attempts"]) == ("Succeeded", 1)


@contextmanager
def operator(server: ApiServer, folder: Path) -> Iterator[None]:
    """Run today's operator until the block ends."""
    (folder / "settings.yaml").write_text(json.dumps(SETTINGS), encoding="utf-8")
    command = [sys.executable, "-m", "tunesmith", "operator", f"--settings={folder / 'settings.yaml'}"]
    environ = {"PATH": "/usr/bin:/bin", "HOME": str(folder), "KUBECONFIG": str(server.kubeconfig)}
    with (folder / "operator.log").open("wb") as log:
        process = subprocess.Popen([*command, f"--port={free_port()}"], stdout=log, stderr=log, env=environ)
    try:
        yield
    finally:
        process.kill()
        process.wait()


def ready(server: ApiServer, name: str) -> tuple[str, str]:
    conditions = server.get("finetunejob", name)["status"].get("conditions", ())
    return next(((item["status"], item["reason"]) for item in conditions if item["type"] == "Ready"), ("", ""))


def stages(server: ApiServer) -> list[str]:
    """Return the stages of all child Jobs."""
    return [job["metadata"]["labels"]["tunesmith.dev/stage"] for job in server.get("jobs")["items"]]


def run(server: ApiServer, job: dict[str, Any]) -> None:
    """Let a Job's pod run, as the kubelet of a node would."""
    says(server, job, "Running", {"running": {"startedAt": "2026-01-01T00:00:00Z"}})


def end_well(server: ApiServer, job: dict[str, Any]) -> None:
    """End a Job's pod as the kubelet does when the program has made what it was asked for."""
    (key,) = job["metadata"]["annotations"]["tunesmith.dev/keys"].split(",")
    report = Report(units=(UnitReport(key[:KEY_DIGITS], "ab" * 32, 1000),), numbers={"loss": 0.5})
    times = {"startedAt": "2026-01-01T00:00:00Z", "finishedAt": "2026-01-01T00:01:00Z"}
    says(server, job, "Succeeded", {"terminated": {"exitCode": 0, "message": report.to_json(), **times}})


def says(server: ApiServer, job: dict[str, Any], phase: str, state: dict[str, Any]) -> None:
    """Have the status of a Job's pod say where it stands."""
    selector = f"--selector=batch.kubernetes.io/job-name={job['metadata']['name']}"
    (pod,) = until(lambda: server.get("pods", selector)["items"], "the Job has no pod")
    container = {"name": pod["spec"]["containers"][0]["name"], "image": "", "imageID": "", "restartCount": 0}
    status = {"phase": phase, "containerStatuses": [{**container, "ready": False, "state": state}]}
    patch = json.dumps({"status": status})
    name = pod["metadata"]["name"]
    server.kubectl("patch", "pod", name, "--subresource=status", "--type=merge", f"--patch={patch}")
