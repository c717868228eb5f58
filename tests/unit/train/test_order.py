import numpy as np
import pytest

from tunesmith_stages.train.order import MicroBatches, Split, epoch_order, eval_batches, tokens_per_step


def steps(rows: int, split: Split, epoch: int = 0) -> list[list[int]]:
    """Return the rows of each step, put together from all ranks' batches."""
    ranks = []
    for rank in range(split.ranks):
        batches = MicroBatches(rows, split, rank, seed=5)
        batches.set_epoch(epoch)
        made = list(batches)
        assert len(made) == len(batches) == batches.steps * split.accumulation
        ranks.append(made)
    found = []
    for first in range(0, len(ranks[0]), split.accumulation):
        turns = range(first, first + split.accumulation)
        found.append(sorted(row for turn in turns for made in ranks for row in made[turn]))
    return found


SPLITS = [Split(1, 12, 1), Split(1, 1, 12), Split(2, 3, 2), Split(4, 3, 1), Split(3, 1, 4)]


@pytest.mark.parametrize("rows", [1, 11, 12, 13, 50])
@pytest.mark.parametrize("split", SPLITS, ids=str)
def test_the_split_changes_no_step(rows: int, split: Split) -> None:
    """A step takes the same rows however the global batch is split, which is why the split enters no key."""
    assert steps(rows, split) == steps(rows, SPLITS[0])


def test_an_epoch_takes_every_row_once() -> None:
    """No row is left out or repeated to fill up the last step."""
    taken = [row for step in steps(50, Split(2, 3, 2)) for row in step]
    assert sorted(taken) == list(range(50))


def test_epochs_and_seeds_differ_but_repeat() -> None:
    """Each epoch has its own order, and the same one when a training goes on."""
    assert epoch_order(30, 1, 0).tolist() == epoch_order(30, 1, 0).tolist()
    assert len({tuple(epoch_order(30, seed, epoch)) for seed in (1, 2) for epoch in (0, 1)}) == 4


def test_tokens_per_step_follow_the_order() -> None:
    """Tokens per second count the rows that a step really takes."""
    lengths = np.arange(1, 51)
    found = tokens_per_step(lengths, 12, seed=5, epoch=2).tolist()
    assert found == [sum(row + 1 for row in step) for step in steps(50, Split(1, 12, 1), epoch=2)]


@pytest.mark.parametrize(("rows", "ranks", "micro"), [(9, 2, 2), (1, 3, 2), (8, 1, 4), (5, 4, 1)])
def test_held_out_rows_are_evaluated_once(rows: int, ranks: int, micro: int) -> None:
    """Every held-out row counts once, and all ranks have equally many batches (ZeRO-3 needs them in step)."""
    shares = [eval_batches(rows, ranks, micro, rank) for rank in range(ranks)]
    assert sorted(row for share in shares for batch in share for row in batch) == list(range(rows))
    assert len({len(share) for share in shares}) == 1
