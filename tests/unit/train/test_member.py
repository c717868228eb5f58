"""A node other than 0 before it trains, with node 0 over a real socket on the loopback interface."""

from pathlib import Path
from threading import Thread

import pytest

from support.builders import work_of
from support.ports import free_port
from support.prepared import train_config
from tunesmith_stages.contract import ExitCode
from tunesmith_stages.program import StageError
from tunesmith_stages.train import member
from tunesmith_stages.train.place import INDEX, MASTER_ADDRESS, MASTER_PORT, Place
from tunesmith_stages.train.team import Team

PATIENCE = 20.0


def test_a_node_that_does_not_see_the_same_volume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A claim that each node mounts for itself lacks the attempt of node 0: both learn it, and nothing is trained."""
    port = free_port()
    for name, value in {INDEX: "1", MASTER_ADDRESS: "127.0.0.1", MASTER_PORT: str(port)}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(member, "SEEN_WITHIN", 0.5)
    work = work_of(train_config(tmp_path, runtime={"nodes": 2, "processesPerNode": 1}))
    with Team(Place(0, 2, "127.0.0.1", port), work.unit.key, work.config.attempt) as team:
        gathering = Thread(target=team.gather, args=(PATIENCE, str))
        gathering.start()
        with pytest.raises(StageError) as caught:
            member.take_part(work)
        gathering.join()
        while not team.ended:
            team.listen()
        (told,) = team.failures()
    assert (caught.value.code, caught.value.reason) == (ExitCode.BAD_CONFIG, "VolumeNotShared")
    assert (told.code, told.reason) == (ExitCode.BAD_CONFIG, "VolumeNotShared")
    assert "a folder that node 0 sees is not on this node's volume" in told.message
    assert "ReadWriteMany" in told.hint
    assert not (work.folder / "ranks").exists()
