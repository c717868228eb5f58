"""Trainings that are ended again and again, anywhere and in every way: each comes to the end that it has undisturbed.

4 kills in `make test`, 32 in `make nightly`. `TUNESMITH_KILL_SEED` chooses other moments for them.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from support.interruptions import MOMENTS, WAYS, Attempt, started_by, wait_for_moment
from support.prepared import PARAMS, write_base, write_prepared
from support.prepared import RUNTIME as ALL_RUNTIME
from support.training import PATIENCE, alive, failure, notes_of, out, started, train, wait_for
from tunesmith_stages.contract import StageName
from tunesmith_stages.train import checkpoints
from tunesmith_stages.train.deepspeed_config import state_layout
from tunesmith_stages.train.metrics import read_metrics
from tunesmith_stages.train.settings import read_settings
from tunesmith_stages.volume import Volume

pytestmark = pytest.mark.e2e

SEED = int(os.environ.get("TUNESMITH_KILL_SEED", "6"))
STEPS = 18
INTERVAL = 3
COMMON = {"numTrainEpochs": None, "maxSteps": STEPS, "precision": "FP32"}
RUNTIME = {"saveSteps": INTERVAL, "keep": 2, "evalSteps": 7, "graceSeconds": 120}
# Dropout and noise draw random numbers at every step: a training that goes on must draw those that come next.
METHODS: Mapping[str, Mapping[str, Any]] = {
    "LoRA": {"lora": {"rank": 4, "alpha": 8, "dropout": "0.1", "targetModules": ["AllLinear"]}},
    "Full": {"finetuningType": "Full", "lora": None, "learningRate": "5e-3", "neftuneNoiseAlpha": "5"},
}
RANKS = {1: {"processesPerNode": 1, "gradientAccumulationSteps": 2}, 2: {"processesPerNode": 2}}
UNDERWAY = ("between steps", "inside a step", "writing a checkpoint")
LAST = "final save"


class Case(NamedTuple):
    """A training of the matrix."""

    method: str
    zero: int
    ranks: int


class Kill(NamedTuple):
    """One interruption: keys of `WAYS` and `MOMENTS`."""

    way: str
    moment: str


MATRIX = [Case(method, zero, ranks) for method in METHODS for zero in (2, 3) for ranks in RANKS]


def plan(random: np.random.Generator) -> dict[Case, list[Kill]]:
    """Return four kills for each training, one of each way; each way meets every moment, each training its steps.

    A training has nothing but its final save before it once it has come to that, so that moment is its last.
    """
    while True:
        kills: dict[Case, list[Kill]] = {case: [] for case in MATRIX}
        for way in WAYS:
            more = random.choice(list(MOMENTS), len(MATRIX) - len(MOMENTS)).tolist()
            for case, moment in zip(MATRIX, random.permutation([*MOMENTS, *more]).tolist(), strict=True):
                kills[case].append(Kill(way, moment))
        if all(any(kill.moment in UNDERWAY for kill in several) for several in kills.values()):
            return {case: in_order(kills[case], random) for case in MATRIX}


def in_order(kills: Sequence[Kill], random: np.random.Generator) -> list[Kill]:
    mixed = [kills[place] for place in random.permutation(len(kills))]
    return sorted(mixed, key=lambda kill: kill.moment == LAST)


@pytest.fixture(scope="module")
def volume(tmp_path_factory: pytest.TempPathFactory) -> Volume:
    """Return a volume with a base and prepared rows."""
    root = tmp_path_factory.mktemp("volume")
    write_base(root / "base")
    write_prepared(root / "prepared", train=22, validation=5)
    return Volume(root)


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, id="-".join(map(str, case)), marks=[] if case == Case("LoRA", 2, 2) else pytest.mark.nightly)
        for case in MATRIX
    ],
)
def test_whatever_ends_it_it_goes_on_as_if_nothing_had_happened(volume: Volume, case: Case) -> None:
    """An interval of saving is lost at most, nothing on SIGTERM; losses and weights are those of a quiet training."""
    kills = plan(np.random.default_rng(SEED))[case]
    print(f"seed {SEED}: {kills}")
    Disturbed(volume, case).run(kills)
    assert len(kills) == len(WAYS)


class Disturbed:
    """A training that is ended again and again."""

    def __init__(self, volume: Volume, case: Case) -> None:
        self.volume = volume
        self.ranks = case.ranks
        self.random = np.random.default_rng([SEED, MATRIX.index(case)])
        self.params = {**COMMON, **METHODS[case.method], "zeroStage": case.zero}
        self.runtime = {**RUNTIME, **RANKS[case.ranks]}
        self.quiet = f"{case.method}-{case.zero}-{case.ranks}"
        self.key = f"{self.quiet}-disturbed"
        self.attempts = 0

    def run(self, kills: Sequence[Kill]) -> None:
        """Bring it to its end through all kills."""
        train(self.volume, self.quiet, params=self.params, runtime=self.runtime)
        for kill in kills:
            while not self.disturb(kill):
                self.key += "-again"  # it was through before the signal came
        saved = self.saved()
        train(self.volume, self.key, "last", params=self.params, runtime=self.runtime)
        assert first_words(saved) in notes_of(self.volume.unit(StageName.TRAIN, self.key))
        self.check_end()

    def disturb(self, kill: Kill) -> bool:
        """Start an attempt, end it, and look at what it leaves; return whether the end came in time."""
        self.attempts += 1
        before = self.saved()
        moment = LAST if before == STEPS and kill.moment in UNDERWAY else kill.moment
        step = min(before + int(self.random.integers(INTERVAL)), STEPS - 2)
        end, code = WAYS[kill.way]
        with started(self.volume, self.key, f"a{self.attempts}", self.params, self.runtime) as process:
            attempt = Attempt(self.volume, self.key, f"a{self.attempts}", process)
            if wait_for_moment(moment, attempt, step, self.random):
                self.check_start(attempt, before)
                left = started_by(process)
                end(process, self.random)
                errors = process.communicate(timeout=PATIENCE)[1]
                wait_for(lambda: not any(alive(pid) for pid in left))
        if self.volume.result(StageName.TRAIN, self.key) is not None:
            self.check_same()
            return False
        assert process.returncode == code, f"{kill}: {errors}"
        self.check_left(attempt, kill, before)
        return True

    def check_start(self, attempt: Attempt, saved: int) -> None:
        """Check that an attempt has begun where it should, and removed what others had begun to write."""
        if told := attempt.told():
            assert told[0]["note"] == first_words(saved)
            staged = self.volume.checkpoints(self.key).glob("step-*.*")
            assert {path.name.partition(".")[2] for path in staged} <= {attempt.name}

    def check_left(self, attempt: Attempt, kill: Kill, before: int) -> None:
        """Check that an attempt that was ended has published nothing but checkpoints, and those that it should."""
        assert not self.volume.unit(StageName.TRAIN, self.key).exists()
        done, saved = max(before, attempt.last_step()), self.saved()
        passed = (done - 1) // INTERVAL * INTERVAL  # the next step is taken only when this one has been saved
        assert max(before, passed, 0) <= saved <= done, f"{kill}: {done} steps, {saved} saved"
        if kill.way == "SIGKILL to a rank":
            assert "rank " in failure(self.volume, self.key, attempt.name)["message"]
        if kill.way == "SIGTERM":
            assert failure(self.volume, self.key, attempt.name)["reason"] == "Interrupted"
            assert saved == done, f"{kill}: {done} steps, {saved} saved"
            assert not (attempt.folder / "out").exists()
            took = "checkpointSeconds" in (attempt.folder / "progress.jsonl").read_text()
            assert took or saved == before  # the next grace period is sized by it
        print(f"{self.key}: {kill.way}, {kill.moment}: {done} steps, {saved} saved")

    def saved(self) -> int:
        """Return the step that the next attempt will go on from, 0: from the beginning; nothing may be damaged."""
        settings = read_settings({**PARAMS, **self.params}, {**ALL_RUNTIME, **self.runtime})
        found, passed_over = checkpoints.newest(self.volume.checkpoints(self.key), self.ranks, state_layout(settings))
        assert passed_over == []
        return found.step if found else 0

    def check_end(self) -> None:
        """Check what came of it, and that nothing else is left."""
        self.check_same()
        assert not self.volume.checkpoints(self.key).exists()
        assert not any((folder / "out").exists() for folder in self.volume.attempts(StageName.TRAIN, self.key))

    def check_same(self) -> None:
        """Compare with the quiet training: every figure of the record and every weight are the same to the last bit."""
        assert self.record(self.key) == self.record(self.quiet)
        assert [event["step"] for event in self.record(self.key) if "loss" in event] == list(range(1, STEPS + 1))
        ours, theirs = (out(self.volume, key) for key in (self.key, self.quiet))
        names = sorted(path.name for path in theirs.iterdir())
        assert sorted(path.name for path in ours.iterdir()) == names
        for name in names:
            if name.endswith(".safetensors"):
                check_equal(load_file(ours / name), load_file(theirs / name))
            else:
                assert (ours / name).read_bytes() == (theirs / name).read_bytes()

    def record(self, key: str) -> list[dict[str, Any]]:
        """Return the record of a finished training without what depends on the clock."""
        events = read_metrics(self.volume.unit(StageName.TRAIN, key) / "logs" / "metrics.jsonl")
        clocked = {"time", "tokensPerSecond"}
        return [{name: value for name, value in event.items() if name not in clocked} for event in events]


def first_words(saved: int) -> str:
    return f"going on from step {saved}" if saved else "loading the base"


def check_equal(ours: Mapping[str, torch.Tensor], theirs: Mapping[str, torch.Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert torch.equal(ours[name], tensor), name
