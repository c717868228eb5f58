"""Tunesmith's operator with FineTuneJobs, and the floor: plain Jobs of the same shape, which no operator makes.

The operator is started as its container starts it, with the settings of the chart but for servers and names. It holds
its Lease.
"""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import yaml
from benchmarks.operators.system import JOBS, NAMESPACE, Object, Processes, System
from daemons import Daemon, Daemons

from support.cluster import ApiServer
from support.ports import free_port
from tunesmith.api import keys
from tunesmith.api.finetunejob import FineTuneJob
from tunesmith.api.settings import Settings
from tunesmith.core.decide import Subject, World, decide

_COLLECTION = f"/apis/{keys.GROUP}/{keys.VERSION}/namespaces/{NAMESPACE}/{keys.PLURAL}"
_SETTINGS = {
    "stageImage": "tunesmith-stages:bench",
    "leaseNamespace": NAMESPACE,
    "servers": [{"name": "main", "url": "http://ollama:11434"}],
}
_READY_SECONDS = 60


def _finetunejob(name: str) -> Object:
    """Return a small FineTuneJob with sources of its own: what several need is made for one of them only."""
    return {
        "apiVersion": f"{keys.GROUP}/{keys.VERSION}",
        "kind": keys.KIND,
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {
            "model": {"volume": {"path": f"models/{name}"}},
            "datasets": [{"name": "faq", "volume": {"path": f"data/{name}.json"}}],
            "training": {"gpusPerNode": 0},
            "ollama": {"model": f"{name}:v1"},
        },
    }


def _plain_job(name: str) -> Object:
    """Return the Job that the operator would create first for such a FineTuneJob, without its owner."""
    job = FineTuneJob.model_validate(_finetunejob(name))
    subject = Subject(job=job, uid=f"uid-of-{name}", namespace=NAMESPACE, generation=1, status={})
    made = decide(subject, World(), Settings.model_validate(_SETTINGS), datetime.now(UTC)).create[-1]
    meta = {part: value for part, value in made["metadata"].items() if part != "ownerReferences"}
    return {**made, "metadata": {**meta, "name": name}}


def _tells(finetunejob: Object) -> bool:
    conditions = finetunejob["status"].get("conditions", [])
    return any(one["type"] == "Ready" and one["reason"] == "Fetching" for one in conditions)


def _install(server: ApiServer, folder: Path) -> Processes:
    _give_claim(server)
    crd = subprocess.run([sys.executable, "-m", "tunesmith", "crd"], check=True, capture_output=True, text=True).stdout
    server.kubectl("apply", "--filename=-", objects=yaml.safe_load(crd))
    server.daemons.wait_for("CRD", "kube-apiserver", _READY_SECONDS, lambda: server.serves(keys.PLURAL))
    settings = folder / "settings.yaml"
    settings.write_text(yaml.safe_dump(_SETTINGS), encoding="utf-8")
    command = (sys.executable, "-m", "tunesmith", "operator", f"--settings={settings}", f"--port={free_port()}")
    processes = Processes(
        Daemons(server.daemons.logs), [Daemon("tunesmith", ("env", f"KUBECONFIG={server.kubeconfig}", *command))]
    )
    processes.start(processes.shipped)
    return processes


def _give_claim(server: ApiServer) -> None:
    """Create a volume and the claim that the operator's Pods mount."""
    common = {"accessModes": ["ReadWriteMany"], "storageClassName": ""}
    size = {"storage": "1Ti"}
    volume = {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": NAMESPACE},
        "spec": {**common, "capacity": size, "hostPath": {"path": "/nowhere"}},
    }
    claim = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "tunesmith", "namespace": NAMESPACE},
        "spec": {**common, "volumeName": NAMESPACE, "resources": {"requests": size}},
    }
    server.kubectl("apply", "--filename=-", objects=[volume, claim])
    where = f"--namespace={NAMESPACE}", "pvc/tunesmith"
    server.kubectl("wait", "--for=jsonpath={.status.phase}=Bound", f"--timeout={_READY_SECONDS}s", *where)


def _give_claim_only(server: ApiServer, _folder: Path) -> Processes:
    _give_claim(server)
    return Processes(Daemons(server.daemons.logs), [])


FLOOR = System("plain Jobs", JOBS, keys.JOB_LABEL, _plain_job, lambda _: True, _give_claim_only)
TUNESMITH = System("Tunesmith", _COLLECTION, keys.JOB_LABEL, _finetunejob, _tells, _install)
