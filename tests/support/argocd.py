"""A real Argo CD on a cluster, and a Git repository that it syncs.

Its application-controller and repo-server run on this machine, with a redis of their own; they reach the cluster as its
administrator. Nothing of Argo CD's own user interface is needed, and so there is none.
"""

from __future__ import annotations

import copy
import json
import os
import secrets
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

sys.path.append(str(Path(__file__).parents[2] / "hack" / "toolchain"))  # scripts, not packages that are installed
sys.path.append(str(Path(__file__).parents[2] / "hack" / "testcluster"))

import charts
import programs
from daemons import Daemon, Daemons
from debian_packages import ensure_packages

from support.cluster import Cluster
from support.installed import until
from support.ports import free_port

NAMESPACE = "argocd"
EXAMPLE = Path(__file__).parents[2] / "examples" / "gitops" / "argocd"
HEALTH = EXAMPLE / "resource_customizations" / "tunesmith.dev" / "FineTuneJob"
"""The health check, in the layout of Argo CD's own ones."""
_KINDS = ("applications", "applicationsets", "appprojects")
Manifest = dict[str, Any]


@dataclass(frozen=True)
class Repository:
    """A Git repository: a folder with one branch, `main`."""

    folder: Path

    @property
    def url(self) -> str:
        """The address by which this machine's programs clone it."""
        return f"file://{self.folder}"

    def commit(self, files: Mapping[str, Any]) -> str:
        """Commit these files, objects as YAML; None removes one. Return the commit's hash."""
        for name, content in files.items():
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if content is None:
                path.unlink()
            else:
                path.write_text(content if isinstance(content, str) else yaml.safe_dump(content), encoding="utf-8")
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", "A change")
        return self.git("rev-parse", "HEAD")

    def git(self, *arguments: str) -> str:
        """Run git in the repository, as nobody in particular, and return what it prints."""
        who = {f"GIT_{role}_{what}": f"{what}@example.com" for role in ("AUTHOR", "COMMITTER") for what in _WHO}
        environ = {"PATH": os.environ["PATH"], "HOME": str(self.folder), **who}
        done = subprocess.run(
            ["git", *arguments], check=True, capture_output=True, text=True, env=environ, cwd=self.folder
        )
        return done.stdout.strip()


_WHO = ("NAME", "EMAIL")


@dataclass(frozen=True)
class ArgoCD:
    """Argo CD as it runs, and the repository of the Applications."""

    cluster: Cluster
    repository: Repository

    def apply(self, *manifests: Manifest) -> None:
        """Apply Applications and projects."""
        self.cluster.kubectl("apply", "--namespace", NAMESPACE, "--filename=-", objects=list(manifests))

    def application(self, name: str) -> Manifest:
        """Return an Application as it is now."""
        found: Manifest = self.cluster.get("application", name, "--namespace", NAMESPACE)
        return found

    def refresh(self, name: str, how: str = "normal") -> None:
        """Have the newest commit compared with the cluster; `hard` also forgets what was rendered before."""
        note = f"argocd.argoproj.io/refresh={how}"
        self.cluster.kubectl("annotate", "application", name, "--namespace", NAMESPACE, "--overwrite", note)
        until(lambda: "refresh" not in _notes(self.application(name)), 120, lambda: f"no refresh of {name}")

    def commit(self, name: str, files: Mapping[str, Any]) -> None:
        """Commit, and wait until the Application has synced that commit."""
        revision = self.repository.commit(files)
        self.refresh(name)
        self.wait_until_synced(name, revision)

    def sync(self, name: str) -> None:
        """Sync by hand, whatever has changed, and wait until it has been done."""
        found = self.application(name)
        before = _operation(found).get("finishedAt")
        sync = {"prune": True, "syncOptions": found["spec"]["syncPolicy"]["syncOptions"]}  # as its command line does
        asked = {"operation": {"initiatedBy": {"username": "admin"}, "sync": sync}}
        self.cluster.kubectl(
            "patch", "application", name, "--namespace", NAMESPACE, "--type=merge", f"--patch={json.dumps(asked)}"
        )

        def done() -> bool:
            state = _operation(self.application(name))
            return state.get("finishedAt") not in {None, before} and state["phase"] == "Succeeded"

        until(done, 120, lambda: f"no sync of {name}: {self.told(name)}")

    def wait_until_synced(self, name: str, revision: str) -> None:
        """Wait until a commit has been applied, and nothing differs from it."""

        def done() -> bool:
            application = self.application(name)
            synced = application.get("status", {}).get("sync", {})
            return (synced.get("status"), synced.get("revision")) == ("Synced", revision)

        until(done, 180, lambda: f"{name} is not synced: {self.told(name)}")

    def health(self, name: str, resource: str = "") -> str:
        """Return the health of an Application, or of the FineTuneJob of this name in it."""
        status = self.application(name).get("status", {})
        if not resource:
            return str(status.get("health", {}).get("status", ""))
        found = [item for item in status.get("resources", ()) if (item["kind"], item["name"]) == (_KIND, resource)]
        return str(found[0].get("health", {}).get("status", "")) if found else ""

    def told(self, name: str) -> str:
        """Return what tells why an Application is as it is."""
        status = self.application(name).get("status", {})
        kept = {key: status.get(key) for key in ("sync", "health", "conditions", "resources")}
        return yaml.safe_dump({**kept, "operation": _operation({"status": status})})


_KIND = "FineTuneJob"


def _notes(item: Manifest) -> str:
    return " ".join(item["metadata"].get("annotations") or ())


def _operation(application: Manifest) -> Manifest:
    found: Manifest = (application.get("status") or {}).get("operationState") or {}
    return found


def example(name: str, repository: Repository, **spec: Any) -> list[Manifest]:
    """Return the objects of an example's file, with this repository, and `spec` for parts of an Application's spec."""
    made = []
    for item in yaml.safe_load_all((EXAMPLE / name).read_text(encoding="utf-8")):
        changed = copy.deepcopy(item)
        if item["kind"] == "Application":
            changed["spec"]["source"] |= {"repoURL": repository.url, "targetRevision": "main"}
            for key, value in spec.items():
                changed["spec"][key] = changed["spec"][key] | value if isinstance(value, dict) else value
        made.append(changed)
    return made


def built(name: str) -> Path:
    """Return the folder with the programs of Argo CD or Flux, built first if need be."""
    return programs.ensure(programs.PROGRAMS[name])


@contextmanager
def argocd(cluster: Cluster, folder: Path) -> Iterator[ArgoCD]:
    """Run Argo CD until the block ends; then nothing of it is left on the cluster.

    Args:
        cluster: what it syncs to, and where its Applications are.
        folder: new; takes the repository, logs and what Argo CD keeps.

    Raises:
        StageError: a program cannot be built or installed.
        DaemonError: one of them failed.
    """
    ensure_packages("the test of Argo CD", ("redis-server", "git"), hint="Install them.")
    bin_, data = built("argocd"), programs.ARGOCD.folder / "data"
    helm = charts.ensure("helm3").parent  # the Helm that this version of Argo CD comes with
    for name in ("logs", "repository", "tmp", "tls", "ssh"):
        (folder / name).mkdir(parents=True)
    repository = Repository(folder / "repository")
    repository.git("init", "--quiet", "--initial-branch=main")
    _install(cluster, data)
    daemons = Daemons(folder / "logs")
    try:
        for daemon in _daemons(cluster, folder, bin_, helm):
            daemons.start(daemon)
        yield ArgoCD(cluster, repository)
    finally:
        daemons.kill()
        _remove(cluster)


def _daemons(cluster: Cluster, folder: Path, bin_: Path, helm: Path) -> list[Daemon]:
    redis, repo_server = free_port(), free_port()
    environ = {
        "PATH": f"{helm}:{os.environ['PATH']}",
        "HOME": folder,
        "TMPDIR": folder / "tmp",
        "KUBECONFIG": cluster.kubeconfig,
        "ARGOCD_FAKE_IN_CLUSTER": "true",  # "in the cluster" means by the kubeconfig
        "ARGOCD_GPG_ENABLED": "false",
        "ARGOCD_TLS_DATA_PATH": folder / "tls",
        "ARGOCD_SSH_DATA_PATH": folder / "ssh",
        "ARGOCD_ASK_PASS_SOCK": folder / "ask.sock",
        "ARGOCD_RECONCILIATION_JITTER": "0s",
    }
    with_environ = ("env", *(f"{name}={value}" for name, value in environ.items()))
    cache = ("--redis", f"127.0.0.1:{redis}", "--loglevel=info", "--logformat=text")
    cluster_options = (f"--kubeconfig={cluster.kubeconfig}", f"--namespace={NAMESPACE}")
    return [
        Daemon(
            "redis", ("redis-server", "--port", str(redis), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder))
        ),
        Daemon(
            "repo-server",
            (
                *with_environ,
                str(bin_ / "argocd-repo-server"),
                *cache,
                "--address=127.0.0.1",
                f"--port={repo_server}",
                "--metrics-address=127.0.0.1",
                f"--metrics-port={free_port()}",
                "--disable-tls",
                "--revision-cache-expiration=1s",
            ),
        ),
        Daemon(
            "application-controller",
            (
                *with_environ,
                str(bin_ / "argocd-application-controller"),
                *cache,
                *cluster_options,
                f"--repo-server=127.0.0.1:{repo_server}",
                "--repo-server-plaintext",
                f"--metrics-port={free_port()}",
                "--app-resync=5",
                "--persist-resource-health",
            ),
        ),
    ]


def _install(cluster: Cluster, data: Path) -> None:
    _remove(cluster)  # what a run has left that was interrupted
    definitions = [f"--filename={data / kind}-crd.yaml" for kind in ("application", "applicationset", "appproject")]
    cluster.kubectl("apply", "--server-side", *definitions)  # too large for the annotation of a client's apply
    cluster.kubectl("create", "namespace", NAMESPACE)
    cluster.kubectl("apply", "--namespace", NAMESPACE, *(f"--filename={path}" for path in data.glob("argocd-*.yaml")))
    key = {"stringData": {"server.secretkey": secrets.token_hex(16)}}
    cluster.kubectl("patch", "secret", "argocd-secret", "--namespace", NAMESPACE, f"--patch={json.dumps(key)}")
    until(lambda: cluster.serves("appprojects"), 60, lambda: "AppProjects are not served")
    cluster.kubectl("apply", "--namespace", NAMESPACE, "--filename=-", objects=_DEFAULT_PROJECT)
    # As the example's README says.
    check = cluster.kubectl("kustomize", str(EXAMPLE))
    cluster.kubectl("patch", "configmap", "argocd-cm", "--namespace", NAMESPACE, f"--patch={check}")


_DEFAULT_PROJECT = {
    "apiVersion": "argoproj.io/v1alpha1",
    "kind": "AppProject",
    "metadata": {"name": "default"},
    "spec": {
        "sourceRepos": ["*"],
        "destinations": [{"server": "*", "namespace": "*"}],
        "clusterResourceWhitelist": [{"group": "*", "kind": "*"}],
    },
}
"""What Argo CD's own server makes at its first start."""


def _remove(cluster: Cluster) -> None:
    for kind in _KINDS if cluster.serves("applications") else ():
        for item in cluster.get(kind, "--namespace", NAMESPACE)["items"]:
            where = (kind, item["metadata"]["name"], "--namespace", NAMESPACE)
            cluster.kubectl("patch", *where, "--type=merge", '--patch={"metadata": {"finalizers": null}}')
    crds = [f"{kind}.argoproj.io" for kind in _KINDS]
    cluster.kubectl("delete", "namespace", NAMESPACE, "--ignore-not-found", "--timeout=300s")
    cluster.kubectl("delete", "crd", *crds, "--ignore-not-found")
