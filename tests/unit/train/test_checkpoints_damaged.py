"""Checkpoints whose files a disk has changed: none is gone on from. The files are those of a real optimizer's state."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from tunesmith_stages.train import checkpoints
from tunesmith_stages.train.manifest import COMPLETE

RANKS = 2
LAYOUT = {"round_robin_gradients": False}
FACTS = {"worldSize": RANKS, "zeroStage": 2, "layout": LAYOUT, "tools": {"torch": "2.9.1"}}
OPTIMIZER = "global_step8/bf16_zero_pp_rank_1_mp_rank_00_optim_states.pt"
WEIGHTS = "global_step8/mp_rank_00_model_states.pt"
SMALL = ("latest", "trainer_state.json", "metrics.jsonl", COMPLETE)
LARGE = (OPTIMIZER, WEIGHTS, "rng_state_0.pth", "rng_state_1.pth", "scheduler.pt")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with two whole checkpoints, of the steps 4 and 8."""
    folder = tmp_path_factory.mktemp("whole")
    model = torch.nn.Linear(24, 24)
    optimizer = torch.optim.AdamW(model.parameters())
    for step in (4, 8):
        model(torch.rand(24)).sum().backward()
        optimizer.step()
        write(folder, step, model, optimizer)
    return folder


def write(folder: Path, step: int, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Write a checkpoint with the files that DeepSpeed and transformers leave."""
    staged = checkpoints.staging(folder, step, "a")
    inner = staged / f"global_step{step}"
    inner.mkdir(parents=True)
    torch.save(model.state_dict(), inner / "mp_rank_00_model_states.pt")
    for rank in range(RANKS):
        state = {"rank": rank, **optimizer.state_dict()}
        torch.save(state, inner / f"bf16_zero_pp_rank_{rank}_mp_rank_00_optim_states.pt")
        torch.save({"cpu": torch.get_rng_state()}, staged / f"rng_state_{rank}.pth")
    torch.save({"last_epoch": step}, staged / "scheduler.pt")
    (staged / "latest").write_text(f"global_step{step}")
    (staged / "trainer_state.json").write_text(json.dumps({"global_step": step, "log_history": [{"loss": 3.5}]}))
    (staged / "metrics.jsonl").write_text(f'{{"step": {step}, "loss": 3.5}}\n')
    files = {name: known for rank in range(RANKS) for name, known in checkpoints.sync_own_files(staged, rank).items()}
    checkpoints.complete(staged, step, files, FACTS)


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    """Return a copy of both checkpoints, to be damaged."""
    return Path(shutil.copytree(whole, tmp_path / "k.checkpoints"))


def check_passed_over(folder: Path, name: str) -> None:
    """Check that the checkpoint of step 8 is passed over because of the file `name`, and that of step 4 taken."""
    found, notes = checkpoints.newest(folder, RANKS, LAYOUT)
    assert found == checkpoints.Checkpoint(folder / "step-4", 4, RANKS, LAYOUT)
    assert len(notes) == 1
    assert notes[0].startswith(f"checkpoint step-8 is damaged and passed over: {name} ")


def test_a_whole_one_is_taken(folder: Path) -> None:
    """What is checked so closely is no false alarm."""
    assert checkpoints.newest(folder, RANKS, LAYOUT) == (
        checkpoints.Checkpoint(folder / "step-8", 8, RANKS, LAYOUT),
        [],
    )


def places(path: Path) -> Iterator[int]:
    """Yield every byte of a small file; of a large one its ends and some between."""
    size = path.stat().st_size
    if path.name in SMALL:
        yield from range(size)
    else:
        yield from sorted({0, 1, size - 2, size - 1, *np.random.default_rng(6).integers(size, size=25).tolist()})


@pytest.mark.parametrize("name", [*SMALL, *LARGE])
def test_a_byte_that_changed_is_found(folder: Path, name: str) -> None:
    """Wherever it is, and whichever of its bits changed: in numbers, in names, in the manifest itself."""
    path = folder / "step-8" / name
    content = path.read_bytes()
    random = np.random.default_rng(6)
    for place in places(path):
        changed = bytearray(content)
        changed[place] ^= 1 << int(random.integers(8))
        path.write_bytes(changed)
        check_passed_over(folder, name)
    path.write_bytes(content)
    test_a_whole_one_is_taken(folder)


def cut_to_nothing(path: Path) -> None:
    os.truncate(path, 0)


def cut_in_half(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def cut_by_a_byte(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def lengthen(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"\0")


def fill_with_zeros(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def lose_a_page(path: Path) -> None:
    """Do what a disk does that lost a write: zeros from somewhere on."""
    content = path.read_bytes()
    kept = len(content) // 3
    path.write_bytes(content[:kept] + bytes(len(content) - kept))


def remove(path: Path) -> None:
    path.unlink()


def turn_into_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGES = (
    cut_to_nothing,
    cut_in_half,
    cut_by_a_byte,
    lengthen,
    fill_with_zeros,
    lose_a_page,
    remove,
    turn_into_a_folder,
)


@pytest.mark.parametrize("damage", DAMAGES)
def test_whatever_happened_to_a_file_is_found(whole: Path, tmp_path: Path, damage: Callable[[Path], None]) -> None:
    """Each file in turn: the checkpoint is passed over with a word on that file."""
    for number, name in enumerate((*SMALL, *LARGE)):
        copy = Path(shutil.copytree(whole, tmp_path / str(number)))
        damage(copy / "step-8" / name)
        check_passed_over(copy, name)


@pytest.mark.parametrize("name", ["latest", "trainer_state.json", "rng_state_0.pth", "scheduler.pt", COMPLETE])
def test_files_of_another_checkpoint_are_found(folder: Path, name: str) -> None:
    """Two checkpoints that have exchanged a file are both of no use: nothing is gone on from."""
    ours, theirs = folder / "step-8" / name, folder / "step-4" / name
    content = ours.read_bytes()
    ours.write_bytes(theirs.read_bytes())
    theirs.write_bytes(content)
    found, notes = checkpoints.newest(folder, RANKS, LAYOUT)
    assert found is None
    assert [note.split(":")[0] for note in notes] == [
        f"checkpoint step-{step} is damaged and passed over" for step in (8, 4)
    ]


def test_files_of_two_ranks_that_were_exchanged_are_found(folder: Path) -> None:
    """Both have the same size and could be loaded: each rank would go on with the other's part."""
    ours, theirs = (folder / "step-8" / OPTIMIZER.replace("rank_1", f"rank_{rank}") for rank in range(RANKS))
    content = ours.read_bytes()
    assert len(content) == theirs.stat().st_size
    ours.write_bytes(theirs.read_bytes())
    theirs.write_bytes(content)
    check_passed_over(folder, OPTIMIZER.replace("rank_1", "rank_0"))


def test_a_checkpoint_under_a_later_name_is_found(folder: Path) -> None:
    """A folder that was copied or renamed by hand is not taken for what its name says."""
    (folder / "step-8").rename(folder / "step-12")
    found, notes = checkpoints.newest(folder, RANKS, LAYOUT)
    assert found is not None
    assert found.step == 4
    assert notes == ["checkpoint step-12 is damaged and passed over: COMPLETE is that of step 8"]


def test_without_any_whole_one_it_begins_anew(folder: Path) -> None:
    """Two damaged ones are two notes, and no reason to fail."""
    for step in (4, 8):
        fill_with_zeros(folder / f"step-{step}" / "latest")
    found, notes = checkpoints.newest(folder, RANKS, LAYOUT)
    assert found is None
    assert len(notes) == 2
