import json
import os
import threading
import time
import zlib
from pathlib import Path

import pytest

from tunesmith_stages.contract import ExitCode
from tunesmith_stages.program import StageError
from tunesmith_stages.train import checkpoints, manifest
from tunesmith_stages.train.manifest import FileFacts

LAYOUT = {"round_robin_gradients": False}
FACTS = {"worldSize": 2, "zeroStage": 2, "layout": LAYOUT, "tools": {}}


def stage(folder: Path, step: int, attempt: str = "a1", ranks: int = 2) -> Path:
    """Write the files that two ranks leave."""
    staged = checkpoints.staging(folder, step, attempt)
    (staged / f"global_step{step}").mkdir(parents=True)
    for rank in range(ranks):
        (staged / f"rng_state_{rank}.pth").write_bytes(b"state")
        (staged / f"global_step{step}" / f"bf16_zero_pp_rank_{rank}_mp_rank_00_optim_states.pt").write_bytes(b"x" * 40)
    (staged / "latest").write_text(f"global_step{step}")
    return staged


def make(folder: Path, step: int, world_size: int = 2) -> Path:
    facts = {**FACTS, "worldSize": world_size}
    staged = stage(folder, step, ranks=world_size)
    return checkpoints.complete(staged, step, written(staged, world_size), facts).folder


def written(staged: Path, ranks: int = 2) -> dict[str, FileFacts]:
    """Return what the ranks say that they have written."""
    return {name: known for rank in range(ranks) for name, known in checkpoints.sync_own_files(staged, rank).items()}


def test_a_complete_checkpoint_is_found(tmp_path: Path) -> None:
    """What all ranks finished is published under its step and is what the next attempt goes on from."""
    make(tmp_path, 4)
    found, notes = checkpoints.newest(tmp_path, 2, LAYOUT)
    assert found == checkpoints.Checkpoint(tmp_path / "step-4", 4, 2, LAYOUT)
    assert notes == []


def test_the_newest_is_newest_by_number(tmp_path: Path) -> None:
    """Step 10 comes after step 9, whatever their names' order."""
    make(tmp_path, 9)
    make(tmp_path, 10)
    found, _ = checkpoints.newest(tmp_path, 2, LAYOUT)
    assert found is not None
    assert found.step == 10


def test_a_damaged_one_is_passed_over(tmp_path: Path) -> None:
    """Training goes on from the one before, and says so; `test_checkpoints_damaged.py` has every kind of damage."""
    make(tmp_path, 4)
    cut_short(make(tmp_path, 8))
    found, notes = checkpoints.newest(tmp_path, 2, LAYOUT)
    assert found is not None
    assert found.step == 4
    assert notes == ["checkpoint step-8 is damaged and passed over: latest has 3 bytes instead of 12"]


def cut_short(folder: Path) -> None:
    (folder / "latest").write_text("cut")


def test_what_is_being_written_does_not_count(tmp_path: Path) -> None:
    """A folder that still bears its attempt's name was never finished, and is removed by the next attempt."""
    stage(tmp_path, 8, "dead")
    make(tmp_path, 4)
    found, _ = checkpoints.newest(tmp_path, 2, LAYOUT)
    assert found is not None
    assert found.step == 4
    checkpoints.clear_leftovers(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["step-4"]


LEFTOVERS: dict[str, tuple[bool, float, bool]] = {  # attempt not cleared up yet, age of the last file, goes?
    "of one that may still be saving": (True, 59 * 60, False),
    "of one that ended": (False, 0, True),
    "of one that was killed long ago": (True, 61 * 60, True),
}


@pytest.mark.parametrize("name", LEFTOVERS)
def test_leftovers_of_other_attempts(tmp_path: Path, name: str) -> None:
    """What an attempt writes that may live, as a pod that is told to stop and saves, is not taken away from it."""
    works, age, goes = LEFTOVERS[name]
    folder = tmp_path / f"{'k' * 64}.checkpoints"
    staged = stage(folder, 8, "bot-train-0a1b2c3d-1-0-x7k2p")
    (tmp_path / f"{'k' * 64}.bot-train-0a1b2c3d-1-0-x7k2p" / ("out" if works else "logs")).mkdir(parents=True)
    for path in (staged, *staged.rglob("*")):
        os.utime(path, (0, 0))
    last = time.time() - age
    os.utime(staged / "global_step8" / "bf16_zero_pp_rank_1_mp_rank_00_optim_states.pt", (last, last))
    checkpoints.clear_leftovers(folder)
    assert staged.exists() is not goes


def test_another_number_of_ranks_is_refused(tmp_path: Path) -> None:
    """ZeRO's optimizer state cannot be loaded by another number of ranks: an error with a way out, no crash loop."""
    make(tmp_path, 4)
    with pytest.raises(StageError) as caught:
        checkpoints.newest(tmp_path, 1, LAYOUT)
    assert (caught.value.code, caught.value.reason) == (ExitCode.BAD_CONFIG, "WorldSizeChanged")
    assert "Train with 2 processes" in caught.value.hint
    assert str(tmp_path) in caught.value.hint


@pytest.mark.parametrize("whole", [True, False], ids=["whole", "damaged"])
def test_another_layout_is_refused(tmp_path: Path, whole: bool) -> None:
    """Loaded by position, each weight would get what is another one's, and nobody would be told."""
    folder = make(tmp_path, 4)
    if not whole:
        (folder / "latest").write_text("global_step5")
    with pytest.raises(StageError) as caught:
        checkpoints.newest(tmp_path, 2, {"round_robin_gradients": True})
    assert (caught.value.code, caught.value.reason) == (ExitCode.BAD_CONFIG, "StateLayoutChanged")
    assert "this run has `round_robin_gradients: true`" in caught.value.message
    assert caught.value.hint.startswith("Set `round_robin_gradients: false` in `deepspeed.config.zero_optimization`")
    assert str(tmp_path) in caught.value.hint


def test_one_that_does_not_tell_its_layout_is_passed_over(tmp_path: Path) -> None:
    """It may be any, so it is not loaded."""
    staged = stage(tmp_path, 4)
    files = written(staged)
    manifest.write_manifest(staged, 4, files, {name: known for name, known in FACTS.items() if name != "layout"})
    staged.rename(tmp_path / "step-4")
    found, notes = checkpoints.newest(tmp_path, 2, LAYOUT)
    assert found is None
    assert notes == ["checkpoint step-4 is damaged and passed over: COMPLETE cannot be used: KeyError: 'layout'"]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        pytest.param("rng_state_1.pth", "1 of 2 ranks", id="a rank's random state"),
        pytest.param("global_step4/bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt", "1 of 2", id="a rank's optimizer"),
    ],
)
def test_an_incomplete_one_is_not_published(tmp_path: Path, name: str, words: str) -> None:
    """Rank 0 publishes only what every rank has contributed to."""
    staged = stage(tmp_path, 4)
    (staged / name).unlink()
    with pytest.raises(OSError, match=words):
        checkpoints.complete(staged, 4, written(staged), FACTS)
    assert not (tmp_path / "step-4").exists()


def test_an_empty_file_is_not_published(tmp_path: Path) -> None:
    """A file of size zero is what a full disk leaves."""
    staged = stage(tmp_path, 4)
    (staged / "latest").write_text("")
    with pytest.raises(OSError, match="latest is empty"):
        checkpoints.complete(staged, 4, written(staged), FACTS)


def test_a_file_that_another_node_wrote_is_waited_for(tmp_path: Path) -> None:
    """On a network file system rank 0 sees it late, or as it was before it was whole."""
    staged = stage(tmp_path, 4)
    files = written(staged)
    late = staged / "rng_state_1.pth"
    late.write_bytes(b"st")
    arrival = threading.Timer(0.2, late.write_bytes, [b"state"])
    arrival.start()
    found = checkpoints.complete(staged, 4, files, FACTS)
    arrival.join()
    assert checkpoints.of_step(tmp_path, 4) == found


def test_a_file_that_never_shows_is_named(tmp_path: Path) -> None:
    """Nodes whose volumes differ must not leave half a checkpoint that looks whole."""
    staged = stage(tmp_path, 4)
    files = written(staged)
    (staged / "rng_state_1.pth").unlink()
    with pytest.raises(OSError, match=r"of rng_state_1.pth 0 bytes .* with 5"):
        checkpoints.complete(staged, 4, files, FACTS, seen_within=0.1)
    assert not (tmp_path / "step-4").exists()


@pytest.mark.parametrize("content", ["cut", "global_step5"], ids=["by its size", "by a byte"])
def test_a_damaged_one_is_replaced_when_its_step_comes_again(tmp_path: Path, content: str) -> None:
    """The damaged folder neither stands in the way of the good one, nor takes its place on the disk for long."""
    (make(tmp_path, 4) / "latest").write_text(content)
    make(tmp_path, 4)
    found, notes = checkpoints.newest(tmp_path, 2, LAYOUT)
    assert found is not None
    assert notes == []
    checkpoints.prune(tmp_path, 4, 2)
    assert [path.name for path in tmp_path.iterdir()] == ["step-4"]


def test_prune_keeps_the_newest(tmp_path: Path) -> None:
    """Only so many are kept, and a damaged later one does not push a good one out."""
    for step in (2, 4, 6):
        make(tmp_path, step)
    cut_short(make(tmp_path, 20))
    checkpoints.prune(tmp_path, 6, 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-20", "step-4", "step-6"]


def test_the_manifest_says_who_wrote_it(tmp_path: Path) -> None:
    """World size, ZeRO stage, layout, step, every file's size and checksum can be read by people and later versions."""
    said = json.loads((make(tmp_path, 4) / checkpoints.COMPLETE).read_text())
    assert (said["worldSize"], said["zeroStage"], said["layout"], said["step"]) == (2, 2, LAYOUT, 4)
    assert said["files"]["rng_state_0.pth"] == {"size": 5, "crc32": f"{zlib.crc32(b'state'):08x}"}


@pytest.mark.parametrize(
    ("name", "rank"),
    [
        ("rng_state_1.pth", 1),
        ("bf16_zero_pp_rank_1_mp_rank_00_optim_states.pt", 1),
        ("mp_rank_00_model_states.pt", 0),
        ("trainer_state.json", 0),
    ],
)
def test_each_rank_syncs_its_own_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, rank: int) -> None:
    """Every file is forced to disk by the rank that wrote it, on whose machine the unwritten pages are."""
    (tmp_path / name).write_text("x")
    by: list[int] = []
    for own in (0, 1):
        monkeypatch.setattr(manifest, "sync", lambda _path, own=own: by.append(own))
        assert set(checkpoints.sync_own_files(tmp_path, own)) == ({name} if own == rank else set())
    assert by == [rank]
