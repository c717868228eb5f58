"""What the pods of a training are given for its experiment tracker: an address, a token, the way out of the cluster.

The address is the administrator's, as with Ollama's servers and the hubs: nobody can have a token sent elsewhere.
"""

from __future__ import annotations

from typing import Any

from tunesmith.api.settings import Settings
from tunesmith.api.tracking import TrackerType
from tunesmith.core.manifests.child import Child
from tunesmith.core.manifests.layers import ManifestError
from tunesmith_stages.contract import StageName

Object = dict[str, Any]

_TOKEN = "TUNESMITH_TRACKING_TOKEN"  # noqa: S105 - tunesmith_stages.track.asked.TOKEN_VARIABLE
_UNTIL_TRAINED = frozenset({StageName.FETCH, StageName.PREPARE, StageName.REHEARSE, StageName.TRAIN})


def tracker_url(child: Child, settings: Settings) -> str:
    """Return the address of the server that a job's tracker has; empty: it needs none.

    Raises:
        ManifestError: it needs one, and the administrator has set up none. That is told by the first stage already.
    """
    tracking = child.job.spec.training.tracking
    if tracking is None or child.lookup or child.stage.name not in _UNTIL_TRAINED:
        return ""
    addresses = {
        TrackerType.MLFLOW: settings.trackers.mlflow,
        TrackerType.WEIGHTS_AND_BIASES: settings.trackers.weights_and_biases,
    }
    url = addresses.get(tracking.type) or ""
    if tracking.type is TrackerType.MLFLOW and not url:
        raise ManifestError(
            "spec.training.tracking.type",
            "must not be MLflow: the administrator has set up no MLflow server",
            hint="Use TensorBoard, or ask the administrator for `trackers.mlflow`.",
            reason="TrackerNotSetUp",
        )
    return url


def tracker_runtime(child: Child, settings: Settings) -> Object:
    """Return what `train` is told of its tracker, with the address; nothing, if the job has none."""
    tracking = child.stage.runtime.get("tracking")
    return {"tracking": {**tracking, "url": tracker_url(child, settings)}} if tracking else {}


def tracker_variables(child: Child, settings: Settings) -> list[Object]:
    """Return the variables with the token and the proxies. A Secret that is not there does not hold up the pod."""
    tracking = child.job.spec.training.tracking
    if tracking is None or not child.trains or not tracker_url(child, settings):
        return []
    network, secret = settings.network, tracking.token_secret_ref
    proxies = {"HTTP_PROXY": network.http_proxy, "HTTPS_PROXY": network.https_proxy, "NO_PROXY": network.no_proxy}
    variables: list[Object] = [{"name": name, "value": value} for name, value in proxies.items() if value]
    if secret is not None:
        reference = {"name": secret.name, "key": secret.key, "optional": True}
        variables.append({"name": _TOKEN, "valueFrom": {"secretKeyRef": reference}})
    return variables
