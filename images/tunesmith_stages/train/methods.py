"""What the model learns from: answers that are all good, or what people prefer. Pure: settings are read without torch.

DPO (Rafailov et al., 2023, https://arxiv.org/abs/2305.18290), ORPO (Hong et al., 2024,
https://arxiv.org/abs/2403.07691) and KTO (Ethayarajh et al., 2024, https://arxiv.org/abs/2402.01306) learn from
preferences; their losses are in :mod:`.preference_losses`.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


class Method(enum.StrEnum):
    """A method that learns from preferences."""

    DPO = "DPO"
    KTO = "KTO"
    ORPO = "ORPO"


@dataclass(frozen=True)
class Preference:
    """A method and its numbers."""

    method: Method
    beta: float
    """DPO and KTO: how strongly the model is held to its base. ORPO: the weight of the odds ratio."""
    sft_weight: float = 0.0
    """DPO: the weight of the chosen answer's mean negative log probability."""
    desirable_weight: float = 1.0
    """KTO: the weight of desirable answers."""
    undesirable_weight: float = 1.0
    """KTO: the weight of the others."""

    @property
    def has_reference(self) -> bool:
        """Whether it compares with what the base says."""
        return self.method is not Method.ORPO


def read_preference(params: Mapping[str, Any]) -> Preference | None:
    """Return what the keyed parameters of `train` say; None: supervised fine-tuning.

    Raises:
        KeyError: a field is missing.
        ValueError: a value is not usable.
    """
    if params.get("method", "SFT") == "SFT":
        return None
    numbers = params["preference"]
    return Preference(
        method=Method(params["method"]),
        beta=float(numbers["beta"]),
        sft_weight=float(numbers.get("sftWeight", 0)),
        desirable_weight=float(numbers.get("desirableWeight", 1)),
        undesirable_weight=float(numbers.get("undesirableWeight", 1)),
    )
