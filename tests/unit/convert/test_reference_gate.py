from __future__ import annotations

import math

import pytest

from tunesmith_stages.convert.reference_gate import (
    MAX_KL,
    MEAN_KL,
    MEAN_SPREAD,
    NEAR_TIE,
    ProbeFigures,
    compare,
    require_same_model,
)
from tunesmith_stages.program import StageError


def logs(*probabilities: float) -> dict[int, float]:
    return {token: math.log(p) for token, p in enumerate(probabilities)}


def pairs(*probabilities: float) -> list[list[float]]:
    return [[token, math.log(p)] for token, p in enumerate(probabilities)]


def test_the_same_distribution_does_not_diverge() -> None:
    """Equal probabilities give no divergence and the same likeliest token."""
    figures = compare(0, pairs(0.5, 0.3, 0.1), logs(0.5, 0.3, 0.1, 0.1))
    assert figures.kl == pytest.approx(0, abs=1e-12)
    assert figures.gap == 0


def test_divergence_is_that_of_the_lumped_distribution() -> None:
    """The tokens that the reference does not list count as one: 0.5 ln(0.5/0.25) + 0.3 ln 1 + 0.2 ln(0.2/0.45)."""
    figures = compare(0, pairs(0.5, 0.3), logs(0.25, 0.3, 0.4))
    expected = 0.5 * math.log(0.5 / 0.25) + 0.2 * math.log(0.2 / 0.45)
    assert figures.kl == pytest.approx(expected)
    assert (figures.trained_top, figures.exported_top) == (0, 2)
    assert figures.gap == math.inf


def test_change_of_places_is_measured_by_the_trained_model() -> None:
    """How near a tie is, is what the trained model thinks of the two tokens."""
    assert compare(0, pairs(0.41, 0.40), logs(0.40, 0.41)).gap == pytest.approx(math.log(0.41 / 0.40))


def test_spread_sees_what_a_sharp_distribution_hides() -> None:
    """Unlikely tokens that moved hardly show in the divergence, and fully in the spread."""
    figures = compare(0, pairs(0.998, 0.001, 0.0005), logs(0.998, 0.0005, 0.001, 0.0005))
    assert figures.kl < 0.001
    assert figures.spread == pytest.approx(math.log(2) * math.sqrt(2 / 3))


def figure(kl: float, gap: float = 0.0, spread: float = 0.0) -> ProbeFigures:
    return ProbeFigures(0, kl, spread, 1, 1 if gap == 0 else 2, gap)


PASSING = {
    "no probes": [],
    "rounding": [figure(1e-5)] * 8,
    "one probe worse than the mean may be": [figure(MAX_KL * 0.9)] + [figure(0)] * 7,
    "near tie": [figure(1e-4, NEAR_TIE * 0.9)],
    "one probe with much spread": [figure(1e-4, spread=MEAN_SPREAD * 4)] + [figure(0)] * 7,
}
FAILING = {
    "one probe": [figure(MAX_KL * 1.1)] + [figure(0)] * 7,
    "all a little": [figure(MEAN_KL * 1.1)] * 8,
    "another likeliest token": [figure(1e-4, NEAR_TIE * 1.1)] + [figure(0)] * 7,
    "spread": [figure(1e-4, spread=MEAN_SPREAD * 1.1)] * 8,
    "a token out of nowhere": [figure(1e-4, math.inf)],
}


@pytest.mark.parametrize("name", PASSING)
def test_rounding_passes(name: str) -> None:
    """What rounding to 16 bits does to a model is let through."""
    require_same_model(PASSING[name])


@pytest.mark.parametrize("name", FAILING)
def test_another_model_fails(name: str) -> None:
    """What rounding cannot explain is refused, with the figures of the probes."""
    with pytest.raises(StageError, match="probe 0") as caught:
        require_same_model(FAILING[name])
    assert caught.value.reason == "MergedModelDiffers"
