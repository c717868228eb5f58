from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tunesmith_stages.contract import ExitCode, Failure, StageName
from tunesmith_stages.volume import Volume

TRAINED = ("train", "support-bot-train-0a1b2c3d-1-xyz")
RETRIED = ("train", "support-bot-train-0a1b2c3d-2-abc")
LOCAL = ("prepare", "20260101T000000000000-42")


@pytest.fixture
def volume(tmp_path: Path) -> Volume:
    """Return a volume with the logs of four tries, one of them on two nodes, and one that failed."""
    volume = Volume(tmp_path / "volume")
    logs = volume.logs("support-bot")
    logs.mkdir(parents=True)
    for age, (stage, attempt, node) in enumerate(
        ((*RETRIED, 1), (*RETRIED, 0), (*TRAINED, 0), (*LOCAL, 0), ("fetch", "1", 0))
    ):
        path = volume.log("support-bot", StageName(stage), attempt, node)
        path.write_bytes(f"{stage} {attempt} begins\nröws".encode() + f"\xff\nends on {node}\n".encode("latin-1"))
        os.utime(path, (1_700_000_000 - 60 * age,) * 2)
    failed = volume.attempt(StageName.TRAIN, "k" * 64, TRAINED[1])
    failed.mkdir(parents=True)
    (failed / "failure.json").write_text(Failure(ExitCode.OUT_OF_MEMORY, "OutOfMemory", "no memory", "Wait.").to_json())
    (logs / "notes.txt").write_text("not a log")
    (logs / "evaluate.1.log").write_text("of no stage")
    return volume


def run(volume: Volume, *options: str, job: str = "support-bot") -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "tunesmith_stages.logs", "--volume", str(volume.root), "--job", job, *options]
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.run(argv, capture_output=True, text=True, errors="replace", check=False, env=environ)


def test_all_logs_in_their_order(volume: Volume) -> None:
    """Without a choice everything that was kept is printed, the oldest first, each under its name."""
    done = run(volume)
    assert done.returncode == ExitCode.OK
    titles = [line for line in done.stdout.splitlines() if line.startswith("==>")]
    wanted = ["fetch 1", " ".join(LOCAL), " ".join(TRAINED), " ".join(RETRIED), f"{' '.join(RETRIED)} node 1"]
    assert titles == [f"==> {title} <==" for title in wanted]
    assert done.stdout.count("röws\ufffd") == 5


CHOICES: dict[str, tuple[list[str], str]] = {
    "a stage": (["--stage", "fetch"], "fetch 1 begins\nröws\ufffd\nends on 0\n"),
    "an attempt": (["--attempt", TRAINED[1]], f"train {TRAINED[1]} begins\nröws\ufffd\nends on 0\n"),
    "the attempts of a Job": (
        ["--attempt", "support-bot-train-0a1b2c3d-1"],
        f"train {TRAINED[1]} begins\nröws\ufffd\nends on 0\n",
    ),
    "the end": (["--stage", "fetch", "--tail", "1"], "ends on 0\n"),
    "more than there is": (["--stage", "fetch", "--tail", "100"], "fetch 1 begins\nröws\ufffd\nends on 0\n"),
    "the end on every node": (
        ["--attempt", RETRIED[1], "--tail", "1"],
        f"==> train {RETRIED[1]} <==\nends on 0\n==> train {RETRIED[1]} node 1 <==\nends on 1\n",
    ),
}


@pytest.mark.parametrize("name", CHOICES)
def test_logs_are_chosen(volume: Volume, name: str) -> None:
    """One log is printed as it is; of several each has its name above it."""
    options, wanted = CHOICES[name]
    assert run(volume, *options).stdout == wanted


def test_logs_are_listed(volume: Volume) -> None:
    """The list tells stage, attempt, node, time, size, and why an attempt failed."""
    lines = [line.split() for line in run(volume, "--list").stdout.splitlines()]
    assert lines[0] == ["STAGE", "ATTEMPT", "NODE", "LAST", "WRITTEN", "BYTES", "FAILURE"]
    size = str(volume.log("support-bot", StageName.TRAIN, TRAINED[1]).stat().st_size)
    assert lines[3] == [*TRAINED, "0", "2023-11-14T22:11:20Z", size, "OutOfMemory"]
    assert [line[-1] for line in lines[1:]] == ["-", "-", "OutOfMemory", "-", "-"]


NOTHING: dict[str, tuple[list[str], str]] = {
    "a job that is not there": ([], "no-such-job"),
    "a stage that did not run": (["--stage", "convert"], "support-bot"),
    "an attempt that was not": (["--attempt", "3"], "support-bot"),
}


@pytest.mark.parametrize("name", NOTHING)
def test_no_log(volume: Volume, name: str) -> None:
    """That there is none is said in a sentence."""
    options, job = NOTHING[name]
    done = run(volume, *options, job=job)
    assert done.returncode == ExitCode.MISSING_INPUT
    assert done.stderr.startswith("LogNotFound: no log")
    assert job in done.stderr


def test_no_volume(tmp_path: Path) -> None:
    """A volume that is not there is told apart from a job without logs."""
    done = run(Volume(tmp_path / "no such folder"))
    assert done.returncode == ExitCode.BAD_CONFIG
    assert "VolumeNotFound" in done.stderr


@pytest.mark.parametrize("name", ["..", ".", "", "a/b", "/etc", "-x", "a\nb"])
def test_names_lead_nowhere_else(volume: Volume, name: str) -> None:
    """Names of jobs and attempts are parts of a path, never paths."""
    assert run(volume, job=name).returncode == 2
    assert run(volume, f"--attempt={name}").returncode == 2


ESCAPES = {
    "the folder of the logs": "runs/other/logs",
    "the job's folder": "runs/other",
    "a log": "runs/other/logs/train.1.log",
}


@pytest.mark.parametrize("name", ESCAPES)
def test_links_out_of_the_volume_are_refused(volume: Volume, tmp_path: Path, name: str) -> None:
    """A link on the volume does not make the program print what lies outside."""
    (tmp_path / "outside" / "logs").mkdir(parents=True)
    for place in ("outside/logs/train.1.log", "outside/train.1.log", "secret"):
        (tmp_path / place).write_text("secret")
    link = volume.root / ESCAPES[name]
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(tmp_path / {"a log": "secret", "the job's folder": "outside"}.get(name, "outside/logs"))
    for options in ([], ["--list"]):
        done = run(volume, *options, job="other")
        assert done.returncode == ExitCode.BAD_CONFIG
        assert "UnsafePath" in done.stderr
        assert "secret" not in done.stdout


def test_reader_that_has_seen_enough(volume: Volume) -> None:
    """A pipe that is closed early, as by `head`, is no error."""
    volume.log("support-bot", StageName.FETCH, "1").write_text("x\n" * 1_000_000)
    command = f"'{sys.executable}' -m tunesmith_stages.logs --volume '{volume.root}' --job support-bot | head -n 1"
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False, env=environ)
    assert len(done.stdout.splitlines()) == 1
    assert done.stderr == ""


def test_nothing_is_written(volume: Volume) -> None:
    """The volume is as it was afterwards."""
    before = sorted((path, path.stat().st_mtime_ns) for path in volume.root.rglob("*"))
    run(volume)
    run(volume, "--list")
    assert sorted((path, path.stat().st_mtime_ns) for path in volume.root.rglob("*")) == before
