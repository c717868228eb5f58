"""The run on an MLflow server, by its REST API (https://mlflow.org/docs/latest/rest-api.html).

MLflow's own client would bring sixty packages, look into the folder's Git, and report its use to others; six kinds of
requests are all that is needed.
"""

from __future__ import annotations

import base64
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import httpx2

from tunesmith_stages.track.asked import Asked, Ended, Event, TrackerDownError, TrackerRefusesError
from tunesmith_stages.track.run_record import RunRecord

TIMEOUT = httpx2.Timeout(10.0, connect=5.0)

_MOST_METRICS = 1000  # of one request
_MOST_PARAMS = 100
_LONGEST_VALUE = 6000
_LONGEST_TAG = 5000
_STATUS = {Ended.WELL: "FINISHED", Ended.FAILED: "FAILED", Ended.INTERRUPTED: "KILLED"}


class MlflowRun:
    """A training's run. What it has already is asked of the server, so nothing is there twice."""

    def __init__(self, asked: Asked, token: str, now: Callable[[], float] = time.time) -> None:
        self._asked = asked
        self._now = now
        self._record = RunRecord.of(asked)
        self._last: dict[str, int] = {}
        self._token = token
        self._client = httpx2.Client(base_url=f"{asked.url.rstrip('/')}/api/2.0/mlflow/", timeout=TIMEOUT)

    def open(self) -> str:
        """See :class:`.asked.Tracker`."""
        self._client.headers.update(authorization(self._token))
        experiment = self._experiment()
        run = self._found()
        if run is None:
            run = self._created(experiment)
        else:
            self._ask("POST", "runs/update", {"run_id": self._record.id, "status": "RUNNING"})
        metrics = run["data"].get("metrics", ())
        self._last = {metric["key"]: int(metric.get("step", 0)) for metric in metrics}
        experiment = run["info"]["experiment_id"]
        return f"MLflow: {self._asked.url.rstrip('/')}/#/experiments/{experiment}/runs/{self._record.id}"

    def _experiment(self) -> str:
        """Return the id of the experiment, which is made if need be."""
        name = self._asked.project
        for _ in range(2):  # somebody else may make it between the two questions
            asked = {"experiment_name": name}
            found = self._ask("GET", "experiments/get-by-name", asked, fine="RESOURCE_DOES_NOT_EXIST")
            if found is not None:
                return str(found["experiment"]["experiment_id"])
            made = self._ask("POST", "experiments/create", {"name": name}, fine="RESOURCE_ALREADY_EXISTS")
            if made is not None:
                return str(made["experiment_id"])
        raise TrackerDownError(f"MLflow at {self._asked.url} has the experiment {name!r} and does not have it")

    def _found(self) -> dict[str, Any] | None:
        """Return the run that an earlier attempt began, if it is still there."""
        if not self._record.id:
            return None
        answer = self._ask("GET", "runs/get", {"run_id": self._record.id}, fine="RESOURCE_DOES_NOT_EXIST")
        if answer is None or answer["run"]["info"].get("lifecycle_stage", "active") != "active":
            return None
        return dict(answer["run"])

    def _created(self, experiment: str) -> dict[str, Any]:
        tags = {"mlflow.source.type": "JOB", "mlflow.source.name": "tunesmith"}
        tags |= {f"tunesmith.{name}": value[:_LONGEST_TAG] for name, value in self._asked.tags.items()}
        asked = {
            "experiment_id": experiment,
            "run_name": self._asked.name,
            "start_time": self._milliseconds(self._now()),
            "tags": [{"key": name, "value": value} for name, value in tags.items()],
        }
        run: dict[str, Any] = self._need("runs/create", asked)["run"]
        self._record = self._record.begun(run["info"]["run_id"])
        params = [{"key": name, "value": value[:_LONGEST_VALUE]} for name, value in self._asked.params.items() if value]
        for part in _parts(params, _MOST_PARAMS):
            self._need("runs/log-batch", {"run_id": self._record.id, "params": part})
        return run

    def send(self, events: Sequence[Event]) -> None:
        """See :class:`.asked.Tracker`."""
        metrics = []
        for event in events:
            for name, value in event.metrics.items():
                if event.step > self._last.get(name, -1):
                    self._last[name] = event.step
                    metrics.append(
                        {
                            "key": name,
                            "value": _number(value),
                            "timestamp": self._milliseconds(event.time),
                            "step": event.step,
                        }
                    )
        for part in _parts(metrics, _MOST_METRICS):
            self._need("runs/log-batch", {"run_id": self._record.id, "metrics": part})

    def close(self, ended: Ended) -> str:
        """See :class:`.asked.Tracker`."""
        end = {"run_id": self._record.id, "status": _STATUS[ended], "end_time": self._milliseconds(self._now())}
        self._need("runs/update", end)
        self._record.close(ended)
        return ""

    @staticmethod
    def _milliseconds(time: float) -> int:
        return round(time * 1000)

    def _need(self, what: str, content: Mapping[str, Any]) -> dict[str, Any]:
        return self._ask("POST", what, content) or {}

    def _ask(self, method: str, what: str, content: Mapping[str, Any], fine: str = "") -> dict[str, Any] | None:
        """Return the server's answer; None if it is the error `fine`.

        Raises:
            TrackerDownError: there is none, or the server has a fault.
            TrackerRefusesError: any other error.
        """
        given: Any = {"params": content} if method == "GET" else {"json": content}
        try:
            answer = self._client.request(method, what, **given)
        except (httpx2.HTTPError, OSError) as error:
            raise TrackerDownError(f"MLflow at {self._asked.url} does not answer ({why(error)})") from error
        if answer.status_code >= 500 or answer.status_code == 429:
            raise TrackerDownError(f"MLflow at {self._asked.url} answers with {answer.status_code}")
        data = _object(answer)
        if answer.is_success and data is not None:
            return data
        if fine and data is not None and data.get("error_code") == fine:
            return None
        raise _refusal(self._asked.url, answer, data)


def authorization(token: str) -> dict[str, str]:
    """Return the header for a token: ``user:password``, which a bearer token cannot look like, or a bearer token.

    Raises:
        TrackerRefusesError: it can be neither. The HTTP library would refuse it, too, and quote it.
    """
    if not token:
        return {}
    if ":" in token:
        return {"Authorization": f"Basic {base64.b64encode(token.encode()).decode()}"}
    if not (token.isascii() and token.isprintable()):
        raise TrackerRefusesError(
            "the token for MLflow is not one line of printable ASCII, and is not sent",
            "Put the token, and nothing else, into the Secret of `training.tracking.tokenSecretRef`.",
        )
    return {"Authorization": f"Bearer {token}"}


def _parts(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    return (items[start : start + size] for start in range(0, len(items), size))


def _number(value: float) -> float | str:
    """Return a number as JSON takes it: MLflow reads protocol buffers' names of those that JSON has not."""
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _object(answer: httpx2.Response) -> dict[str, Any] | None:
    try:
        data = answer.json()
    except ValueError:
        return None
    return data if isinstance(data, dict) else None


def why(error: Exception) -> str:
    """Return an error in a few words."""
    return f"{type(error).__name__}: {error}".rstrip(": ")[:200]


def _refusal(url: str, answer: httpx2.Response, data: Mapping[str, Any] | None) -> TrackerRefusesError:
    if answer.status_code in {401, 403}:
        return TrackerRefusesError(
            f"MLflow at {url} refuses access ({answer.status_code})",
            "Put a token that is valid there into the Secret of `training.tracking.tokenSecretRef`.",
        )
    said = str(data.get("message", "")) if data else ""
    return TrackerRefusesError(
        f"MLflow at {url} does not take the run ({answer.status_code}{': ' if said else ''}{said[:300]})",
        "See whether the address is that of an MLflow server, and `training.tracking.project` of an experiment there.",
    )
