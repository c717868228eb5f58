"""The loss taken in the output layer: what it gives is the loss, and the logits are never there all at once.

Of a small model with a large vocabulary the logits are most of the memory that a step needs: 4,096 tokens of a model
with 151,936 of them make 2.5 GB in 32 bits, several times over. And of rows of which only the answer is learnt most
logits are made for nothing. So the output layer is given the labels, takes the tokens that have one, some at a time,
and has the gradients ready before the next ones come. The idea is that of Liger's fused linear cross entropy (Hsu et
al., 2024, https://arxiv.org/abs/2410.10989); this one is PyTorch's own operations, for any device.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from tunesmith_stages.train.limits import LOGITS_AT_ONCE
from tunesmith_stages.train.rows import IGNORED

_AT_ONCE_ON_CPU = 2**24
"""Logits that are made at once on a CPU where the weight is not trained: there a product of few rows is as fast."""
_FEWEST_TOKENS = 64
_SMALLER = 64
"""So many times smaller are hidden states taken in float16: its highest number is 65,504, and a sum over thousands of
tokens, which the factor of the loss has not made small yet, would be infinite."""


class _LinearCrossEntropy(torch.autograd.Function):
    """The summed cross entropy of ``hidden @ weight.T + bias``, in float32.

    Gradients are made with the loss, as if the factor 1 were to come back for it, and multiplied by the real one then.
    That of the weight is summed up in float32 over the parts.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, targets: torch.Tensor
    ) -> torch.Tensor:
        """Take hidden states of shape (tokens, size), a weight of (vocabulary, size) and targets of (tokens,)."""
        of_hidden, of_weight, of_bias, _ = ctx.needs_input_grad
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        grad_hidden = torch.zeros_like(hidden) if of_hidden else None
        grad_weight = grad_bias = None
        for part in _parts(len(hidden), weight, trained=of_weight):
            logits = hidden[part] @ weight.t()  # not `linear`: DeepSpeed has one of its own in its place
            scores = functional.log_softmax(logits if bias is None else logits + bias, -1, dtype=torch.float32)
            own = targets[part, None]
            total -= scores.gather(1, own).sum()
            if not any(ctx.needs_input_grad):
                continue
            slope = scores.exp_().scatter_add_(1, own, torch.full_like(own, -1, dtype=torch.float32))
            if of_bias:
                grad_bias = slope.sum(0) if grad_bias is None else grad_bias + slope.sum(0)
            slope = slope.to(hidden.dtype)
            if grad_hidden is not None:
                torch.mm(slope, weight, out=grad_hidden[part])
            if of_weight:
                grad_weight = _with_product(grad_weight, slope, hidden[part])
        if of_weight and grad_weight is None:  # no token is learnt here: the gradient is there all the same, for others
            grad_weight = torch.zeros_like(weight)
        if of_bias and grad_bias is None:
            grad_bias = torch.zeros_like(bias)
        ctx.grads = grad_hidden, grad_weight, grad_bias
        ctx.types = hidden.dtype, weight.dtype, bias.dtype if bias is not None else None
        return total

    @staticmethod
    def backward(ctx: Any, factor: torch.Tensor) -> Any:
        """Multiply what is there by the factor that comes back; it is used up."""
        grads, ctx.grads = ctx.grads, None
        made = (
            None if grad is None else grad.mul_(factor).to(kind) for grad, kind in zip(grads, ctx.types, strict=True)
        )
        return *made, None


def _with_product(grad: torch.Tensor | None, slope: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
    """Return the gradient of the weight with a part more, in float32 from the second part on (float16: the first)."""
    if hidden.dtype is torch.float16:
        product = (slope.t() @ (hidden / _SMALLER)).float().mul_(_SMALLER)
        return product if grad is None else grad.add_(product)
    if grad is None:
        return slope.t() @ hidden
    if hidden.dtype is torch.float32:
        return grad.addmm_(slope.t(), hidden)
    return grad.float().add_(slope.t() @ hidden)


def _parts(tokens: int, weight: torch.Tensor, *, trained: bool) -> Iterator[slice]:
    """Yield the tokens that are taken at once, in parts of nearly the same size."""
    logits = _AT_ONCE_ON_CPU if weight.device.type == "cpu" and not trained else LOGITS_AT_ONCE
    parts = -(-tokens // max(_FEWEST_TOKENS, logits // len(weight)))
    for part in range(parts):
        yield slice(tokens * part // parts, tokens * (part + 1) // parts)


class HeadLoss:
    """Has a model's output layer give the loss, where labels are given and the model can do with that."""

    def __init__(self, model: Any) -> None:
        """Take a model as it is before DeepSpeed wraps it."""
        self._head = model.get_output_embeddings()
        self._labels: torch.Tensor | None = None
        self.used = False
        """Whether it does so; see :meth:`use_if_possible`."""

    def use_if_possible(self, forward: Callable[[torch.Tensor], torch.Tensor], device: torch.device) -> None:
        """Use it if the model leaves the logits as its output layer makes them; every rank must call this.

        Some models scale or cap them afterwards, and with an adapter there the layer is another one.

        Args:
            forward: takes token ids of shape (1, tokens) through the wrapped model; gives its logits.
            device: where the ids must be.
        """
        if type(self._head) is not nn.Linear:  # subclasses compute in their own way
            return
        made: list[tuple[int, torch.Tensor]] = []
        hook = self._head.register_forward_hook(lambda _module, _given, out: made.append((out.data_ptr(), out.clone())))
        with torch.no_grad():
            logits = forward(torch.zeros((1, 2), dtype=torch.long, device=device))
        hook.remove()
        self.used = len(made) == 1 and made[0][0] == logits.data_ptr() and torch.equal(made[0][1], logits)
        if self.used:
            self._head.forward = self._forward

    @contextmanager
    def taken_on(self, labels: torch.Tensor) -> Iterator[None]:
        """Have the model give the summed loss of these labels, of shape (rows, tokens), in place of its logits."""
        self._labels = labels if self.used else None
        try:
            yield
        finally:
            self._labels = None

    def _forward(self, hidden: torch.Tensor) -> torch.Tensor:
        weight, bias = self._head.weight, self._head.bias
        if self._labels is None:
            return functional.linear(hidden, weight, bias)
        if not torch.is_grad_enabled():  # inside an autograd.Function parameters seem to need gradients even then
            weight, bias = weight.detach(), None if bias is None else bias.detach()
        targets = self._labels[:, 1:]
        learnt = targets != IGNORED
        total: torch.Tensor = _LinearCrossEntropy.apply(hidden[:, :-1][learnt], weight, bias, targets[learnt])
        return total
