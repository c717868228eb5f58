"""A token comes late, is wrong, and is rotated, while a job needs it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from e2e.cluster.jobs import small_job
from support.hub_pod import HubPod, hub_pod
from support.installed import Team, until
from support.rotating_hub import REPOSITORY, TOKENS
from tunesmith.api.keys import REFRESH_ANNOTATION, RETRY_ANNOTATION

JOB = "rotated"
SECRET = "tunesmith-hub"  # noqa: S105 - a name


@pytest.fixture
def hub(inputs: Team) -> Iterator[HubPod]:
    """Yield a hub that refuses its first token in the middle of the first download."""
    with hub_pod(inputs.cluster) as running:
        yield running
        inputs.delete(JOB)
        inputs.cluster.kubectl("delete", "secret", SECRET, "--namespace", inputs.namespace)


def test_the_next_pod_has_the_new_token(inputs: Team, hub: HubPod) -> None:
    """A missing Secret is waited for, a refused token told; a rotated one continues the download and moves no key."""
    job = small_job(JOB)
    source = {"repo": REPOSITORY, "tokenSecretRef": {"name": SECRET}}
    columns = job["spec"]["datasets"][0]["columns"]
    job["spec"] |= {"dryRun": True, "datasets": [{"name": "faq", "huggingFace": source, "columns": columns}]}
    inputs.apply(job)
    assert SECRET in inputs.wait_for(JOB, "SecretNotFound", timeout=300)

    set_token(inputs, "hf-wrong")  # the kubelet sees it by itself
    require_refused(inputs, hub, "hf-wrong", 0)

    set_token(inputs, TOKENS[0])
    annotate(inputs, RETRY_ANNOTATION, "1")
    require_refused(inputs, hub, TOKENS[0], hub.size // 2)

    set_token(inputs, TOKENS[1])
    annotate(inputs, RETRY_ANNOTATION, "2")
    inputs.wait_for(JOB, "DryRunSucceeded", timeout=600)
    done = hub.downloads()
    assert [(item.token, item.first) for item in done if not item.refused] == [
        (TOKENS[0], 0),
        (TOKENS[1], hub.size // 2),
    ], "one download, in two parts"

    before = inputs.job(JOB)
    set_token(inputs, "hf-of-wednesday")
    annotate(inputs, REFRESH_ANNOTATION, "1")
    until(lambda: looked_up_again(inputs, before), 300, lambda: f"not looked up: {inputs.ready(JOB)}")
    assert hub.asked()[-1].token == "hf-of-wednesday"  # noqa: S105 - of nobody
    assert hub.downloads() == done
    after = inputs.job(JOB)
    for name in ("fetch", "prepare", "rehearse"):
        assert stage_of(after, name)["keys"] == stage_of(before, name)["keys"]
    for name in ("prepare", "rehearse"):
        assert stage_of(after, name)["job"] == stage_of(before, name)["job"], f"{name} was made again"
    assert after["metadata"]["generation"] == 1, "nobody edited the job"


def set_token(team: Team, token: str) -> None:
    """Put a token into the Secret, as whoever rotates it does."""
    meta = {"name": SECRET, "namespace": team.namespace}
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": meta, "stringData": {"token": token}}
    team.cluster.kubectl("apply", "--filename=-", objects=secret)


def require_refused(team: Team, hub: HubPod, token: str, first: int) -> None:
    """Wait until the job stalls because the hub refused a token at a byte of the file."""

    def refused() -> bool:
        last = hub.downloads()[-1:]
        return [(item.token, item.first, item.refused) for item in last] == [(token, first, True)]

    until(lambda: refused() and team.stalled(JOB), 300, lambda: f"not refused: {team.ready(JOB)}, {hub.asked()}")
    _, reason, message = team.ready(JOB)
    assert reason == "HubAccessDenied"
    assert "refuses access with the token that was given (HTTP 403)" in message
    assert token not in str(team.job(JOB)["status"])


def annotate(team: Team, name: str, value: str) -> None:
    """Ask for another try, or for another look, and wait until the operator has heard."""
    team.cluster.kubectl(
        "annotate", "finetunejob", JOB, f"{name}={value}", "--overwrite", "--namespace", team.namespace
    )
    field = name.rpartition("/")[2]
    until(lambda: team.job(JOB)["status"].get(field) == value, 60, lambda: f"not heard: {team.ready(JOB)}")


def looked_up_again(team: Team, before: dict[str, Any]) -> bool:
    """Tell whether the job has fetched anew, and is done again."""
    anew = stage_of(team.job(JOB), "fetch")["job"] != stage_of(before, "fetch")["job"]
    return anew and team.ready(JOB)[1] == "DryRunSucceeded"


def stage_of(job: dict[str, Any], name: str) -> dict[str, Any]:
    """Return what a status says of a stage."""
    found: dict[str, Any] = next(item for item in job["status"]["stages"] if item["name"] == name)
    return found
