"""What is read of what a job needs, from FineTuneJobs of any shape."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from support.made_volume import applied, carried_out_on, observed
from tunesmith.api.finetunejob import FineTuneJob
from tunesmith.core.needs import needs_of, needs_of_run
from tunesmith_stages.contract import StageName
from tunesmith_stages.volume import Volume


@pytest.fixture
def done(tmp_path: Path) -> dict[str, Any]:
    """Return a FineTuneJob that ended well."""
    volume = Volume(tmp_path)
    carried_out_on(volume, FineTuneJob.model_validate({**applied(), "metadata": {"name": "support-bot"}}))
    return observed(applied(), volume)


def test_a_finished_job(done: dict[str, Any]) -> None:
    """Of a job that ended well every key is known, and where its sources lie."""
    needs = needs_of(done)
    assert (needs.seen, needs.finished, needs.registered, needs.base) == (True, True, True, "")
    assert all(needs.keys[stage] for stage in StageName)
    assert {path.split("/")[1] for path in needs.paths if path.startswith("store/")} == {"models", "datasets"}


UNFINISHED = {
    "edited since": {"metadata": {"generation": 2}},
    "its sources are to be looked at again": {"metadata": {"annotations": {"tunesmith.dev/refresh": "1"}}},
    "it has no conditions": {"status": {"conditions": None}},
    "a Job is at work": {"status": {"stages": [{"name": "train", "state": "Running", "job": "x-train-1"}]}},
}


@pytest.mark.parametrize("change", UNFINISHED.values(), ids=UNFINISHED)
def test_an_unfinished_job(done: dict[str, Any], change: dict[str, dict[str, Any]]) -> None:
    """A job whose status is not of now is not finished: not all that it needs is known."""
    item = {**done, **{part: {**done[part], **new} for part, new in change.items()}}
    needs = needs_of(item)
    assert not needs.finished
    assert not needs.registered


ODD: dict[str, Any] = {
    "nothing": {},
    "no status": applied(),
    "an empty status": {**applied(), "status": {}},
    "a status that the API server gives": {**applied(), "status": {"observedGeneration": -1}},
    "a status that is a text": {**applied(), "status": "lost"},
    "stages that are numbers": {**applied(), "status": {"stages": [1, None], "conditions": ["x"]}},
    "a spec that is a list": {**applied(), "spec": []},
}


@pytest.mark.parametrize("item", ODD.values(), ids=ODD)
def test_odd_objects(item: dict[str, Any]) -> None:
    """Reading never fails; what nobody has looked at is neither seen nor finished."""
    needs = needs_of(item)
    assert (needs.seen, needs.finished) == (False, False)


@pytest.mark.parametrize(
    "said", ["forever", {"keepVersions": "2"}, {"keepVersions": True}, {"keepIntermediates": 1}, []], ids=str
)
def test_a_retention_that_makes_no_sense(said: object) -> None:
    """A retention that cannot be read keeps everything."""
    needs = needs_of({**applied(), "spec": {"storage": {"retention": said}}})
    assert needs.keep_intermediates
    assert needs.keep_versions > 1000


def test_a_base_that_is_not_taken_over_yet(done: dict[str, Any]) -> None:
    """A job that goes on from another one needs what that has trained, until it has it in the store."""
    spec = {**done["spec"], "model": {"job": {"name": "first"}}}
    assert needs_of({**done, "spec": spec, "status": {}}).base == "first"
    assert needs_of({**done, "spec": spec}).base == ""


def test_a_run() -> None:
    """A run of this machine needs the keys that it wrote down; without any it has not been looked at yet."""
    spec = {"model": {"volume": {"path": "./stages//train/x/out"}}, "storage": {"retention": {"keepVersions": 3}}}
    needs = needs_of_run("a", {"stages": {"train": {"train": "k"}}}, spec, registered=True)
    assert needs.keys[StageName.TRAIN] == {"k"}
    assert needs.paths == {"stages/train/x/out"}
    assert (needs.finished, needs.keep_versions) == (True, 3)
    assert not needs_of_run("a", {}, spec, registered=False).seen
