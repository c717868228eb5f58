"""A child's Job, and everything that is created with it."""

from __future__ import annotations

from typing import Any

from tunesmith.api import keys
from tunesmith.api.settings import Settings
from tunesmith.core.manifests.child import Child, child_metadata
from tunesmith.core.manifests.config import config_map
from tunesmith.core.manifests.options import pod_options
from tunesmith.core.manifests.pod import pod_template
from tunesmith.core.manifests.storage import effective_storage
from tunesmith.core.manifests.training import service
from tunesmith_stages.contract import digest_of

Object = dict[str, Any]

_DIGEST_CHARACTERS = 16


def child_manifests(child: Child, settings: Settings) -> tuple[Object, ...]:
    """Return a child's objects in the order in which they are to be created: ConfigMap, Service if any, Job.

    Raises:
        ManifestError: what the FineTuneJob says about its pods cannot be, or is too large.
    """
    options = pod_options(child, settings)
    template = pod_template(child, effective_storage(child.job, child.namespace, settings), settings, options)
    config = config_map(child, settings, grace=options["terminationGracePeriodSeconds"])
    spec = {**_job_spec(child), "template": template}
    meta = child_metadata(child, _queue(child))
    digest = digest_of([meta["labels"], config["data"], spec])[:_DIGEST_CHARACTERS]
    meta["annotations"][keys.MANIFEST_ANNOTATION] = digest
    job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": meta, "spec": spec}
    return (config, service(child), job) if child.nodes > 1 else (config, job)


def _queue(child: Child) -> dict[str, str]:
    """Return the label by which Kueue finds a training."""
    queue = child.job.spec.scheduling.queue_name
    return {keys.QUEUE_LABEL: queue} if child.trains and queue else {}


def _job_spec(child: Child) -> Object:
    """Return the Job without its pods. It is tried once: whether to try again is for the operator to decide."""
    return {
        "completions": child.nodes,
        "parallelism": child.nodes,
        "completionMode": "Indexed" if child.trains else "NonIndexed",
        "backoffLimit": 0,
        "podReplacementPolicy": "Failed",
        "podFailurePolicy": {"rules": [_on_disruption(child)]},
        **({"suspend": True} if _queue(child) else {}),
    }


def _on_disruption(child: Child) -> Object:
    """Return what an eviction, a preemption or a lost node means: another pod, or the end of all.

    torchrun's static rendezvous does not take a replaced pod back, so pods that train together end together.
    """
    action = "FailJob" if child.nodes > 1 else "Ignore"
    return {"action": action, "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}
