"""Kubeflow Trainer with JobSet, by which it makes its Jobs.

Their managers run with the configuration that their own manifests ship (Trainer: 5 workers and no limit of requests;
JobSet: one worker and 500 requests a second; both elect a leader and log at level 2), but for addresses, ports and the
webhooks' certificates, which are given to them. Custom resources, webhooks and the ClusterTrainingRuntime
`torch-distributed`, with one node, are those of their manifests. A TrainJob names that runtime, nothing else.
"""

from __future__ import annotations

import base64
import shutil
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import programs
import yaml
from benchmarks.operators.system import NAMESPACE, Object, Processes, System
from daemons import Daemon, Daemons
from programs import JOBSET, TRAINER, Program

from support.cluster import ApiServer
from support.ports import free_port

_GROUP = "trainer.kubeflow.org"
_COLLECTION = f"/apis/{_GROUP}/v1alpha1/namespaces/{NAMESPACE}/trainjobs"
_JOBSET_LABEL = "jobset.sigs.k8s.io/jobset-name"
"""Of a Job: its JobSet, which has the name of its TrainJob."""
_RUNTIME = "torch-distributed"
_LOOPBACK = "127.0.0.1"
_CERTIFICATE = "webhooks"
_READY_SECONDS = 60


def _trainjob(name: str) -> Object:
    return {
        "apiVersion": f"{_GROUP}/v1alpha1",
        "kind": "TrainJob",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {"runtimeRef": {"name": _RUNTIME}},
    }


def _tells(trainjob: Object) -> bool:
    jobs = trainjob.get("status", {}).get("jobsStatus", [])
    return any(one["ready"] for one in jobs)


@dataclass(frozen=True)
class _Manager:
    """One of the two managers.

    Attributes:
        program: what is run, with its manifests.
        namespace: that its manifests put it into.
        folder: its own, for its configuration and the certificate of its webhooks.
        webhooks: port.
        health: port.
    """

    program: Program
    namespace: str
    folder: Path
    webhooks: int
    health: int

    @property
    def manifests(self) -> Path:
        return self.program.folder / "data"

    @property
    def certificates(self) -> Path:
        """Where controller-runtime looks for a webhook's certificate, below what it takes for /tmp."""
        return self.folder / "k8s-webhook-server" / "serving-certs"

    def install(self, server: ApiServer) -> None:
        """Give the cluster what its manifests say, and it a certificate; the webhooks do not answer yet."""
        self.certificates.mkdir(parents=True)
        authority = server.plane.authority
        shutil.copyfile(authority.certificate_of(_CERTIFICATE), self.certificates / "tls.crt")
        shutil.copyfile(authority.key_of(_CERTIFICATE), self.certificates / "tls.key")
        for definition in sorted(self.manifests.rglob("*.*_*.yaml")):
            server.kubectl("create", f"--filename={definition}")
        server.kubectl("create", "namespace", self.namespace)
        asked = server.kubectl("kustomize", str(self.manifests / "webhook"))
        configurations = [item for item in yaml.safe_load_all(asked) if item["kind"].endswith("WebhookConfiguration")]
        for webhook in (one for item in configurations for one in item["webhooks"]):
            path = webhook["clientConfig"]["service"]["path"]
            trusted = base64.b64encode(authority.certificate.read_bytes()).decode()
            webhook["clientConfig"] = {"url": f"https://{_LOOPBACK}:{self.webhooks}{path}", "caBundle": trusted}
        server.kubectl("create", "--filename=-", objects=configurations)

    def daemon(self, server: ApiServer, *, elects: bool) -> Daemon:
        """Return its program, with the configuration that it is shipped with but for what a machine decides."""
        shipped = yaml.safe_load((self.manifests / "controller_manager_config.yaml").read_text(encoding="utf-8"))
        config = {**shipped, **self._of_this_machine()}
        election = {"leaderElect": elects, "resourceNamespace": self.namespace}
        config["leaderElection"] = {**shipped["leaderElection"], **election}
        file = self.folder / f"{'elected' if elects else 'unelected'}.yaml"
        file.write_text(yaml.safe_dump(config), encoding="utf-8")
        environ = (f"KUBECONFIG={server.kubeconfig}", f"TMPDIR={self.folder}")
        command = (str(self.program.path), f"--config={file}", "--zap-log-level=2")
        return Daemon(self.program.name, ("env", *environ, *command))

    def _of_this_machine(self) -> dict[str, Any]:
        metrics = {"bindAddress": f"{_LOOPBACK}:{free_port()}"}
        if self.program is JOBSET:
            given = {"internalCertManagement": {"enable": False}}
            metrics["certDir"] = str(self.certificates)
        else:
            given = {"certManagement": {"enable": False}}
        return {
            **given,
            "metrics": metrics,
            "health": {"healthProbeBindAddress": f"{_LOOPBACK}:{self.health}"},
            "webhook": {"host": _LOOPBACK, "port": self.webhooks},
        }

    def is_ready(self) -> bool:
        """Tell whether its webhooks answer."""
        try:
            with urllib.request.urlopen(f"http://{_LOOPBACK}:{self.health}/readyz") as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, ConnectionError):
            return False


def _install(server: ApiServer, folder: Path) -> Processes:
    for program in (JOBSET, TRAINER):
        programs.ensure(program)
    server.plane.authority.sign(_CERTIFICATE, f"/CN={_CERTIFICATE}", [f"IP:{_LOOPBACK}"])
    managers = [
        _Manager(JOBSET, "jobset-system", folder / "jobset", free_port(), free_port()),
        _Manager(TRAINER, "kubeflow-system", folder / "trainer", free_port(), free_port()),
    ]
    for manager in managers:
        manager.install(server)
    processes = Processes(
        Daemons(server.daemons.logs),
        [manager.daemon(server, elects=True) for manager in managers],
        [manager.daemon(server, elects=False) for manager in managers],
    )
    processes.start(processes.shipped)
    for manager in managers:
        processes.daemons.wait_for("webhooks", manager.program.name, _READY_SECONDS, manager.is_ready)
    server.kubectl("create", f"--filename={TRAINER.folder / 'data' / 'torch_distributed.yaml'}")
    return processes


def kubeflow_trainer() -> System:
    """Return Trainer and JobSet, in the versions that are pinned."""
    name = f"Kubeflow Trainer {TRAINER.version} + JobSet {JOBSET.version}"
    return System(name, _COLLECTION, _JOBSET_LABEL, _trainjob, _tells, _install)
