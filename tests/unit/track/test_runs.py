"""The run of a training: which one it is, and with which token."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.tracker_servers import MlflowServer
from support.tracking import asked
from tunesmith_stages.track.__main__ import one_line, take_token
from tunesmith_stages.track.asked import Asked, Ended, Event, TrackerDownError, TrackerRefusesError, TrackerType
from tunesmith_stages.track.mlflow import MlflowRun, authorization
from tunesmith_stages.track.run_record import RunRecord

MLFLOW, WANDB, BOARD = TrackerType.MLFLOW, TrackerType.WEIGHTS_AND_BIASES, TrackerType.TENSORBOARD


def test_what_is_asked_travels_as_it_is(tmp_path: Path) -> None:
    """It comes out of its argument as it went in."""
    given = asked(tmp_path, WANDB, "https://wandb.example.test")
    assert Asked.from_json(given.to_json()) == given


def test_a_training_that_goes_on_goes_on_with_its_run(tmp_path: Path) -> None:
    """Interrupted or failed, it does; after one that ended well, or elsewhere, another run begins."""
    here = asked(tmp_path, WANDB, "https://a")
    first = RunRecord.of(here).begun()
    for ended in (Ended.INTERRUPTED, Ended.FAILED):
        first.close(ended)
        assert RunRecord.of(here).id == first.id
    for elsewhere in (
        asked(tmp_path, MLFLOW, "https://a"),
        asked(tmp_path, WANDB, "https://b"),
        asked(tmp_path, WANDB, "https://a", project="other"),
    ):
        assert RunRecord.of(elsewhere).id == ""
    first.close(Ended.WELL)
    assert RunRecord.of(here).id == ""


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"place": 1}', "\0"])
def test_a_record_that_cannot_be_read_is_none(tmp_path: Path, content: str) -> None:
    """Another run begins then."""
    given = asked(tmp_path, WANDB)
    given.folder.mkdir()
    (given.folder / "run.json").write_text(content)
    assert RunRecord.of(given).id == ""


@pytest.mark.parametrize(
    ("type_", "environ", "token"),
    [
        (WANDB, {"TUNESMITH_TRACKING_TOKEN": "pod\n", "WANDB_API_KEY": "own"}, "pod"),
        (WANDB, {"WANDB_API_KEY": "own", "MLFLOW_TRACKING_TOKEN": "other"}, "own"),
        (MLFLOW, {"WANDB_API_KEY": "other", "MLFLOW_TRACKING_TOKEN": "own"}, "own"),
        (MLFLOW, {"MLFLOW_TRACKING_USERNAME": "me", "MLFLOW_TRACKING_PASSWORD": "pass"}, "me:pass"),
        (MLFLOW, {"MLFLOW_TRACKING_USERNAME": "me", "MLFLOW_TRACKING_TOKEN": "own"}, "own"),
        (BOARD, {"WANDB_API_KEY": "other"}, ""),
    ],
)
def test_the_token(type_: TrackerType, environ: dict[str, str], token: str) -> None:
    """The pod's goes before people's own, which are the tracker's own variables; nobody else sees any of them."""
    environ = {**environ, "PATH": "/bin"}
    assert take_token(environ, type_) == token
    assert environ.keys() <= {"PATH", "MLFLOW_TRACKING_USERNAME"}


@pytest.mark.parametrize(
    ("token", "header"),
    [("", {}), ("abc", {"Authorization": "Bearer abc"}), ("me:pass", {"Authorization": "Basic bWU6cGFzcw=="})],
)
def test_how_mlflow_is_told_who_asks(token: str, header: dict[str, str]) -> None:
    """A token is a bearer token; user and password are what they are."""
    assert authorization(token) == header


def test_what_a_server_says_is_one_harmless_line() -> None:
    """A note is read in terminals."""
    assert one_line("MLflow does not take it: \x1b]0;gone\x07\r\n  no \u00e4 in it\n") == (
        "MLflow does not take it: ]0;gone no \u00e4 in it"
    )


@pytest.mark.parametrize("token", ["se1\ncret", "se1\0cret", "se1cr\u00e9t"])
def test_a_token_that_fits_no_header_is_told_of_and_not_quoted(tmp_path: Path, token: str) -> None:
    """The HTTP library would quote it in its error, and so in a note, the log and the status."""
    server = MlflowServer()
    with server.running(), pytest.raises(TrackerRefusesError, match="not one line of printable ASCII") as refused:
        MlflowRun(asked(tmp_path, MLFLOW, server.url), token).open()
    assert token[:3] not in f"{refused.value} {refused.value.hint}"
    assert not server.asked


# --- MLflow ----------------------------------------------------------------------------------------------------------


def test_mlflow_gets_many_in_parts_of_what_it_takes(tmp_path: Path) -> None:
    """A server takes 1,000 metrics and 100 parameters at once; numbers that JSON has not travel as their names."""
    server = MlflowServer()
    given = asked(tmp_path, MLFLOW, server.url, params={f"p{number}": "x" * 9000 for number in range(150)} | {"no": ""})
    with server.running():
        run = MlflowRun(given, "")
        run.open()
        run.send([Event(step, 1.0, {"loss": 1.0}) for step in range(1, 1501)])
        run.send([Event(1501, 1.0, {"loss": float("nan"), "a": float("inf"), "b": float("-inf")})])
    batches = [content for path, content in server.asked if path.endswith("log-batch")]
    sizes = [(len(batch.get("params", ())), len(batch.get("metrics", ()))) for batch in batches]
    assert sizes == [(100, 0), (50, 0), (0, 1000), (0, 500), (0, 3)]
    (kept,) = server.runs.values()
    assert {len(value) for value in kept["params"].values()} == {6000}
    assert [value for _, step, value in kept["history"] if step == 1501] == ["NaN", "Infinity", "-Infinity"]


def test_mlflow_has_what_it_took_before_it_broke_off(tmp_path: Path) -> None:
    """After an error the run is looked up again, so what had arrived does not come twice."""
    server = MlflowServer()
    events = [Event(step, 1.0, {"loss": 1.0}) for step in range(1, 6)]
    with server.running():
        run = MlflowRun(asked(tmp_path, MLFLOW, server.url), "")
        run.open()
        run.send(events[:3])
        server.broken = "gone"
        with pytest.raises(TrackerDownError, match="does not answer"):
            run.send(events)
        server.broken = ""
        run.open()
        run.send(events)
    assert [step for _, step, _ in server.runs["run1"]["history"]] == [1, 2, 3, 4, 5]


def test_a_run_that_somebody_deleted_is_begun_anew(tmp_path: Path) -> None:
    """What was kept of it is of no use then."""
    server = MlflowServer()
    with server.running():
        MlflowRun(asked(tmp_path, MLFLOW, server.url), "").open()
        server.runs["run1"]["info"]["lifecycle_stage"] = "deleted"
        assert MlflowRun(asked(tmp_path, MLFLOW, server.url), "").open().endswith("/runs/run2")
        server.runs.clear()
        assert MlflowRun(asked(tmp_path, MLFLOW, server.url), "").open().endswith("/runs/run1")


def test_what_is_no_mlflow_is_told_from_one_that_is_down(tmp_path: Path) -> None:
    """An answer that makes no sense will not get better."""
    server = MlflowServer()
    server.broken = 204
    with server.running(), pytest.raises(TrackerRefusesError, match="does not take the run") as refused:
        MlflowRun(asked(tmp_path, MLFLOW, server.url), "").open()
    assert "address" in refused.value.hint
