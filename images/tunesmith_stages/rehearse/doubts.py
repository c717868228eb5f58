"""What is no mistake, but would do harm or nothing at all: said before the training, and not refused. Pure.

What contradicts itself in the job alone is refused when it is read; here are the numbers that only the data tell of.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_HIGHEST = {True: 5e-6, False: 5e-5}
"""Learning rate above which DPO and KTO are likely to ruin a model, by whether its own weights are trained: five times
what DPO's authors take (Rafailov et al., 2023, appendix B, https://arxiv.org/abs/2305.18290: 1e-6); an adapter's
matrices, which begin small, bear ten times as much."""


def doubts(given: Mapping[str, Any], steps: int) -> list[str]:
    """Return a sentence for each thing to think about again.

    Args:
        given: how it is trained: ``runtime.estimate``.
        steps: optimizer steps of the whole training.
    """
    return [text for text in (_rate(given), _warmup(given, steps), _evaluations(given, steps)) if text]


def _rate(given: Mapping[str, Any]) -> str:
    rate, highest = float(given.get("learningRate") or 0), _HIGHEST[given["lora"] is None]
    if rate <= highest:
        return ""
    what = "all weights" if given["lora"] is None else "an adapter"
    return (
        f"`learningRate` is {rate:g}, and {given['method']} with {what} wants {highest:g} at most: above, the loss "
        "falls while the answers go to pieces"
    )


def _warmup(given: Mapping[str, Any], steps: int) -> str:
    warmup = int(given.get("warmupSteps") or 0)
    if warmup < steps or not warmup:
        return ""
    return (
        f"`warmupSteps` is {warmup}, and the training has {steps} steps: its learning rate is never reached; lower it, "
        "or take `warmupRatio`"
    )


def _evaluations(given: Mapping[str, Any], steps: int) -> str:
    every = int(given.get("evalSteps") or 0)
    if every < steps or not every:
        return ""
    return (
        f"`validation.evalSteps` is {every}, and the training has {steps} steps: `keepBest` and `earlyStopping` have "
        "nothing to go by; lower it"
    )
