"""Tunesmith as an administrator installs it: the chart, its trial Ollama, and teams that use it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from support.chart import CHART, Helm
from support.cluster import NodeCluster
from support.jobs import quickstart_volume
from tunesmith.api.keys import GROUP, JOB_LABEL, PLURAL, STAGE_LABEL

RELEASE = "tunesmith-e2e"
CRD = f"{PLURAL}.{GROUP}"
SERVER_POD = "ollama-0"
EXEC_ACCOUNT = "tunesmith-exec"
HUB = "hub"
"""The Service, in the release's namespace, that jobs take for the Hugging Face Hub; a test that needs one runs it."""
USER = 65532
IMAGES = ("localhost/tunesmith-operator:dev", "localhost/tunesmith-stages:dev", "localhost/tunesmith-ollama:0.34.4")
Manifest = dict[str, Any]

_RESTRICTED = {"pod-security.kubernetes.io/enforce": "restricted"}
_SMALL = {"requests": {"cpu": "50m", "memory": "128Mi"}, "limits": {"cpu": "2", "memory": "4Gi"}}
# Two cores are for everything here, Kubernetes included: a second thread would only spin.
_ONE_THREAD = [{"name": "OMP_NUM_THREADS", "value": "1"}]


def values(teams: Sequence[str]) -> dict[str, Any]:
    """Return the chart's values for a cluster of one small node."""
    operator, stages, ollama = (image.removeprefix("localhost/").split(":") for image in IMAGES)
    return {
        "image": {
            "registry": "localhost",
            "operator": {"repository": operator[0], "tag": operator[1]},
            "stages": {"repository": stages[0], "tag": stages[1]},
        },
        "gc": {
            "volumes": [{"namespace": name} for name in teams if name == "team-gc"],
            "dryRun": False,
            "grace": "0s",
            "schedule": "0 0 29 2 *",  # it is started by hand
        },
        "network": {"huggingFaceEndpoint": f"http://{HUB}.{RELEASE}"},
        "podDefaults": {
            "default": {"resources": _SMALL, "env": _ONE_THREAD},
            "train": {"resources": _SMALL, "sharedMemory": "256Mi"},
        },
        "ollama": {
            "enabled": True,
            "image": f"localhost/{':'.join(ollama)}",
            "resources": _SMALL,
            "exec": {
                "claimName": "all-teams",
                "volumeMountPath": "/volume/{namespace}",
                "namespaces": list(teams),
            },
        },
    }


@dataclass
class Team:
    """A namespace with a volume of its own that holds the quickstart's base model and data."""

    cluster: NodeCluster
    namespace: str
    volume: Path
    """The volume's root, as this machine sees it."""

    def apply(self, job: Manifest) -> None:
        """Apply a FineTuneJob as a user does."""
        self.cluster.kubectl("apply", "--namespace", self.namespace, "--filename=-", objects=job)

    def delete(self, name: str, *, wait: bool = True) -> None:
        """Delete a FineTuneJob."""
        self.cluster.kubectl("delete", "finetunejob", name, "--namespace", self.namespace, f"--wait={wait}".lower())

    def job(self, name: str) -> Manifest:
        """Return a FineTuneJob as it is now."""
        found: Manifest = self.get("finetunejob", name)
        return found

    def get(self, *arguments: str) -> Any:
        """Return what ``kubectl get`` finds in the team's namespace."""
        return self.cluster.get("--namespace", self.namespace, *arguments)

    def jobs(self, name: str, stage: str = "") -> list[Manifest]:
        """Return the child Jobs of a FineTuneJob, of one stage or of all."""
        selector = f"{JOB_LABEL}={name}" + (f",{STAGE_LABEL}={stage}" if stage else "")
        found: list[Manifest] = self.get("jobs", "--selector", selector)["items"]
        return found

    def pods(self, name: str, stage: str) -> list[Manifest]:
        """Return the Pods of a stage."""
        found: list[Manifest] = self.get("pods", "--selector", f"{JOB_LABEL}={name},{STAGE_LABEL}={stage}")["items"]
        return found

    def stages(self, name: str) -> list[str]:
        """Return the stages that have child Jobs, in the order of their creation."""
        jobs = sorted(self.jobs(name), key=lambda job: str(job["metadata"]["creationTimestamp"]))
        return [str(job["metadata"]["labels"][STAGE_LABEL]) for job in jobs]

    def ready(self, name: str) -> tuple[str, str, str]:
        """Return status, reason and message of the condition Ready; empty before the operator has seen it."""
        for item in self.job(name).get("status", {}).get("conditions", ()):
            if item["type"] == "Ready":
                return item["status"], item["reason"], item["message"]
        return "", "", ""

    def wait_for(self, name: str, *reasons: str, timeout: float = 2400) -> str:
        """Wait until the job stands at one of `reasons` and return the sentence; other ends fail the test."""

        def there() -> str | None:
            status, reason, message = self.ready(name)
            if reason in reasons:
                return message or reason
            assert status != "True", f"{name}: {reason}: {message}"
            assert not self.stalled(name), f"{name}: {reason}: {message}"
            return None

        return str(until(there, timeout, lambda: f"{name} stands at {self.ready(name)}, not at {reasons}"))

    def stalled(self, name: str) -> bool:
        """Tell whether the operator waits for somebody to act."""
        conditions = self.job(name).get("status", {}).get("conditions", ())
        return any(item["type"] == "Stalled" and item["status"] == "True" for item in conditions)

    def stage(self, name: str, stage: str) -> dict[str, Any]:
        """Return what the status says of a stage."""
        stages = self.job(name).get("status", {}).get("stages", ())
        return next((dict(item) for item in stages if item["name"] == stage), {})

    def wait_running(self, name: str, stage: str, timeout: float = 1200) -> Manifest:
        """Wait until the program of a stage runs, and return its first Pod."""

        def there() -> Manifest | None:
            assert not self.stalled(name), self.ready(name)
            running = [pod for pod in self.pods(name, stage) if pod["status"].get("phase") == "Running"]
            return running[0] if running else None

        found: Manifest = until(there, timeout, lambda: f"{stage} of {name} never ran: {self.ready(name)}")
        return found


@dataclass
class Installed:
    """The release, and the teams that it serves."""

    cluster: NodeCluster
    helm: Helm
    folder: Path
    """Holds each team's volume."""
    teams: dict[str, Team] = field(default_factory=dict)

    def ask(self, model: str, prompt: str) -> str:
        """Return what a model answers in the Ollama pod."""
        return self.cluster.kubectl(
            "exec", "--namespace", RELEASE, SERVER_POD, "--", "ollama", "run", model, prompt
        ).strip()

    def models(self) -> list[str]:
        """Return the names of the models that Ollama has."""
        listed = self.cluster.kubectl("exec", "--namespace", RELEASE, SERVER_POD, "--", "ollama", "list")
        return [line.split()[0] for line in listed.splitlines()[1:] if line.strip()]

    def operator_pods(self) -> list[Manifest]:
        """Return the operator's Pods."""
        selector = "app.kubernetes.io/component=operator"
        found: list[Manifest] = self.cluster.get("pods", "--namespace", RELEASE, "--selector", selector)["items"]
        return found


def install(cluster: NodeCluster, folder: Path, base: Path, namespaces: Sequence[str]) -> Installed:
    """Install Tunesmith with a team for each of `namespaces`."""
    cluster.bring(IMAGES)
    made = Installed(cluster, Helm("helm4", folder, cluster.kubeconfig), folder / "volumes")
    remove(made, namespaces)  # what a run has left that was interrupted
    (folder / "helm").mkdir()
    for name in (RELEASE, *namespaces):
        labels = _RESTRICTED if name != RELEASE else {}
        cluster.kubectl("apply", "--filename=-", objects=_namespace(name, labels))
    for name in namespaces:
        root = made.folder / name
        root.mkdir(parents=True)
        quickstart_volume(root, base)
        own(root)
        cluster.kubectl("apply", "--filename=-", objects=volume_of(name, "tunesmith", root))
        made.teams[name] = Team(cluster, name, root)
    own(made.folder)
    cluster.kubectl("apply", "--filename=-", objects=volume_of(RELEASE, "all-teams", made.folder))
    given = values(namespaces)
    done = made.helm.run(
        "install", "tunesmith", CHART, "--namespace", RELEASE, "--wait", "--timeout=600s", values=given
    )
    assert done.code == 0, f"{done.err}\n{_what_there_is(cluster)}"
    return made


def _what_there_is(cluster: NodeCluster) -> str:
    """Return what tells why a release does not get ready: nodes and their troubles, pods, the last events."""
    told = [
        cluster.kubectl("describe", "nodes"),
        cluster.kubectl("get", "pods", "--namespace", RELEASE, "--output=wide"),
        cluster.kubectl("get", "events", "--namespace", RELEASE, "--sort-by=.lastTimestamp"),
    ]
    return "\n".join(told)


def uninstall(installed: Installed) -> None:
    """Remove the release, the teams and their volumes."""
    remove(installed, tuple(installed.teams))
    shutil.rmtree(installed.folder, ignore_errors=True)


def remove(installed: Installed, namespaces: Sequence[str]) -> None:
    """Remove the release, the teams and their volumes from the cluster, as far as they are there."""
    cluster, names = installed.cluster, [RELEASE, *namespaces]
    for name in namespaces if cluster.serves(CRD) else ():
        cluster.kubectl("delete", "finetunejobs", "--all", "--namespace", name)
    installed.helm.must("uninstall", "tunesmith", "--namespace", RELEASE, "--ignore-not-found", "--wait")
    cluster.kubectl("delete", "crd", CRD, "--ignore-not-found")  # Helm keeps it, and no other release may take it over
    cluster.kubectl("delete", "namespace", *names, "--ignore-not-found", "--timeout=600s")
    cluster.kubectl("delete", "persistentvolume", *(f"{name}-volume" for name in names), "--ignore-not-found")


def own(root: Path) -> None:
    """Give a folder to the user that the stages run as."""
    subprocess.run(["chown", "-R", f"{USER}:{USER}", root], check=True)


def _namespace(name: str, labels: Mapping[str, str]) -> Manifest:
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": dict(labels)}}


def volume_of(namespace: str, claim: str, folder: Path) -> list[Manifest]:
    """Return a claim and the volume behind it: a folder of the node."""
    size, mode = {"storage": "10Gi"}, ["ReadWriteMany"]
    return [
        {
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": {"name": f"{namespace}-volume"},
            "spec": {
                "capacity": size,
                "accessModes": mode,
                "storageClassName": "",
                "persistentVolumeReclaimPolicy": "Retain",
                "claimRef": {"namespace": namespace, "name": claim},
                "hostPath": {"path": str(folder), "type": "Directory"},
            },
        },
        {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": claim, "namespace": namespace},
            "spec": {
                "accessModes": mode,
                "storageClassName": "",
                "volumeName": f"{namespace}-volume",
                "resources": {"requests": size},
            },
        },
    ]


def until(look: Callable[[], Any], timeout: float, trouble: Callable[[], str], every: float = 0.5) -> Any:
    """Return the first true answer of `look`; fail with `trouble` when it takes too long."""
    deadline = time.monotonic() + timeout
    while not (found := look()):
        assert time.monotonic() < deadline, trouble()
        time.sleep(every)
    return found


def kubectl_tunesmith(cluster: NodeCluster, *arguments: str) -> str:
    """Run the kubectl plugin and return what it prints."""
    environ = {**os.environ, "KUBECONFIG": str(cluster.kubeconfig), "NO_COLOR": "1", "COLUMNS": "160"}
    done = subprocess.run(
        [Path(sys.executable).with_name("kubectl-tunesmith"), *arguments],
        check=False,
        capture_output=True,
        text=True,
        env=environ,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
