"""Stage `train` over two nodes: two stage programs with a volume between them, here on one machine."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from support.ports import free_port
from support.prepared import write_base, write_prepared
from support.training import (
    EPOCHS,
    EVERY,
    PATIENCE,
    alive,
    check_same_end,
    children,
    failure,
    notes,
    ranks_of,
    started,
    steps_done,
    train,
    two_nodes,
    wait_for,
)
from tunesmith_stages.contract import ExitCode, StageName
from tunesmith_stages.train.checkpoints import COMPLETE
from tunesmith_stages.train.memory_events import oom_kills
from tunesmith_stages.volume import Volume

pytestmark = pytest.mark.e2e

Programs = list[subprocess.Popen[str]]

NO_SAVES = {**EVERY, "saveSteps": None}
"""No checkpoint but the one that is saved because the training is asked to end."""
SOON = 180.0
"""Seconds within which all must be over on a busy machine; NCCL and Gloo would wait for 30 minutes."""


@pytest.fixture(scope="module")
def volume(tmp_path_factory: pytest.TempPathFactory) -> Volume:
    """Return a volume with a base and prepared rows."""
    root = tmp_path_factory.mktemp("volume")
    write_base(root / "base")
    write_prepared(root / "prepared", train=42, validation=9)
    return Volume(root)


@pytest.fixture(scope="module")
def alone(volume: Volume) -> str:
    """Return the key of a training with the same two ranks on one node."""
    train(volume, "alone", params=EPOCHS, runtime=EVERY)
    return "alone"


def test_two_nodes_train_as_one_does(volume: Volume, alone: str) -> None:
    """Losses, weights and steps are those of one node with as many ranks; one program publishes, both end well."""
    with two_nodes(volume, "nodes", "1", EPOCHS, EVERY) as programs:
        errors = [program.communicate(timeout=PATIENCE)[1] for program in programs]
    assert [program.returncode for program in programs] == [0, 0], errors
    result = volume.result(StageName.TRAIN, "nodes")
    assert result is not None
    assert result.numbers["steps"] == 33
    assert "starting 1 process(es) on each of 2 nodes on CPU" in said(volume, "nodes")
    assert "checkpointSeconds" in (volume.unit(StageName.TRAIN, "nodes") / "progress.jsonl").read_text()
    check_same_end(volume, alone, "nodes", tolerance=1e-6)  # the same rows on the same ranks in the same order
    assert not volume.attempts(StageName.TRAIN, "nodes")
    assert not volume.checkpoints("nodes").exists()


def said(volume: Volume, key: str) -> str:
    return (volume.unit(StageName.TRAIN, key) / "progress.jsonl").read_text()


@pytest.mark.nightly
def test_nodes_end_together_and_go_on_together(volume: Volume, alone: str) -> None:
    """Whatever ends one node ends the other within seconds, for the same reason; the next attempt goes on."""
    key = "disturbed"

    codes = disturb(volume, key, "1", 4, lambda programs: programs[1].kill())
    assert codes == [ExitCode.TEMPORARY, -signal.SIGKILL]
    assert failure(volume, key, "1")["reason"] == "NodeLost"
    assert "node 1" in failure(volume, key, "1")["message"]

    codes = disturb(volume, key, "2", 10, lambda programs: os.kill(ranks_of(programs[1].pid)[0], signal.SIGKILL))
    assert codes == [ExitCode.OUT_OF_MEMORY if oom_kills() is None else ExitCode.TEMPORARY] * 2
    assert "rank 1 on node 1" in failure(volume, key, "2")["message"]
    assert any(note.startswith("going on from step") for note in notes(volume, key, "2"))

    codes = disturb(volume, key, "3", 16, lambda programs: programs[1].terminate(), runtime=NO_SAVES)
    assert codes == [ExitCode.INTERRUPTED] * 2
    assert "node 1" in failure(volume, key, "3")["message"]
    check_saved_on_request(volume, key, "3", 16)

    codes = disturb(volume, key, "3", 20, suspend, runtime=NO_SAVES, folder="3-2")
    assert codes == [ExitCode.INTERRUPTED] * 2
    assert f"going on from step {newest(volume, key, '3')}" in notes(volume, key, "3-2")
    check_saved_on_request(volume, key, "3-2", 20)

    codes = disturb(volume, key, "3", 24, lambda programs: programs[0].kill(), folder="3-3")
    assert codes == [-signal.SIGKILL, ExitCode.TEMPORARY]

    assert volume.result(StageName.TRAIN, key) is None
    with two_nodes(volume, key, "4", EPOCHS, EVERY) as programs:
        errors = [program.communicate(timeout=PATIENCE)[1] for program in programs]
    assert [program.returncode for program in programs] == [0, 0], errors
    assert "going on from step" in said(volume, key)
    check_same_end(volume, alone, key)


def suspend(programs: Programs) -> None:
    """Do what Kubernetes does to the pods of a Job that is suspended; when it goes on, its pods have the same name."""
    for program in programs:
        program.terminate()


def newest(volume: Volume, key: str, attempt: str) -> int:
    """Return the step after which an attempt said that it saves because it was asked to end."""
    [said] = [note for note in notes(volume, key, attempt) if note.startswith("asked to end: saving a checkpoint")]
    return int(said.rpartition(" ")[2])


def check_saved_on_request(volume: Volume, key: str, attempt: str, step: int) -> None:
    """Check that nothing was lost: there is a checkpoint of the last step, which no interval asked for."""
    saved = newest(volume, key, attempt)
    assert saved >= step
    assert (volume.checkpoints(key) / f"step-{saved}" / COMPLETE).exists()


def disturb(
    volume: Volume,
    key: str,
    attempt: str,
    step: int,
    end: Callable[[Programs], None],
    *,
    runtime: Mapping[str, object] = EVERY,
    folder: str = "",
) -> list[int]:
    """Start a training, disturb it once `step` steps are done, see that nothing of it is left; return the codes.

    `folder` ends the name of the attempt's folder, if that is not the attempt's own name.
    """
    with two_nodes(volume, key, attempt, EPOCHS, runtime) as programs:
        progress = volume.attempt(StageName.TRAIN, key, folder or attempt) / "progress.jsonl"
        wait_for(lambda: any(program.poll() is not None for program in programs) or steps_done(progress) >= step)
        assert [program.poll() for program in programs] == [None, None], programs[0].communicate()[1]
        left = [rank for program in programs for rank in ranks_of(program.pid)]
        assert len(left) == 2
        began = time.monotonic()
        end(programs)
        codes = [program.wait(SOON) for program in programs]
        print(f"attempt {folder or attempt}: over after {time.monotonic() - began:.1f} s")
    wait_for(lambda: not any(alive(pid) for pid in left))
    return codes


@pytest.mark.nightly
def test_nodes_must_see_the_same_volume(volume: Volume, tmp_path: Path) -> None:
    """A claim that each node mounts for itself would train each node on what it has: both end, and say why."""
    write_base(tmp_path / "base")
    write_prepared(tmp_path / "prepared", train=42, validation=9)
    place = {"TUNESMITH_MASTER_ADDR": "127.0.0.1", "TUNESMITH_MASTER_PORT": str(free_port())}
    runtime = {"nodes": 2, "processesPerNode": 1}
    with (
        started(volume, "apart", "1", EPOCHS, runtime, environ={**place, "JOB_COMPLETION_INDEX": "0"}) as first,
        started(
            Volume(tmp_path), "apart", "1", EPOCHS, runtime, environ={**place, "JOB_COMPLETION_INDEX": "1"}
        ) as other,
    ):
        errors = [program.communicate(timeout=PATIENCE)[1] for program in (first, other)]
    assert [first.returncode, other.returncode] == [ExitCode.BAD_CONFIG] * 2, errors
    assert "VolumeNotShared: a folder that node 0 sees is not on this node's volume" in errors[1]
    assert failure(volume, "apart", "1")["reason"] == "VolumeNotShared"
    assert "ReadWriteMany" in failure(volume, "apart", "1")["hint"]


def test_where_each_node_stood_is_told(volume: Volume) -> None:
    """A rank of node 0 hangs: the other node's rank writes where it waits, too, before all is ended."""

    def stop(programs: Programs) -> None:
        os.kill(ranks_of(programs[0].pid)[0], signal.SIGSTOP)

    codes = disturb(volume, "hang", "1", 3, stop, runtime={"saveSteps": None, "guards": {"stallSeconds": 20}})
    assert codes == [ExitCode.TEMPORARY] * 2
    assert failure(volume, "hang", "1")["reason"] == "TrainingStalled"
    log = volume.attempt(StageName.TRAIN, "hang", "1") / "logs" / "rank-1.log"
    assert "most recent call first" in log.read_text()


@pytest.mark.parametrize("node", [0, 1])
def test_a_node_that_never_comes_is_not_waited_for_forever(volume: Volume, node: int) -> None:
    """Each node says whom it waits for, and in the end that it was in vain: another try may find it there."""
    key = f"waiting-{node}"
    place = {"TUNESMITH_MASTER_ADDR": "127.0.0.1", "TUNESMITH_MASTER_PORT": str(free_port())}
    runtime = {"nodes": 2, "processesPerNode": 1, "nodesTimeoutSeconds": 2}
    with started(volume, key, "1", EPOCHS, runtime, environ={**place, "JOB_COMPLETION_INDEX": str(node)}) as program:
        errors = program.communicate(timeout=PATIENCE)[1]
    assert program.returncode == ExitCode.TEMPORARY
    assert f"NodesNotReady: node {1 - node}" in errors
    if node == 0:
        assert failure(volume, key, "1")["reason"] == "NodesNotReady"
        assert notes(volume, key, "1") == ["waiting for node 1 of 2"]
    else:
        assert not volume.attempts(StageName.TRAIN, key)


def test_a_late_node_finds_out_that_it_is_over(volume: Volume, alone: str) -> None:
    """A pod that starts when node 0 has ended neither waits nor trains: it ends as node 0 did."""
    place = {
        "JOB_COMPLETION_INDEX": "1",
        "TUNESMITH_MASTER_ADDR": "127.0.0.1",
        "TUNESMITH_MASTER_PORT": str(free_port()),
    }
    runtime = {**EVERY, "nodes": 2, "processesPerNode": 1}
    with started(volume, alone, "1", EPOCHS, runtime, environ=place) as program:
        assert program.wait(SOON) == 0
    broken = {**EPOCHS, "precision": "INT8"}
    with started(volume, "failed", "1", broken, runtime, environ={**place, "JOB_COMPLETION_INDEX": "0"}) as program:
        assert program.wait(SOON) == ExitCode.BAD_CONFIG
    with started(volume, "failed", "1", EPOCHS, runtime, environ=place) as program:
        assert program.wait(SOON) == ExitCode.BAD_CONFIG


def test_one_node_is_the_first_whatever_its_pod_is(volume: Volume) -> None:
    """A training on one node may be run within a pod that is another Job's third."""
    broken = {**EPOCHS, "precision": "INT8"}
    with started(volume, "one", "1", broken, {"nodes": 1}, environ={"JOB_COMPLETION_INDEX": "2"}) as program:
        assert program.wait(SOON) == ExitCode.BAD_CONFIG
    assert "INT8" in failure(volume, "one", "1")["message"]


def test_the_first_process_of_a_container_ends_as_told(volume: Volume) -> None:
    """In a pod the program is process 1: its children take that for no orphanage, and SIGTERM ends it in order."""
    container = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--mount-proc", "--kill-child"]
    runtime = {**NO_SAVES, "processesPerNode": 1, "gradientAccumulationSteps": 2}
    with started(volume, "container", "1", EPOCHS, runtime, within=container) as outside:
        progress = volume.attempt(StageName.TRAIN, "container", "1") / "progress.jsonl"
        wait_for(lambda: outside.poll() is not None or steps_done(progress) >= 4)
        assert outside.poll() is None, outside.communicate()[1]
        first = children(outside.pid)[0]
        assert Path(f"/proc/{first}/status").read_text().split("NSpid:")[1].splitlines()[0].split()[-1] == "1"
        left = ranks_of(first)
        os.kill(first, signal.SIGTERM)
        assert outside.wait(SOON) == ExitCode.INTERRUPTED
    assert failure(volume, "container", "1")["reason"] == "Interrupted"
    check_saved_on_request(volume, "container", "1", 4)
    assert not any(alive(pid) for pid in left)
