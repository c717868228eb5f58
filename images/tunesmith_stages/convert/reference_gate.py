"""Proves that the finished file expects the same next tokens as the model that was trained.

At the end of training the model itself wrote down, for each probe, its 64 likeliest next tokens with their
probabilities. llama-server is given the same token ids. Compared are

- the Kullback-Leibler divergence over those 64 tokens and one lump for all others, so that it never exceeds the
  divergence over the whole vocabulary: how differently the two would speak;
- the likeliest token;
- the spread: the standard deviation of the 64 differences of log-probability. It sees what a sharp distribution hides
  from the divergence, and it is what tells a wrong merge (scale, missing or transposed factors, a lost layer) from
  rounding to 16 bits.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tunesmith_stages.contract import ExitCode
from tunesmith_stages.llama_server import LlamaServer
from tunesmith_stages.program import StageError

MAX_KL = 0.06
"""Largest divergence of one probe, in nats."""
MEAN_KL = 0.02
"""Largest mean divergence over the probes, in nats."""
MEAN_SPREAD = 0.25
"""Largest mean spread over the probes, in nats.

Measured: right merges of a toy in bfloat16 0.01 (divergence 6e-5); bfloat16 against float32 arithmetic through 32
layers of random weights, which are worse than trained ones, 0.13 (0.007). After a short LoRA training: alpha doubled
0.6 (0.12), adapter left out 0.8 (0.24), any one layer missing 0.36 and more (0.004), two of seven projections
transposed 0.5 (0.005)."""
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
    spread: float
    """Standard deviation of the differences of log-probability, in nats."""
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
    spread = statistics.pstdev(p - exported[token] for token, p in trained.items())
    return ProbeFigures(probe, max(kl, 0.0), spread, trained_top, exported_top, gap)


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
    kl, spread = mean_of(figures, "kl"), mean_of(figures, "spread")
    apart = [figure for figure in figures if figure.kl > MAX_KL or figure.gap > NEAR_TIE]
    if not apart and kl <= MEAN_KL and spread <= MEAN_SPREAD:
        return
    lines = "; ".join(
        f"probe {figure.probe}: divergence {figure.kl:.4f}, spread {figure.spread:.2f}, likeliest token "
        f"{figure.exported_top} (trained: {figure.trained_top})"
        for figure in (apart or figures)
    )
    raise StageError(
        ExitCode.GATE_FAILED,
        f"the exported model does not expect what the trained model expects. Mean divergence {kl:.4f} nats (allowed "
        f"{MEAN_KL}, and {MAX_KL} for one probe), mean spread {spread:.2f} (allowed {MEAN_SPREAD}). {lines}",
        reason="MergedModelDiffers",
        hint="See logs/reference_check.json. The base may have changed since training, or its precision is too low.",
    )


def mean_of(figures: Sequence[ProbeFigures], field: str) -> float:
    """Return the mean of one of the figures; 0 without probes."""
    return statistics.fmean(getattr(figure, field) for figure in figures) if figures else 0.0


def as_record(figures: Sequence[ProbeFigures]) -> dict[str, Any]:
    """Return what is written to ``logs/reference_check.json``."""
    return {
        "limits": {"maxKl": MAX_KL, "meanKl": MEAN_KL, "meanSpread": MEAN_SPREAD, "nearTie": NEAR_TIE},
        "probes": [{k: _finite(v) for k, v in dataclasses.asdict(figure).items()} for figure in figures],
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
