"""Disks that fail, in every stage: the reason is true, nothing half-made counts, and the same command goes on."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from support.faulty_disk import READ_ERRORS, READ_ONLY, WRITE_ERRORS, FaultyDisk, faulty_disk
from support.jobs import FOUR_STEPS, KEYED, Job, quickstart_volume
from support.ollama_server import OllamaServer
from tunesmith_stages.contract import ExitCode, StageName
from tunesmith_stages.volume import sha256_of

pytestmark = pytest.mark.e2e

_CANNOT_BE_USED = "The volume cannot be used"
"""What the command line says where the disk fails it before the stage."""
_FAULTS: Mapping[str, tuple[ExitCode, tuple[str, ...]]] = {
    READ_ONLY: (ExitCode.NO_SPACE, ("VolumeReadOnly", "NoSpace", _CANNOT_BE_USED)),
    WRITE_ERRORS: (ExitCode.TEMPORARY, ("VolumeFails", "Temporary", _CANNOT_BE_USED)),
    READ_ERRORS: (ExitCode.TEMPORARY, ("VolumeFails", "FileUnreadable", "Temporary", _CANNOT_BE_USED)),
}
"""Exit code that each fault must lead to, and the reasons of which one must be told. The class alone is known where the
program could not leave its own words on that disk."""


_SLOW_SECONDS = 0.05


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[FaultyDisk]:
    """Yield a disk that can be told to fail."""
    with faulty_disk(tmp_path / "faulty") as mounted:
        yield mounted


@pytest.mark.parametrize("turn", [0, *(pytest.param(turn, marks=pytest.mark.nightly) for turn in (1, 2))])
def test_a_fault_in_every_stage(
    disk: FaultyDisk, toy_base: Path, newest_ollama: OllamaServer, tmp_path: Path, turn: int
) -> None:
    """A disk that gets read-only or errs in the middle of a stage; once it is well, the stage is finished.

    In three turns each stage meets each fault.
    """
    root = quickstart_volume(disk.folder, toy_base)
    job = Job(root, newest_ollama.url, "failing", FOUR_STEPS, ollama={"model": "failing:v1"}, file_in=tmp_path)
    for place, stage in enumerate(KEYED):
        before = job.results().keys()
        fault, (code, reasons) = list(_FAULTS.items())[(place + turn) % len(_FAULTS)]
        told = strike(job, disk, stage, fault, code)
        assert any(reason in told for reason in reasons), told
        assert "Traceback" not in told
        assert job.results().keys() == before
        job.run("--until", stage)
        assert any(name.startswith(f"{stage}/") for name in job.results())
    require_whole(job)
    assert "failing:v1" in newest_ollama.digests()


def test_a_training_on_a_slow_disk(
    disk: FaultyDisk, toy_base: Path, newest_ollama: OllamaServer, tmp_path: Path
) -> None:
    """Each read and write of the training takes a twentieth of a second, a save many seconds: it ends well."""
    root = quickstart_volume(disk.folder, toy_base)
    job = Job(root, newest_ollama.url, "slow", FOUR_STEPS, ollama={"model": "slow:v1"}, file_in=tmp_path)
    run = job.start("--until", "train")
    try:
        while run.poll() is None and not attempts(disk, StageName.TRAIN):
            time.sleep(0.005)
        disk.is_slow(_SLOW_SECONDS)
        assert seconds_to_write(disk) >= _SLOW_SECONDS
        printed, _ = run.communicate(timeout=600)
    finally:
        disk.is_well()
    assert run.returncode == 0, printed
    assert any(name.startswith("train/") for name in job.results())
    require_whole(job)


def seconds_to_write(disk: FaultyDisk) -> float:
    """Return how long it takes to make a file."""
    began = time.monotonic()
    (disk.folder / "made").touch()
    return time.monotonic() - began


def require_whole(job: Job) -> None:
    """Require that every file of every result has the content that the result tells of."""
    for result in job.results().values():
        for entry in result.files:
            assert sha256_of(job.root / result.path / entry.path) == entry.sha256, f"{result.path}/{entry.path}"


def strike(job: Job, disk: FaultyDisk, stage: StageName, fault: str, code: ExitCode) -> str:
    """Run a job up to a stage whose disk fails when its program has begun; return what is printed."""
    begun = attempts(disk, stage)
    run = job.start("--until", stage)
    try:
        while run.poll() is None and attempts(disk, stage) == begun:
            time.sleep(0.005)
        disk.fails(fault, after=3)
        printed, _ = run.communicate(timeout=600)
    finally:
        disk.is_well()
    assert run.returncode == code, f"{stage}, {fault}: {printed}"
    return printed


def attempts(disk: FaultyDisk, stage: StageName) -> set[Path]:
    """Return what says who makes units of a stage, or has tried to."""
    return set((disk.behind / "stages" / stage).glob("*.*-*/owner.json"))
