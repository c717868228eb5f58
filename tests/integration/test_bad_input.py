"""What clusters see on bad days, on a real API server: hundreds at once, edits without end, objects near the limit."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from support.builders import job_data
from support.cluster import ApiServer, api_server
from support.generator import ROOT
from support.installed import until
from support.ports import free_port
from tunesmith.api import keys

# isort: split
from tied import tied  # hack/toolchain, on the path since support.cluster

SETTINGS = {
    "stageImage": "tunesmith-stages:none",
    "leaseNamespace": "default",
    "servers": [{"name": "main", "url": "http://ollama:11434"}],
}
DEFINITION = ROOT / "charts" / "tunesmith" / "files" / "tunesmith.dev_finetunejobs.yaml"
MANY = 500
LONG = 300


@dataclass
class Site:
    """An API server whose Pods never run, and our operator as a process."""

    server: ApiServer
    folder: Path

    @contextmanager
    def operator(self) -> Iterator[None]:
        """Run the operator until the block ends; if it ends by itself it is started again, as a cluster does."""
        settings = self.folder / "settings.yaml"
        settings.write_text(yaml.safe_dump(SETTINGS), encoding="utf-8")
        command = [sys.executable, "-m", "tunesmith", "operator", f"--settings={settings}", f"--port={free_port()}"]
        environ = {**os.environ, "KUBECONFIG": str(self.server.kubeconfig)}
        stop = threading.Event()
        keeper = threading.Thread(target=self._keep_running, args=(tied(command), environ, stop))
        keeper.start()
        try:
            yield
        finally:
            stop.set()
            keeper.join()

    def _keep_running(self, command: list[str], environ: dict[str, str], stop: threading.Event) -> None:
        with self.log.open("wb") as log:
            while not stop.is_set():
                process = subprocess.Popen(command, stderr=log, env=environ)
                while process.poll() is None and not stop.wait(0.1):
                    pass
                process.kill()
                process.wait()

    @property
    def log(self) -> Path:
        """What the operator has said."""
        return self.folder / "operator.log"

    def complaints(self) -> list[str]:
        """Return what it has warned of, or failed with, but for a Lease that a busy machine lets it miss."""
        lines = [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]
        loud = [line for line in lines if line["level"] not in {"debug", "info"}]
        return [line["message"] for line in loud if line["logger"] != "tunesmith.kube.lease"]

    def count(self, kind: str, namespace: str) -> int:
        """Return how many objects of a kind there are."""
        return len(self.server.kubectl("get", kind, "--namespace", namespace, "--output=name").split())

    def await_count(self, kind: str, namespace: str, count: int) -> None:
        """Wait until there are so many."""
        until(lambda: self.count(kind, namespace) == count, LONG, lambda: f"{kind}: {self.count(kind, namespace)}")

    def ready(self, namespace: str, name: str) -> str:
        """Return the reason of the condition Ready."""
        shown = self.server.get("finetunejob", name, "--namespace", namespace).get("status") or {}
        return next((str(one["reason"]) for one in shown.get("conditions") or () if one["type"] == "Ready"), "")

    def await_reason(self, namespace: str, name: str, reason: str) -> None:
        """Wait until a FineTuneJob gives that reason."""
        until(lambda: self.ready(namespace, name) == reason, LONG, lambda: self.ready(namespace, name))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("bad-input")
    with api_server(folder / "server") as running:
        running.kubectl("apply", "--server-side", f"--filename={DEFINITION}")
        until(lambda: running.serves(keys.PLURAL), 60, lambda: "the definition is not served")
        for name in ("down", "many", "edited", "ending", "large"):
            running.kubectl("create", "namespace", name)
        yield Site(running, folder)


def finetunejob(namespace: str, name: str = "bot", changes: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return a FineTuneJob with sources of its own: what several need is made for one of them only."""
    own = {"metadata.name": name, "spec.model.volume.path": f"models/{namespace}/{name}"}
    own["spec.datasets.0.volume.path"] = f"data/{namespace}/{name}.json"
    data = job_data({**own, "spec.ollama.model": f"{namespace}-{name}:v1", **(changes or {})})
    data["metadata"]["namespace"] = namespace
    return data


def test_one_that_is_created_while_the_operator_is_down(site: Site) -> None:
    """It is begun when the operator is there again; one that was deleted meanwhile is not."""
    site.server.kubectl("create", "--filename=-", objects=[finetunejob("down"), finetunejob("down", "gone")])
    site.server.kubectl("delete", "finetunejob", "gone", "--namespace=down")
    with site.operator():
        site.await_count("jobs", "down", 1)
        site.await_reason("down", "bot", "Unschedulable")
    assert site.complaints() == []


def test_five_hundred_are_deleted_at_once(site: Site) -> None:
    """Nothing is left, nobody complains, and the next one is begun as ever."""
    site.server.kubectl("create", "--filename=-", objects=[finetunejob("many", f"bot-{n}") for n in range(MANY)])
    with site.operator():
        until(lambda: site.count("jobs", "many") >= MANY // 10, LONG, lambda: "too few Jobs")
        site.server.kubectl("delete", "finetunejob", "--all", "--wait=false", "--namespace=many")
        site.await_count("finetunejobs", "many", 0)
        site.await_count("jobs", "many", 0)
        site.await_count("configmaps", "many", 1)  # kube-root-ca.crt
        site.server.kubectl("create", "--filename=-", objects=finetunejob("many", "next"))
        site.await_reason("many", "next", "Unschedulable")
    assert site.complaints() == []


def test_a_hundred_edits_in_a_minute(site: Site) -> None:
    """No Jobs pile up: when it is over, the one that is there is that of the last edit."""
    site.server.kubectl("create", "--filename=-", objects=finetunejob("edited"))
    with site.operator():
        site.await_count("jobs", "edited", 1)
        for number in range(100):
            patch = json.dumps({"spec": {"model": {"volume": {"path": f"models/{number}"}}}})
            site.server.kubectl("patch", "finetunejob", "bot", "--namespace=edited", "--type=merge", f"--patch={patch}")
            assert site.count("jobs", "edited") <= 3
        until(
            lambda: '"models/99"' in site.server.kubectl("get", "configmaps", "--namespace=edited", "--output=yaml"),
            LONG,
            lambda: site.ready("edited", "bot"),
        )
        site.await_reason("edited", "bot", "Unschedulable")
        site.await_count("jobs", "edited", 1)
        site.await_count("configmaps", "edited", 2)  # kube-root-ca.crt
    shown = site.server.get("finetunejob", "bot", "--namespace=edited")
    assert shown["status"]["observedGeneration"] == shown["metadata"]["generation"] == 101
    assert site.complaints() == []


def test_a_namespace_is_deleted_in_the_middle(site: Site) -> None:
    """It goes, and the operator neither fails nor fills its log."""
    site.server.kubectl("create", "--filename=-", objects=[finetunejob("ending", f"bot-{n}") for n in range(20)])
    with site.operator():
        until(lambda: site.count("jobs", "ending") >= 5, LONG, lambda: "too few Jobs")
        site.server.kubectl("delete", "namespace", "ending", f"--timeout={LONG}s")
    assert site.complaints() == []


def test_one_that_is_near_the_limit_of_what_a_cluster_stores(site: Site) -> None:
    """More rows than a ConfigMap holds stall it with what to do; more than etcd takes is refused by the API server."""

    def rows(size: int) -> dict[str, Any]:
        return {"spec.datasets.0": {"name": "faq", "inline": [{"instruction": "q" * size, "output": "ö"}] * 400}}

    site.server.kubectl("create", "--filename=-", objects=finetunejob("large", changes=rows(3_400)))
    with site.operator():
        site.await_reason("large", "bot", "InputTooLarge")
    assert site.count("jobs", "large") == 0
    with pytest.raises(subprocess.CalledProcessError) as refused:
        site.server.kubectl("create", "--filename=-", objects=finetunejob("large", "larger", rows(8_000)))
    assert "too large" in refused.value.stderr
    assert site.complaints() == []
