"""How likely a model holds answers, from its logits, with little memory beside them."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from tunesmith_stages.train.rows import IGNORED

_AT_ONCE = 256
"""Tokens whose logits are there in float32 at one time."""


class Answers(NamedTuple):
    """How likely the answers in some rows are."""

    sums: torch.Tensor
    """Natural-log probability of each whole answer, given what comes before it."""
    counts: torch.Tensor
    """Tokens of each answer."""

    @property
    def means(self) -> torch.Tensor:
        """The same per token."""
        return self.sums / self.counts.clamp(min=1)

    def part(self, rows: slice) -> Answers:
        """Return those of some of the rows."""
        return Answers(self.sums[rows], self.counts[rows])


def answers_in(logits: torch.Tensor, labels: torch.Tensor) -> Answers:
    """Return how likely the labelled tokens of each row are, each given all before it.

    Args:
        logits: of shape (rows, tokens, vocabulary), in any number format; computed with in float32 at least.
        labels: of shape (rows, tokens); :data:`IGNORED` where a token is no part of an answer.
    """
    rows, places = (labels[:, 1:] != IGNORED).nonzero(as_tuple=True)
    chosen = labels[rows, places + 1]
    tokens = _LogProbabilities.apply(logits, rows, places, chosen)
    sums = torch.zeros(len(labels), dtype=tokens.dtype, device=tokens.device).index_add(0, rows, tokens)
    return Answers(sums, torch.bincount(rows, minlength=len(labels)))


class _LogProbabilities(torch.autograd.Function):
    """``log_softmax(logits)[row, place, token]`` of each of some tokens.

    Done by autograd, the float32 copy, the log-softmax and the gradient of all logits would be there at one time: 12
    bytes for each. Here only the logits are kept, and what the backward pass needs is made of them again, a few tokens
    at a time and for the labelled ones alone.
    """

    @staticmethod
    def forward(
        ctx: Any, logits: torch.Tensor, rows: torch.Tensor, places: torch.Tensor, chosen: torch.Tensor
    ) -> torch.Tensor:
        """Return one number for each token."""
        ctx.save_for_backward(logits, rows, places, chosen)
        found = [
            scores.log_softmax(-1).gather(1, token[:, None])[:, 0]
            for scores, _, _, token in _parts(logits, rows, places, chosen)
        ]
        return torch.cat(found)

    @staticmethod
    def backward(ctx: Any, slopes: torch.Tensor) -> Any:
        """Return the gradient of the logits: the chosen token's share minus the soft-max, times what comes back."""
        logits, rows, places, chosen = ctx.saved_tensors
        gradient = torch.zeros_like(logits)
        parts = zip(_parts(logits, rows, places, chosen), slopes.split(_AT_ONCE), strict=True)
        for (scores, row, place, token), slope in parts:
            change = scores.softmax(-1).mul_(-slope[:, None])
            change.scatter_add_(1, token[:, None], slope[:, None])
            gradient[row, place] = change.to(gradient.dtype)
        return gradient, None, None, None


def _parts(logits: torch.Tensor, *tokens: torch.Tensor) -> Any:
    """Yield the logits of some tokens at a time, with the tokens' rows, places and ids."""
    for row, place, token in zip(*(tensor.split(_AT_ONCE) for tensor in tokens), strict=True):
        yield logits[row, place].to(torch.promote_types(logits.dtype, torch.float32)), row, place, token
