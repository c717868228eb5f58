"""The trained model's own view of a few prompts, for later stages to compare theirs with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from tunesmith_stages.contract import ExitCode
from tunesmith_stages.program import StageError

TOP = 64
"""How many of the most likely next tokens are kept of each prompt."""


def read_probes(file: Path) -> list[list[int]]:
    """Return the token ids of the prompts in ``probes.json``.

    Raises:
        StageError: it is not there or not usable.
    """
    try:
        prompts = json.loads(file.read_text(encoding="utf-8"))["prompts"]
        return [[int(token) for token in prompt["ids"]] for prompt in prompts]
    except FileNotFoundError as error:
        raise StageError(ExitCode.MISSING_INPUT, f"the prepared data lack {file.name}: {file}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise StageError(ExitCode.BAD_DATA, f"{file} holds no prompts: {error}", reason="PreparedDataBroken") from error


def reference(engine: Any, probes: list[list[int]], device: torch.device) -> dict[str, Any]:
    """Return the most likely next tokens of each probe, with natural-log probabilities over the whole vocabulary.

    Computed with the weights in the precision that they were trained in, the soft-max in float32. With ZeRO-3 every
    rank must call this: each holds a part of every layer.
    """
    engine.eval()
    prompts = []
    for probe in probes:
        ids = torch.tensor([probe], device=device)
        with torch.no_grad():
            logits = engine(input_ids=ids, attention_mask=torch.ones_like(ids))["logits"]
        top = logits[0, -1].float().log_softmax(-1).topk(min(TOP, logits.shape[-1]))
        pairs = zip(top.indices.tolist(), top.values.tolist(), strict=True)
        prompts.append({"ids": probe, "top": [[token, round(value, 6)] for token, value in pairs]})
    return {"prompts": prompts}
