"""The losses of DPO, ORPO and KTO against the papers' formulas, written out for one row with Python's own numbers."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch

from tunesmith_stages.train.log_probabilities import Answers
from tunesmith_stages.train.methods import Method, Preference
from tunesmith_stages.train.preference_losses import drift_of, label_losses, pair_losses

ROWS = 12


class Case(NamedTuple):
    """Log probabilities of a pair by model and base, and the answers' lengths."""

    chosen: float
    rejected: float
    base_chosen: float
    base_rejected: float
    lengths: tuple[int, int]


def cases() -> list[Case]:
    dice = random.Random(5)  # noqa: S311 - no secret
    found = []
    for _ in range(ROWS):
        lengths = dice.randint(1, 40), dice.randint(1, 40)
        model = [-length * dice.uniform(0.05, 3) for length in lengths]
        base = [value + dice.uniform(-20, 20) for value in model]
        found.append(Case(model[0], model[1], base[0], base[1], lengths))
    return found


CASES = cases()


def sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))


def of_chosen(rows: list[Case]) -> Answers:
    sums = torch.tensor([row.chosen for row in rows], dtype=torch.float64)
    return Answers(sums, torch.tensor([row.lengths[0] for row in rows], dtype=torch.int64))


def of_rejected(rows: list[Case]) -> Answers:
    sums = torch.tensor([row.rejected for row in rows], dtype=torch.float64)
    return Answers(sums, torch.tensor([row.lengths[1] for row in rows], dtype=torch.int64))


def base(rows: list[Case]) -> torch.Tensor:
    return torch.tensor([[row.base_chosen, row.base_rejected] for row in rows], dtype=torch.float64).reshape(-1, 2)


def ours(preference: Preference, rows: list[Case]) -> tuple[float, list[list[float]]]:
    """Return loss and figures of some rows."""
    if preference.method is Method.KTO:
        answers = Answers(*(torch.cat(pair) for pair in zip(of_chosen(rows), of_rejected(rows), strict=True)))
        desirable = torch.tensor([True] * len(rows) + [False] * len(rows), dtype=torch.bool)
        measured = label_losses(preference, answers, desirable, base(rows).T.flatten(), 0.7)
    else:
        reference = base(rows) if preference.has_reference else None
        measured = pair_losses(preference, of_chosen(rows), of_rejected(rows), reference)
    return float(measured.loss), measured.figures.tolist()


def dpo(row: Case, beta: float, weight: float) -> float:
    margin = row.chosen - row.base_chosen - (row.rejected - row.base_rejected)
    return -math.log(sigmoid(beta * margin)) + weight * -row.chosen / row.lengths[0]


def orpo(row: Case, beta: float) -> float:
    chosen, rejected = (
        math.exp(value / length) for value, length in zip((row.chosen, row.rejected), row.lengths, strict=True)
    )
    ratio = (chosen / (1 - chosen)) / (rejected / (1 - rejected))
    return -math.log(chosen) + beta * -math.log(sigmoid(math.log(ratio)))


def kto(row: Case, beta: float, weights: tuple[float, float], drift: float) -> float:
    """Return the loss of both answers of a pair, as two rows: lambda - v, without the constant lambda."""
    wanted = weights[0] * (1 - sigmoid(beta * (row.chosen - row.base_chosen - drift)))
    unwanted = weights[1] * (1 - sigmoid(beta * (drift - (row.rejected - row.base_rejected))))
    return wanted + unwanted


METHODS: dict[str, tuple[Preference, Callable[[Case], float]]] = {
    "DPO": (Preference(Method.DPO, 0.1), lambda row: dpo(row, 0.1, 0)),
    "DPO, the chosen answer's loss added": (Preference(Method.DPO, 0.3, 2.0), lambda row: dpo(row, 0.3, 2.0)),
    "ORPO": (Preference(Method.ORPO, 0.2), lambda row: orpo(row, 0.2)),
    "KTO": (
        Preference(Method.KTO, 0.15, desirable_weight=1.0, undesirable_weight=1.5),
        lambda row: kto(row, 0.15, (1.0, 1.5), 0.7),
    ),
}


@pytest.mark.parametrize("name", METHODS)
def test_loss_is_that_of_the_paper(name: str) -> None:
    """Each row's loss is the paper's."""
    preference, formula = METHODS[name]
    for row in CASES:
        assert ours(preference, [row])[0] == pytest.approx(formula(row), rel=1e-12)


@pytest.mark.parametrize("name", METHODS)
def test_loss_does_not_depend_on_the_split(name: str) -> None:
    """Losses and figures of a step are the sums over its parts, one of them without rows."""
    preference, _ = METHODS[name]
    parts = [ours(preference, rows) for rows in (CASES[:3], [], CASES[3:4], CASES[4:])]
    whole = ours(preference, CASES)
    assert sum(loss for loss, _ in parts) == pytest.approx(whole[0], rel=1e-12)
    summed = torch.tensor([figures for _, figures in parts]).sum(0)
    torch.testing.assert_close(summed, torch.tensor(whole[1]))


def test_figures_of_pairs() -> None:
    """The margin of rewards and how often it is above 0, for DPO against the base and for ORPO per token."""
    _, (margin, accuracy) = ours(Preference(Method.DPO, 0.5), CASES)
    margins = [0.5 * (row.chosen - row.base_chosen - row.rejected + row.base_rejected) for row in CASES]
    assert margin == pytest.approx([sum(margins), ROWS])
    assert accuracy == [sum(value > 0 for value in margins), ROWS]
    assert 0 < accuracy[0] < ROWS
    _, (margin, _) = ours(Preference(Method.ORPO, 0.5), CASES)
    per_token = [row.chosen / row.lengths[0] - row.rejected / row.lengths[1] for row in CASES]
    assert margin == pytest.approx([0.5 * sum(per_token), ROWS])


def test_figures_of_single_answers() -> None:
    """The rewards of desirable and undesirable answers apart, each with the number of its rows."""
    _, (desirable, undesirable) = ours(Preference(Method.KTO, 0.5), CASES)
    assert desirable == pytest.approx([0.5 * sum(row.chosen - row.base_chosen for row in CASES), ROWS])
    assert undesirable == pytest.approx([0.5 * sum(row.rejected - row.base_rejected for row in CASES), ROWS])


@pytest.mark.parametrize("value", [0.0, -1e-9, -1e-3, -50.0, -5000.0])
def test_orpo_of_what_is_certain_or_impossible(value: float) -> None:
    """A model that is sure of an answer, or gives it no chance, still has a finite loss and gradient."""
    sums = torch.tensor([value], requires_grad=True)
    other = torch.tensor([-2.0], requires_grad=True)
    for chosen, rejected in ((sums, other), (other, sums)):
        pair = Answers(chosen, torch.ones(1)), Answers(rejected, torch.ones(1))
        measured = pair_losses(Preference(Method.ORPO, 0.1), *pair, None)
        measured.loss.backward()
        assert measured.loss.isfinite()
        assert sums.grad is not None
        assert sums.grad.isfinite()


def test_gradients_go_where_they_should() -> None:
    """Every method makes the chosen answer likelier and the rejected one less likely."""
    for name, (preference, _) in METHODS.items():
        chosen, rejected = (answers.sums.requires_grad_() for answers in (of_chosen(CASES), of_rejected(CASES)))
        lengths = of_chosen(CASES).counts, of_rejected(CASES).counts
        if preference.method is Method.KTO:
            answers = Answers(torch.cat([chosen, rejected]), torch.cat(lengths))
            desirable = torch.tensor([True] * ROWS + [False] * ROWS)
            measured = label_losses(preference, answers, desirable, base(CASES).T.flatten(), 0.7)
        else:
            pair = Answers(chosen, lengths[0]), Answers(rejected, lengths[1])
            measured = pair_losses(preference, *pair, base(CASES) if preference.has_reference else None)
        measured.loss.backward()
        assert chosen.grad is not None
        assert rejected.grad is not None
        assert bool((chosen.grad < 0).all()), name
        assert bool((rejected.grad > 0).all()), name


def test_drift_is_never_below_nothing() -> None:
    """z0 stands for a divergence: the mean over rows, and 0 where the estimate is negative."""
    assert drift_of(6.0, 4) == 1.5
    assert drift_of(-6.0, 4) == 0.0
