"""The disk below a job's volume fails."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from e2e.cluster.jobs import small_job
from e2e.cluster.test_faults import CHAIN
from support.daemons import inside
from support.faulty_disk import FULL, READ_ONLY, WRITE_ERRORS, FaultyDisk, faulty_disk
from support.installed import Team, own, until, volume_of
from support.jobs import quickstart_volume

CLAIM = "faulty"


@pytest.fixture
def disk(faults: Team, toy_base: Path, tmp_path: Path) -> Iterator[FaultyDisk]:
    """Yield a disk that can be told to fail, with a claim for it."""
    tmp_path.parent.chmod(0o755)
    with faulty_disk(tmp_path / "faulty", inside=inside(faults.cluster)) as made:
        quickstart_volume(made.behind, toy_base)
        own(made.behind)
        claim = volume_of(faults.namespace, CLAIM, made.folder)
        claim[0]["metadata"]["name"] = claim[1]["spec"]["volumeName"] = f"{faults.namespace}-volume-{CLAIM}"
        faults.cluster.kubectl("apply", "--filename=-", objects=claim)
        yield made
        faults.cluster.kubectl("delete", "pvc", CLAIM, "--namespace", faults.namespace)
        faults.cluster.kubectl("delete", "pv", claim[0]["metadata"]["name"])


def test_every_fault_is_told_and_waited_for(faults: Team, disk: FaultyDisk) -> None:
    """Slow, read-only, with I/O errors, full: the reason is true, and when the disk is well the job ends by itself."""
    job = small_job("bad-disk", {"seed": 13})
    job["spec"] |= {"storage": {"claimName": CLAIM}, "dryRun": True}
    disk.fails(READ_ONLY)
    faults.apply(job)
    assert "Read-only file system" in faults.wait_for("bad-disk", "VolumeReadOnly", timeout=300)
    disk.is_slow(0.002)
    until(lambda: faults.stage("bad-disk", "fetch").get("state") == "Succeeded", 600, lambda: stands(faults))
    disk.fails(WRITE_ERRORS, after=5)
    assert "Input/output error" in faults.wait_for("bad-disk", "VolumeFails", timeout=300)
    disk.is_well()
    until(lambda: faults.stage("bad-disk", "prepare").get("state") == "Succeeded", 600, lambda: stands(faults))
    disk.fails(FULL)
    faults.wait_for("bad-disk", "NoSpace", timeout=300)
    disk.is_well()
    faults.wait_for("bad-disk", "DryRunSucceeded", timeout=900)
    assert not any("failures" in faults.stage("bad-disk", stage) for stage in CHAIN[:3])
    faults.delete("bad-disk")


def stands(team: Team) -> str:
    """Return how the job stands."""
    return str(team.ready("bad-disk"))
