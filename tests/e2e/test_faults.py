"""A full disk and kill -9, in every stage: nothing half-made is left, and the same command goes on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.disks import small_disk
from support.jobs import FOUR_STEPS, KEYED, Job, quickstart_volume
from support.ollama_server import OllamaServer
from tunesmith_stages.contract import ExitCode, StageName
from tunesmith_stages.volume import Volume

pytestmark = pytest.mark.e2e

# Bytes that are left on the full disk: enough to begin, not to end.
_SPARE = {StageName.PREPARE: 24 * 1024, StageName.REGISTER: 12 * 1024}


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """Yield a file system of 128 MiB of its own."""
    with small_disk(tmp_path / "disk", "128m") as folder:
        yield folder


def test_full_disk(disk: Path, toy_base: Path, newest_ollama: OllamaServer) -> None:
    """A stage that finds no space says so by its exit code and publishes nothing; with space again it goes on."""
    job = Job(quickstart_volume(disk, toy_base), newest_ollama.url, name="full-disk", training=FOUR_STEPS)
    ballast = disk / "ballast"
    for stage in KEYED:
        before = job.results()
        assert job.file.exists()  # written while there is space
        free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
        ballast.write_bytes(b"\0" * max(0, free - _SPARE.get(stage, 128 * 1024)))
        printed = job.run("--until", stage, code=ExitCode.NO_SPACE)
        assert "NoSpace" in printed or "No space left on device" in printed
        assert "Traceback" not in printed
        assert job.results().keys() == before.keys()
        ballast.unlink()
        job.run("--until", stage)
        assert any(name.startswith(f"{stage}/") for name in job.results())


def test_killed_anywhere(tmp_path: Path, toy_base: Path, newest_ollama: OllamaServer) -> None:
    """Whoever is killed with -9 in whichever stage, the next run ends what is left and finishes the stage."""
    job = Job(
        quickstart_volume(tmp_path, toy_base), newest_ollama.url, "killed", FOUR_STEPS, ollama={"model": "killed:v1"}
    )
    volume = Volume(tmp_path)
    in_the_middle = 0
    for stage in KEYED:
        run = job.start("--until", stage)
        child = _begun(run, tmp_path, stage)
        run.kill()  # the command line; what it started must not live on
        run.wait()
        in_the_middle += child is not None and not _has(job, stage)
        run = job.start("--until", stage)
        second = _begun(run, tmp_path, stage, but=child)
        assert child is None or not _alive(child), f"the killed run's {stage} was not ended"
        if second is not None:
            os.kill(second, signal.SIGKILL)  # the stage program, as the kernel kills it when memory runs out
        printed, _ = run.communicate(timeout=120)
        in_the_middle += run.returncode == ExitCode.OUT_OF_MEMORY
        assert run.returncode in (ExitCode.OUT_OF_MEMORY, ExitCode.OK), printed
        job.run("--until", stage)
        assert _has(job, stage)
        for result in job.results().values():
            assert not any((attempt / "out").exists() for attempt in volume.attempts(result.stage, result.key))
    assert in_the_middle >= len(KEYED), "too few of the kills came in time to prove anything"
    assert "killed:v1" in newest_ollama.digests()
    assert not [name for name in newest_ollama.digests() if name.startswith("tunesmith-check")]


def test_two_jobs_want_the_same(tmp_path: Path, toy_base: Path, newest_ollama: OllamaServer) -> None:
    """Two jobs that come to the same training at once train once: one waits for the other and takes its result."""
    root = quickstart_volume(tmp_path, toy_base)
    runs = [Job(root, newest_ollama.url, name, FOUR_STEPS).start("--until", "train") for name in ("one", "two")]
    printed = [run.communicate(timeout=300)[0] for run in runs]
    assert [run.returncode for run in runs] == [ExitCode.OK] * 2, printed
    assert any(" waits: process" in text for text in printed), printed
    assert sum("train waits" in text or "train     cached" in text for text in printed) == 1, printed
    assert sum("train     runs" in text for text in printed) == 1, printed


def _has(job: Job, stage: StageName) -> bool:
    return any(name.startswith(f"{stage}/") for name in job.results())


def _begun(run: subprocess.Popen[str], volume: Path, stage: StageName, *, but: int | None = None) -> int | None:
    """Wait until the stage program has begun, and return its process number; None if it was through before.

    The process `but` is one of an earlier run, which may not have ended yet.
    """
    while run.poll() is None:
        for path in (volume / "stages" / stage).glob("*.*-*/owner.json"):
            try:
                pid = int(json.loads(path.read_text())["pid"])
            except (OSError, ValueError):
                continue
            if pid != but and _alive(pid):
                return pid
        time.sleep(0.002)
    return None


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
