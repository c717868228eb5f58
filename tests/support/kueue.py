"""The real Kueue in a cluster, installed by its own chart, for as long as a block lasts."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import yaml

sys.path.append(str(Path(__file__).parents[2] / "hack" / "testcluster"))  # scripts, not packages that are installed

import programs
from load_image import built_id

from support.chart import Helm
from support.cluster import NodeCluster
from support.installed import IMAGES, Manifest, until

NAMESPACE = "kueue-system"
GROUP = "kueue.x-k8s.io"
PLACES = "v1beta2.visibility.kueue.x-k8s.io"
"""The APIService by which Kueue tells places in queues."""
_RELEASE = "kueue"
_DEPLOYMENT = "kueue-controller-manager"
_IMAGE = f"localhost/tunesmith-kueue:{programs.KUEUE.version}"
_CONFIGURATION = {
    "apiVersion": "config.kueue.x-k8s.io/v1beta2",
    "kind": "Configuration",
    "health": {"healthProbeBindAddress": ":8081"},
    "metrics": {"bindAddress": ":8443"},
    "webhook": {"port": 9443},
    "leaderElection": {"leaderElect": False},
    "integrations": {"frameworks": ["batch/job"]},
}
_DOCKERFILE = f"""FROM {IMAGES[0]}
COPY kueue /manager
ENTRYPOINT ["/manager"]
"""
"""Go links to the C library of the machine that it builds on; our images are made from the same distribution."""


@contextmanager
def kueue(cluster: NodeCluster, helm: Helm) -> Iterator[None]:
    """Install Kueue; remove it afterwards with all that there is of its kinds, and its webhooks first of all.

    A webhook that outlives it would refuse every Job from then on.
    """
    build_image(helm.folder)
    cluster.bring([_IMAGE])
    remove(cluster, helm)
    try:
        _install(cluster, helm)
        yield
    finally:
        remove(cluster, helm)


def build_image(folder: Path) -> None:
    """Put Kueue's program into an image of buildah's storage, unless it is there."""
    bin_folder = programs.ensure(programs.KUEUE)
    if built_id(_IMAGE):
        return
    recipe = folder / "kueue.Dockerfile"
    recipe.write_text(_DOCKERFILE, encoding="utf-8")
    build = ["buildah", "bud", "--isolation=chroot", "--pull-never", f"--file={recipe}", f"--tag={_IMAGE}"]
    subprocess.run([*build, str(bin_folder)], check=True, capture_output=True)


def _install(cluster: NodeCluster, helm: Helm) -> None:
    repository, tag = _IMAGE.rsplit(":", 1)
    small = {"requests": {"cpu": "50m", "memory": "128Mi"}, "limits": {"cpu": "1", "memory": "512Mi"}}
    values: dict[str, Any] = {
        "controllerManager": {
            "manager": {
                "image": {"repository": repository, "tag": tag, "pullPolicy": "IfNotPresent"},
                "resources": small,
            },
            "readinessProbe": {"initialDelaySeconds": 1, "periodSeconds": 1},
        },
        "managerConfig": {"controllerManagerConfigYaml": yaml.safe_dump(_CONFIGURATION)},
    }
    chart = programs.KUEUE.folder / "data" / "kueue"
    into = ("--namespace", NAMESPACE, "--create-namespace")
    done = helm.run("install", _RELEASE, chart, *into, values=values)
    assert done.code == 0, done.err
    until(lambda: _has_certificate(cluster), 300, lambda: f"Kueue made no certificate:\n{_log(cluster)}")
    # The kubelet brings a Secret that has changed only when it looks at the Pod, which is once a minute otherwise.
    selector = "--selector=app.kubernetes.io/name=kueue"
    cluster.kubectl("annotate", "pods", "--namespace", NAMESPACE, selector, "tunesmith.dev/look=again")
    until(lambda: _serves(cluster), 300, lambda: f"Kueue does not answer:\n{_log(cluster)}")


def _has_certificate(cluster: NodeCluster) -> bool:
    secrets = cluster.get("secrets", "--namespace", NAMESPACE)["items"]
    return any(item.get("data") for item in secrets if item["metadata"]["name"] == "kueue-webhook-server-cert")


def _serves(cluster: NodeCluster) -> bool:
    """Tell whether its webhooks answer, by an object that they look at and that is thrown away, and its own API too."""
    flavor = {"apiVersion": f"{GROUP}/v1beta2", "kind": "ResourceFlavor", "metadata": {"name": "probe"}}
    job = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": "probe", "namespace": NAMESPACE},
        "spec": {"template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "a", "image": "a"}]}}},
    }
    try:
        cluster.kubectl("create", "--dry-run=server", "--filename=-", objects=[flavor, job])
        served = cluster.get("apiservice", PLACES)["status"]["conditions"]
    except (subprocess.CalledProcessError, KeyError):
        return False
    return any(item["type"] == "Available" and item["status"] == "True" for item in served)


def _log(cluster: NodeCluster) -> str:
    with suppress(subprocess.CalledProcessError):
        return cluster.kubectl("logs", "--namespace", NAMESPACE, f"deployment/{_DEPLOYMENT}", "--tail=40")
    return cluster.kubectl("get", "pods,events", "--namespace", NAMESPACE)


# --- removing --------------------------------------------------------------------------------------------------------


def remove(cluster: NodeCluster, helm: Helm) -> None:
    """Remove Kueue as far as it is there, also if it does not work, or if a run before was interrupted."""
    for kind in ("mutatingwebhookconfigurations", "validatingwebhookconfigurations"):
        ours = [name for name in _names(cluster, kind) if "kueue" in name]
        if ours:
            cluster.kubectl("delete", kind, *ours, "--ignore-not-found")
    # Without its controller nobody makes Workloads anew, or asks for finalizers.
    where = ("--namespace", NAMESPACE, "--ignore-not-found")
    cluster.kubectl("delete", "deployment", _DEPLOYMENT, *where, "--cascade=foreground")
    definitions = [item for item in cluster.get("crd")["items"] if item["spec"]["group"] == GROUP]
    for definition in definitions:
        _remove_all(cluster, definition)
    helm.must("uninstall", _RELEASE, "--namespace", NAMESPACE, "--ignore-not-found", "--wait")
    if definitions:
        names = [item["metadata"]["name"] for item in definitions]
        cluster.kubectl("delete", "crd", *names, "--ignore-not-found", "--timeout=120s")
    cluster.kubectl("delete", "namespace", NAMESPACE, "--ignore-not-found", "--timeout=300s")


def _names(cluster: NodeCluster, kind: str) -> list[str]:
    return [str(item["metadata"]["name"]) for item in cluster.get(kind)["items"]]


def _remove_all(cluster: NodeCluster, definition: Manifest) -> None:
    """Delete all objects of a kind, whatever they still hold on to.

    They are asked for as they are stored: Kueue itself converts them to its other versions, and it is gone.
    """
    (stored,) = [version["name"] for version in definition["spec"]["versions"] if version["storage"]]
    kind = f"{definition['spec']['names']['plural']}.{stored}.{GROUP}"
    for item in cluster.get(kind, "--all-namespaces")["items"]:
        meta = item["metadata"]
        where = ("--namespace", meta["namespace"]) if "namespace" in meta else ()
        free = json.dumps({"metadata": {"finalizers": []}})
        cluster.kubectl("patch", kind, meta["name"], *where, "--type=merge", f"--patch={free}")
        cluster.kubectl("delete", kind, meta["name"], *where, "--ignore-not-found")


# --- queues ----------------------------------------------------------------------------------------------------------


def documented(page: Path, kinds: Sequence[str]) -> list[Manifest]:
    """Return the objects of these kinds that a page of the documentation shows as YAML."""
    blocks = page.read_text(encoding="utf-8").split("```yaml\n")[1:]
    found = [item for block in blocks for item in yaml.safe_load_all(block.split("```")[0]) if item]
    return [item for item in found if item.get("kind") in kinds]


def workload_of(cluster: NodeCluster, job: Manifest) -> Manifest | None:
    """Return the Workload that Kueue made of a Job."""
    meta = job["metadata"]
    selector = f"--selector={GROUP}/job-uid={meta['uid']}"
    items = cluster.get(f"workloads.{GROUP}", "--namespace", meta["namespace"], selector)["items"]
    return dict(items[0]) if items else None
