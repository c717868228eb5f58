"""The losses of DPO, ORPO and KTO, row by row.

Each is a sum over rows that its caller divides by the rows of the whole step, so it does not depend on how a step is
split into ranks and passes.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch.nn.functional import logsigmoid

from tunesmith_stages.train.log_probabilities import Answers
from tunesmith_stages.train.methods import Preference

PAIR_FIGURES = ("reward_margin", "reward_accuracy")
"""The mean difference between the rewards of the chosen and the rejected answer, and the share of pairs in which it is
above 0. A reward is beta times what an answer has become likelier by than the base holds it (DPO), or beta times its
log probability per token (ORPO)."""
LABEL_FIGURES = ("reward_desirable", "reward_undesirable")
"""The mean rewards of desirable and of undesirable answers, as in DPO."""

_CERTAIN = -1e-6
"""A log probability above this counts as this: the odds of what is certain are infinite."""


class Measured(NamedTuple):
    """What some rows come to."""

    loss: torch.Tensor
    """The sum of their losses."""
    figures: torch.Tensor
    """For each figure its sum and the number of rows in it, of shape (figures, 2)."""


def pair_losses(preference: Preference, chosen: Answers, rejected: Answers, reference: torch.Tensor | None) -> Measured:
    """Return what pairs of answers to the same prompt come to.

    Args:
        preference: DPO or ORPO.
        chosen: the better answers, one for each pair.
        rejected: the others.
        reference: log probabilities by the base, of shape (pairs, 2): of the chosen answer and the rejected one. None
            with ORPO, which knows no base.
    """
    if reference is None:
        losses, rewards = _orpo(preference, chosen, rejected)
    else:
        losses, rewards = _dpo(preference, chosen, rejected, reference)
    margins = (rewards[0] - rewards[1]).detach()
    every = torch.ones_like(margins, dtype=torch.bool)
    return Measured(losses.sum(), torch.stack([_sum(margins, every), _sum((margins > 0).to(margins.dtype), every)]))


_Rewards = tuple[torch.Tensor, torch.Tensor]


def _dpo(
    preference: Preference, chosen: Answers, rejected: Answers, reference: torch.Tensor
) -> tuple[torch.Tensor, _Rewards]:
    """Return equation 7 of DPO, and so many times the loss that supervised fine-tuning takes on the chosen answer.

    That addition is equation 1 of Liu et al., 2024 (https://arxiv.org/abs/2405.16436), by the mean of each answer.
    """
    rewards = (
        preference.beta * (chosen.sums - reference[:, 0]),
        preference.beta * (rejected.sums - reference[:, 1]),
    )
    return -logsigmoid(rewards[0] - rewards[1]) - preference.sft_weight * chosen.means, rewards


def _orpo(preference: Preference, chosen: Answers, rejected: Answers) -> tuple[torch.Tensor, _Rewards]:
    """Return equation 6 of ORPO; log probabilities are those per token, as in its equation 3."""
    ratio = _log_odds(chosen.means) - _log_odds(rejected.means)
    rewards = (preference.beta * chosen.means, preference.beta * rejected.means)
    return -chosen.means - preference.beta * logsigmoid(ratio), rewards


def _log_odds(log_probability: torch.Tensor) -> torch.Tensor:
    """Return ``log(p / (1 - p))``."""
    bounded = log_probability.clamp(max=_CERTAIN)
    return bounded - torch.log(-torch.expm1(bounded))


def label_losses(
    preference: Preference, answers: Answers, desirable: torch.Tensor, reference: torch.Tensor, drift: float
) -> Measured:
    """Return what single answers come to: equations 8 and 9 of KTO.

    Args:
        preference: KTO.
        answers: the answers.
        desirable: whether each is.
        reference: their log probabilities by the base.
        drift: how far the model is from the base, z0: see :func:`drift_of`.
    """
    ratios = answers.sums - reference
    signs = torch.where(desirable, 1.0, -1.0)
    weights = torch.where(desirable, preference.desirable_weight, preference.undesirable_weight)
    losses = weights * torch.sigmoid(-preference.beta * (signs * (ratios - drift)))
    rewards = (preference.beta * ratios).detach()
    return Measured(losses.sum(), torch.stack([_sum(rewards, desirable), _sum(rewards, ~desirable)]))


def drift_of(total: float, rows: float) -> float:
    """Return how far a model is from its base: z0 of KTO, in nats.

    It is the mean, over prompts with answers that belong to other ones, of what an answer has become likelier by; below
    0, where it cannot truly be, it is 0.
    """
    return max(0.0, total / max(rows, 1))


def _sum(values: torch.Tensor, among: torch.Tensor) -> torch.Tensor:
    """Return the sum of those values, and their number."""
    return torch.stack([(values * among).sum(), among.sum().to(values.dtype)]).double()
