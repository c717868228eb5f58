"""Kubernetes' own words for why no program runs, read as the operator reads them: from a real API server."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from support.chart import wait_until
from support.cluster import ApiServer, api_server
from tunesmith.api import keys
from tunesmith.core.observe import observe_job

RESTRICTED = {"pod-security.kubernetes.io/enforce": "restricted"}
SAFE = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "runAsNonRoot": True,
    "runAsUser": 1000,
    "seccompProfile": {"type": "RuntimeDefault"},
}
CLAIM = {"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "nowhere"}}]}
HELD_UP: dict[str, tuple[dict[str, Any], dict[str, Any], str, str]] = {
    "a pod that may too much": ({}, {"securityContext": {}}, "PodSecurityRefused", "allowPrivilegeEscalation"),
    "an account that is not there": ({"serviceAccountName": "nobody"}, {}, "ServiceAccountNotFound", "nobody"),
    "more than the quota allows": (
        {},
        {"resources": {"requests": {"memory": "9Gi"}, "limits": {"memory": "9Gi"}}},
        "QuotaExceeded",
        "small",
    ),
    "a claim that is not there": (CLAIM, {}, "VolumeClaimNotFound", "nowhere"),
    "more GPUs than a node has": (
        {},
        {"resources": {"limits": {"nvidia.com/gpu": "4", "memory": "1Mi"}}},
        "Unschedulable",
        "Insufficient nvidia.com/gpu",
    ),
    "a node that is not there": ({"nodeSelector": {"gpu": "h100"}}, {}, "Unschedulable", "node affinity/selector"),
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    with api_server(tmp_path_factory.mktemp("words") / "server", kwok=True) as made:
        made.add_nodes(1, gpus=2)
        team = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "team", "labels": RESTRICTED}}
        quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "small", "namespace": "team"}}
        made.kubectl("apply", "--filename=-", objects=[team, {**quota, "spec": {"hard": {"requests.memory": "1Gi"}}}])
        yield made


@pytest.mark.parametrize("case", HELD_UP)
def test_the_reason_is_read_from_the_clusters_words(server: ApiServer, case: str) -> None:
    """What the scheduler, the Job controller and admission say of a Job becomes the reason, with their sentence."""
    pod, container, reason, words = HELD_UP[case]
    name = case.replace(" ", "-").lower()
    server.kubectl("apply", "--filename=-", objects=job_of(name, pod, container))

    def told() -> bool:
        found, sentence = waiting(server, name)
        return found == reason and words in sentence  # of a node that is not ready yet, the scheduler says that first

    wait_until(f"{reason} with {words!r} for {name}", told)


def job_of(name: str, pod: dict[str, Any], container: dict[str, Any]) -> dict[str, Any]:
    small = {"resources": {"limits": {"memory": "1Mi"}}, "securityContext": SAFE}
    labels = {keys.STAGE_LABEL: "train", keys.ATTEMPT_LABEL: "1"}
    containers = [{"name": "stage", "image": "nothing", **small, **container}]
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name, "namespace": "team", "labels": labels},
        "spec": {"template": {"spec": {"restartPolicy": "Never", "containers": containers, **pod}}},
    }


def waiting(server: ApiServer, name: str) -> tuple[str, str]:
    """Return reason and sentence, from the Job, its Pods and the Events about the newest of them."""
    job = server.get("job", name, "--namespace=team")
    pods = server.get("pods", "--namespace=team", f"--selector=batch.kubernetes.io/job-name={name}")["items"]
    uid = (pods[-1] if pods else job)["metadata"]["uid"]
    events = server.get("events", "--namespace=team", f"--field-selector=involvedObject.uid={uid}")["items"]
    seen = observe_job(job, pods, events)
    assert seen is not None
    return (seen.waiting.reason, seen.waiting.message) if seen.waiting else ("", str(seen.phase))
