"""Proves that the finished file expects the same next tokens as the model that was trained.

At the end of training the model itself wrote down, for each probe, its 64 likeliest next tokens with their
probabilities. llama-server is given the same token ids. Compared are the Kullback-Leibler divergence, over those 64
tokens and one lump for all others (so it never exceeds the divergence over the whole vocabulary), and the likeliest
token. A wrong merge (scale, missing or transposed factors, a lost layer) shows; rounding to 16 bits does not.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tunesmith_stages.contract import ExitCode
from tunesmith_stages.llama_server import LlamaServer
from tunesmith_stages.program import StageError

MAX_KL = 0.06
"""Largest divergence of one probe, in nats.

Measured: right merges of a toy give at most 2e-5; bfloat16 against float32 arithmetic, through 32 random layers (worse
than trained ones), 0.017. After a short LoRA training: alpha doubled 1.3, adapter left out 0.9, one layer missing 0.4,
two projections transposed 0.10."""
MEAN_KL = 0.02
"""Largest mean divergence over the probes, in nats. Measured in the same order: 6e-6; 0.007; 0.65, 0.33, 0.12, 0.03."""
NEAR_TIE = 0.25
"""Two tokens whose log-probabilities differ by less may change places, in nats."""
_ASKED = 2048
"""How many tokens llama-server is asked for, so that the reference's 64 are among them."""
_TINY = 1e-9


@dataclass(frozen=True)
class ProbeFigures:
    """How one probe came out."""

    probe: int
    kl: float
    """Divergence of the file from the trained model, in nats."""
    trained_top: int
    """The token that the trained model thinks likeliest."""
    exported_top: int
    gap: float
    """By how many nats the trained model prefers its likeliest token to the file's; 0 if they are the same."""


def compare(probe: int, reference: Sequence[Sequence[float]], found: Mapping[int, float]) -> ProbeFigures:
    """Compare one probe.

    Args:
        probe: its number.
        reference: pairs of token and natural-log probability of the trained model.
        found: token to natural-log probability of the exported file, the likeliest ones.
    """
    trained = {int(token): float(logprob) for token, logprob in reference}
    least = min(found.values())
    exported = {token: found.get(token, least) for token in trained}
    kl = sum(math.exp(p) * (p - exported[token]) for token, p in trained.items())
    rest = max(1.0 - sum(math.exp(p) for p in trained.values()), _TINY)
    rest_exported = max(1.0 - sum(math.exp(q) for q in exported.values()), _TINY)
    kl += rest * (math.log(rest) - math.log(rest_exported))
    trained_top, exported_top = max(trained, key=trained.__getitem__), max(found, key=found.__getitem__)
    gap = trained[trained_top] - trained.get(exported_top, -math.inf)
    return ProbeFigures(probe, max(kl, 0.0), trained_top, exported_top, gap)


def measure(server: LlamaServer, reference: Mapping[str, Any], vocab_size: int) -> list[ProbeFigures]:
    """Ask the server about every probe of ``reference.json``."""
    return [
        compare(number, probe["top"], server.next_token(probe["ids"], min(_ASKED, vocab_size)))
        for number, probe in enumerate(reference["prompts"])
    ]


def require_same_model(figures: Sequence[ProbeFigures]) -> None:
    """Judge the figures.

    Raises:
        StageError: the file is not the model that was trained.
    """
    if not figures:
        return
    mean = sum(figure.kl for figure in figures) / len(figures)
    apart = [figure for figure in figures if figure.kl > MAX_KL or figure.gap > NEAR_TIE]
    if not apart and mean <= MEAN_KL:
        return
    lines = "; ".join(
        f"probe {figure.probe}: {figure.kl:.4f} nats, likeliest token {figure.exported_top} "
        f"(trained: {figure.trained_top})"
        for figure in (apart or figures)
    )
    raise StageError(
        ExitCode.GATE_FAILED,
        f"the exported model does not expect what the trained model expects (allowed: {MAX_KL} nats, {MEAN_KL} in the "
        f"mean, which is {mean:.4f}): {lines}",
        reason="MergedModelDiffers",
        hint="See logs/reference_check.json. The base may have changed since training, or its precision is too low.",
    )


def as_record(figures: Sequence[ProbeFigures]) -> dict[str, Any]:
    """Return what is written to ``logs/reference_check.json``."""
    return {
        "limits": {"maxKl": MAX_KL, "meanKl": MEAN_KL, "nearTie": NEAR_TIE},
        "probes": [{k: _finite(v) for k, v in dataclasses.asdict(figure).items()} for figure in figures],
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
