"""The process that shows a training in a tracker, with W&B's own client, and trackers that do not do as they should."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import FrameType

import psutil
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from support.https_server import own_authority
from support.tracker_servers import MlflowServer, TrackerServer, WandbServer
from support.tracking import PATIENCE, TOKEN, asked, followed, numbers, tokens_below
from support.training import alive, children, wait_for
from tunesmith_stages.failures import InterruptedStage
from tunesmith_stages.track.asked import TOKEN_VARIABLE, Ended, TrackerType
from tunesmith_stages.track.wandb_file import history, last_step
from tunesmith_stages.train.tracking import Tracking

MLFLOW, WANDB = TrackerType.MLFLOW, TrackerType.WEIGHTS_AND_BIASES
STEPS_WITH_EVALUATION = [*range(1, 11)]


@pytest.fixture(autouse=True)
def token(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give the token as a pod has it, and a key of the user's own that must not be taken then."""
    monkeypatch.setenv(TOKEN_VARIABLE, TOKEN)
    monkeypatch.setenv("WANDB_API_KEY", "another-key")
    monkeypatch.setenv("WANDB_PROJECT", "another-project")


def check_silent_end(notes: list[str], *parts: str) -> None:
    """Check that people were told these things, one note each, and nothing else."""
    assert len(notes) == len(parts), notes
    for note, part in zip(notes, parts, strict=True):
        assert part in note
        assert TOKEN not in note


# --- trackers that work ----------------------------------------------------------------------------------------------


def test_tensorboard_reads_what_an_interrupted_training_wrote(tmp_path: Path) -> None:
    """TensorBoard's own reader finds each step once, although the training went back and did some again."""
    given = asked(tmp_path, TrackerType.TENSORBOARD)
    with followed(given, Ended.INTERRUPTED) as one:
        one.steps(1, 7)
        one.wait_for_note("tensorboard --logdir")
    given.metrics.unlink()
    with followed(given) as other:
        other.steps(1, 4)  # the record up to its checkpoint, and on
        other.steps(5, 10)
    (file,) = given.folder.glob("*tfevents*")
    read = EventAccumulator(str(file))
    read.Reload()
    assert [event.step for event in read.Scalars("loss")] == STEPS_WITH_EVALUATION
    assert [event.value for event in read.Scalars("loss")] == pytest.approx([1 / step for step in range(1, 11)])
    assert [(event.step, event.value) for event in read.Scalars("evalLoss")] == [
        (5, pytest.approx(0.4)),
        (10, pytest.approx(0.2)),
    ]
    (text,) = read.Tensors("training")[0].tensor_proto.string_val
    assert b"| lora.rank | 16 |" in text
    assert b"| model | huggingFace acme/base main |" in text


def test_wandb_gets_each_step_once_over_two_attempts(tmp_path: Path) -> None:
    """A training that goes on goes on with its run; settings and figures are there, and nothing else is sent."""
    server = WandbServer(TOKEN)
    given = asked(tmp_path, WANDB, server.url)
    with server.running():
        with followed(given, Ended.INTERRUPTED) as one:
            one.steps(1, 7)
        given.metrics.unlink()
        with followed(given) as other:
            other.steps(1, 10)
    ((id_, run),) = server.runs.items()
    rows = server.history(id_)
    assert [row["_step"] for row in rows] == STEPS_WITH_EVALUATION
    assert numbers(rows[4]) == pytest.approx({"epoch": 0.5, "loss": 0.2, "learningRate": 1e-4, "evalLoss": 0.4})
    assert run["name"] == "support-bot"
    assert '"lora.rank":{"value":"16"}' in run["config"]
    assert run["exit"] == 0
    check_silent_end(one.notes + other.notes, f"/team/bots/runs/{id_}", f"/team/bots/runs/{id_}")
    paths = {path for path, _ in server.asked}
    assert paths == {"/graphql", f"/files/team/bots/{id_}/file_stream", "/upload"}, "nothing is reported to its makers"
    assert not tokens_below(tmp_path)


def test_mlflow_gets_each_step_once_over_two_attempts(tmp_path: Path) -> None:
    """A training that goes on goes on with its run, which ends as the training does."""
    server = MlflowServer(f"Bearer {TOKEN}")
    given = asked(tmp_path, MLFLOW, server.url)
    with server.running():
        with followed(given, Ended.INTERRUPTED) as one:
            one.steps(1, 7)
        assert server.runs["run1"]["info"]["status"] == "KILLED"
        given.metrics.unlink()
        with followed(given) as other:
            other.steps(1, 10)
    (run,) = server.runs.values()
    assert [step for name, step, _ in run["history"] if name == "loss"] == STEPS_WITH_EVALUATION
    assert [step for name, step, _ in run["history"] if name == "evalLoss"] == [5, 10]
    assert run["params"] == {"learningRate": "0.0001", "lora.rank": "16"}
    assert run["info"]["status"] == "FINISHED"
    assert not tokens_below(tmp_path)


@pytest.mark.parametrize("server", [MlflowServer(), WandbServer(TOKEN)], ids=["MLflow", "W&B"])
def test_certificates_of_the_administrator_are_trusted(
    tmp_path: Path, server: TrackerServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are where `train` has put them for all that it starts; without them the server is told of as down."""
    context, authority = own_authority(tmp_path)
    server.secure(context)
    type_ = MLFLOW if isinstance(server, MlflowServer) else WANDB
    with server.running():
        with followed(asked(tmp_path, type_, server.url)) as run:
            run.wait_for_note("CERTIFICATE_VERIFY_FAILED")
        monkeypatch.setenv("SSL_CERT_FILE", str(authority))
        with followed(asked(tmp_path, type_, server.url, project="team/other")) as run:
            run.steps(1, 3)
    check_silent_end(run.notes, server.url)
    assert len(server.runs) == 1


# --- trackers that do not --------------------------------------------------------------------------------------------


def test_wandb_without_an_address_keeps_a_folder_that_wandb_sync_takes(tmp_path: Path) -> None:
    """Nothing leaves the machine; later `wandb sync` sends what both attempts kept, each step once."""
    given = asked(tmp_path, WANDB)
    with followed(given, Ended.INTERRUPTED) as one:
        one.steps(1, 7)
    given.metrics.unlink()
    with followed(given) as other:
        other.steps(1, 10)
    check_silent_end(one.notes + other.notes, "no W&B server is set up", "no W&B server is set up")
    folders = sorted((given.folder / "wandb").glob("offline-run-*"))
    steps = [[step for step, _ in history(next(folder.glob("*.wandb")))] for folder in folders]
    assert steps == [[1, 2, 3, 4, 5, 6, 7], [8, 9, 10]]
    assert last_step(given.folder / "wandb", folders[0].name.rpartition("-")[2]) == 10
    server = WandbServer(TOKEN)
    with server.running():
        sync(server, tmp_path, *folders)
    ((id_, _),) = server.runs.items()
    assert [row["_step"] for row in server.history(id_)] == STEPS_WITH_EVALUATION
    assert numbers(server.history(id_)[4])["evalLoss"] == pytest.approx(0.4)


def sync(server: TrackerServer, folder: Path, *runs: Path) -> None:
    """Send runs that were kept, by W&B's own command."""
    places = dict.fromkeys(("WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR"), str(folder / "scratch"))
    environ = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    environ |= {"WANDB_BASE_URL": server.url, "WANDB_API_KEY": TOKEN, "WANDB_ERROR_REPORTING": "false", **places}
    command = [sys.executable, "-m", "wandb", "sync", "--yes", *map(str, runs)]
    subprocess.run(command, check=True, cwd=folder, env=environ, timeout=600, capture_output=True)


@pytest.mark.parametrize(
    ("broken", "words"), [(401, "refuses the token"), (500, "answers with 500"), ("gone", "does not answer")]
)
def test_a_wandb_server_that_does_not_take_the_run(tmp_path: Path, broken: int | str, words: str) -> None:
    """One note says why and what to do; the run is kept on the volume."""
    server = WandbServer(TOKEN)
    server.broken = broken
    with server.running(), followed(asked(tmp_path, WANDB, server.url)) as run:
        run.steps(1, 3)
    check_silent_end(run.notes, words)
    assert "wandb sync" in run.notes[0]
    (kept,) = (tmp_path / "tracking" / "wandb").glob("offline-run-*/*.wandb")
    assert [step for step, _ in history(kept)] == [1, 2, 3]
    assert not tokens_below(tmp_path)


def test_a_wandb_server_that_dies_in_the_middle(tmp_path: Path) -> None:
    """What it did not take is in the run's folder, and the end of the training waits for it only as long as it may."""
    server = WandbServer(TOKEN)
    given = asked(tmp_path, WANDB, server.url)

    def kept() -> int:
        files = given.folder.glob("wandb/run-*/*.wandb")
        return max((step for file in files for step, _ in history(file)), default=0)

    with server.running():
        with followed(given, seconds=3.0) as run:
            run.steps(1, 3)
            run.wait_for_note("W&B:")
            server.broken = 500
            run.steps(4, 9)
            patience = time.monotonic() + 20
            while kept() < 8 and time.monotonic() < patience:  # what W&B's library holds back, it writes every second
                time.sleep(0.1)
            began = time.monotonic()
        assert time.monotonic() - began < 15
    assert "3 s" in run.notes[-1]
    assert kept() >= 8, "the last row is open until its step is over"


def test_mlflow_is_told_the_rest_when_it_is_back(tmp_path: Path) -> None:
    """A server that is down for a while gets everything, each step once; people are told of both, once."""
    server = MlflowServer()
    server.broken = "gone"
    with server.running(), followed(asked(tmp_path, MLFLOW, server.url)) as run:
        run.steps(1, 3)
        run.wait_for_note("does not answer")
        run.steps(4, 5)
        server.broken = ""
        run.wait_for_note("takes everything again")
        run.steps(6, 10)
    assert [step for name, step, _ in server.runs["run1"]["history"] if name == "loss"] == STEPS_WITH_EVALUATION
    assert len(run.notes) == 3, run.notes


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        (401, ["refuses access (401); the training goes on without"]),
        (404, ["does not take the run (404); the training goes on without"]),
        (503, ["answers with 503; the training goes on", "all of it stays in metrics.jsonl"]),
        ("gone", ["does not answer", "all of it stays in metrics.jsonl"]),
    ],
)
def test_an_mlflow_server_that_does_not_take_the_run(tmp_path: Path, broken: int | str, words: list[str]) -> None:
    """It is said what is wrong, once, and at the end what that means."""
    server = MlflowServer()
    server.broken = broken
    with server.running(), followed(asked(tmp_path, MLFLOW, server.url)) as run:
        run.steps(1, 3)
        run.wait_for_note(words[0])
    check_silent_end(run.notes, *words)


def test_a_server_that_never_answers_is_waited_for_only_so_long(tmp_path: Path) -> None:
    """The end of the training is not held up, and the process is gone."""
    server = MlflowServer()
    server.broken = "silent"
    with server.running():
        with followed(asked(tmp_path, MLFLOW, server.url), seconds=1.0) as run:
            run.steps(1, 3)
            run.wait_for(lambda: server.asked)
            began = time.monotonic()
        assert time.monotonic() - began < 15
        assert not children(os.getpid())
        server.broken = ""
    check_silent_end(run.notes, "did not take everything within 1 s")


def test_a_process_that_is_killed_is_told_of_once(tmp_path: Path) -> None:
    """Nothing else comes of it."""
    with followed(asked(tmp_path, TrackerType.TENSORBOARD)) as run:
        run.wait_for_note("tensorboard")
        os.kill(children(os.getpid())[-1], signal.SIGKILL)
        run.wait_for_note("its process ended (exit code -9)")
        for _ in range(3):
            run.tracking.hear()
    assert len(run.notes) == 2


def test_a_process_that_hangs_is_killed_with_all_that_it_started(tmp_path: Path) -> None:
    """W&B's library has a program of its own, which must not stay behind."""
    with followed(asked(tmp_path, WANDB), seconds=1.0) as run:
        run.steps(1, 3)
        run.wait_for_note("wandb sync")
        process = psutil.Process(children(os.getpid())[-1])
        below = process.children(recursive=True)
        process.suspend()
    assert below
    assert not alive(process.pid)
    wait_for(lambda: not any(alive(other.pid) for other in below))  # Linux needs a moment for what was killed
    assert "did not take everything within 1 s" in run.notes[-1]


def test_who_is_asked_to_end_waits_for_no_tracker(tmp_path: Path) -> None:
    """The training has come to its end by then: what it came to must not be lost for a tracker's sake."""

    def stopped(_number: int, _frame: FrameType | None) -> None:
        raise InterruptedStage("stopped by SIGTERM")

    before = signal.signal(signal.SIGTERM, stopped)
    began = time.monotonic()
    try:
        with followed(asked(tmp_path, TrackerType.TENSORBOARD)) as run:
            run.wait_for_note("tensorboard")
            psutil.Process(children(os.getpid())[-1]).suspend()
            threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGTERM)).start()
            began = time.monotonic()
    finally:
        signal.signal(signal.SIGTERM, before)
    assert time.monotonic() - began < PATIENCE / 2
    assert not children(os.getpid())
    assert "asked to end" in run.notes[-1]


def test_a_note_that_cannot_be_kept_ends_no_training(tmp_path: Path) -> None:
    """A full volume is told of by those whose work needs room on it."""
    told: list[str] = []

    def full(text: str) -> None:
        told.append(text)
        raise OSError(errno.ENOSPC, "No space left on device")

    given = asked(tmp_path, TrackerType.TENSORBOARD)
    given.metrics.touch()
    tracking = Tracking(full)
    tracking.begin(given)
    end = time.monotonic() + PATIENCE
    while not told:
        assert time.monotonic() < end
        tracking.hear()
        time.sleep(0.02)
    tracking.end(Ended.WELL, PATIENCE)
    assert not children(os.getpid())


def test_nothing_of_the_token_can_be_seen_from_outside(tmp_path: Path) -> None:
    """Neither arguments nor files hold it, nor does the environment of what W&B's library starts."""
    server = WandbServer(TOKEN)
    with server.running(), followed(asked(tmp_path, WANDB, server.url)) as run:
        run.steps(1, 3)
        run.wait_for_note("W&B:")
        process = psutil.Process(children(os.getpid())[-1])
        assert all(TOKEN not in " ".join(other.cmdline()) for other in [process, *process.children(recursive=True)])
        assert all(TOKEN not in other.environ().values() for other in process.children(recursive=True))
    assert not tokens_below(tmp_path)
