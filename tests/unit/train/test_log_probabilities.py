"""How likely a model holds answers: the same as by a log-softmax over everything, with its gradient."""

from __future__ import annotations

import pytest
import torch

from tunesmith_stages.train import log_probabilities
from tunesmith_stages.train.log_probabilities import Answers, answers_in

LABELS = torch.tensor([[-100, -100, 4, 0, 2], [-100, 1, -100, -100, -100], [-100] * 5])


def logits_of(dtype: torch.dtype = torch.float64) -> torch.Tensor:
    torch.manual_seed(3)
    return (3 * torch.randn(3, 5, 6)).to(dtype).requires_grad_()


def by_hand(logits: torch.Tensor) -> torch.Tensor:
    """Return the sum for each row, token by token."""
    every = logits.double().log_softmax(-1)
    sums = [
        sum((every[row, place - 1, token] for place, token in enumerate(tokens) if token >= 0), torch.tensor(0.0))
        for row, tokens in enumerate(LABELS.tolist())
    ]
    return torch.stack(sums)


def test_sums_the_labelled_tokens_of_each_row() -> None:
    """Each labelled token counts with what the model gives it after the tokens before it; a row without has 0."""
    logits = logits_of()
    answers = answers_in(logits, LABELS)
    torch.testing.assert_close(answers.sums, by_hand(logits), check_dtype=False)
    assert answers.counts.tolist() == [3, 1, 0]
    assert answers.means.tolist() == pytest.approx((by_hand(logits) / torch.tensor([3, 1, 1])).tolist())


@pytest.mark.parametrize("at_once", [1, 2, 1024])
def test_gradient_is_that_of_the_log_softmax(monkeypatch: pytest.MonkeyPatch, at_once: int) -> None:
    """However many tokens are taken at once, the gradient is that of the plain formula, and 0 where nothing counts."""
    monkeypatch.setattr(log_probabilities, "_AT_ONCE", at_once)
    factors = torch.tensor([0.5, -2.0, 1.0], dtype=torch.float64)
    ours, theirs = logits_of(), logits_of()
    (answers_in(ours, LABELS).sums * factors).sum().backward()
    (by_hand(theirs) * factors).sum().backward()
    assert ours.grad is not None
    assert theirs.grad is not None
    torch.testing.assert_close(ours.grad, theirs.grad)
    assert not ours.grad[2].any()


def test_half_precision_is_computed_in_float32() -> None:
    """Logits in 16 bits give sums in float32 that are those of the same numbers, and a gradient in 16 bits."""
    logits = logits_of(torch.bfloat16)
    answers = answers_in(logits, LABELS)
    assert answers.sums.dtype == torch.float32
    torch.testing.assert_close(answers.sums, by_hand(logits), check_dtype=False, rtol=1e-6, atol=1e-6)
    answers.sums.sum().backward()
    assert logits.grad is not None
    assert logits.grad.dtype == torch.bfloat16


def test_nothing_labelled_still_has_a_gradient() -> None:
    """A rank without rows takes part in the backward pass: all zeros."""
    logits = logits_of()
    answers_in(logits, torch.full_like(LABELS, -100)).sums.sum().backward()
    assert logits.grad is not None
    assert not logits.grad.any()


def test_part_of_the_rows() -> None:
    """Some rows' answers are those rows' sums and counts."""
    part = Answers(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([1, 2, 3])).part(slice(1, 3))
    assert (part.sums.tolist(), part.counts.tolist()) == ([2.0, 3.0], [2, 3])
