"""A LoRA adapter as PEFT saves it: which base tensor each pair of low-rank factors belongs to.

The weight of a module with an adapter is ``W + s * B @ A`` with ``A`` of shape (rank, in), ``B`` of shape (out, rank)
and ``s = alpha / rank`` (``alpha / sqrt(rank)`` for rank-stabilised LoRA). With DoRA each row of that is then brought
to the length in the magnitude vector (Liu et al., 2024, https://arxiv.org/abs/2402.09353, equation 5). Source:
peft.tuners.lora, which also gives the names in ``adapter_model.safetensors``. What PEFT can do beyond that is refused
by name, never ignored.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunesmith_stages.contract import ExitCode
from tunesmith_stages.convert.safetensors_file import Floats, SafetensorsFile, TensorInfo
from tunesmith_stages.program import StageError

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
_FACTOR = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?P<side>[AB])\.weight")
_MAGNITUDE = "base_model.model.{}.lora_magnitude_vector"

_UNSUPPORTED: Mapping[str, tuple[Any, ...]] = {
    "bias": ("none",),
    "lora_bias": (False,),
    "alpha_pattern": ({},),
    "modules_to_save": ([],),
    "target_parameters": ([],),
    "trainable_token_indices": ([], {}),
    "layer_replication": ([],),
    "use_qalora": (False,),
    "use_bdlora": (False,),
    "megatron_config": ({},),
    "alora_invocation_tokens": ([],),
    # PiSSA, OLoRA, CorDA, LoftQ change the base when they begin: the original base is the wrong one to add to
    "init_lora_weights": (True, False, "gaussian", "orthogonal", "eva"),
}
"""Field of adapter_config.json to the values with which the formula above holds; absent and null always count."""


@dataclass(frozen=True)
class LowRankDelta:
    """What is to be added to one base tensor: ``scale * left @ right``, of the tensor's own shape."""

    tensor: str
    """Name of the base tensor."""
    left: Floats
    right: Floats
    scale: float
    magnitude: Floats | None = None
    """DoRA: length of each row of the sum; None: as it comes."""

    @property
    def shape(self) -> tuple[int, int]:
        """Shape of the product."""
        return (self.left.shape[0], self.right.shape[1])


class Adapter:
    """An adapter folder.

    Raises:
        StageError: it is not a LoRA adapter, or uses something that can't be merged.
    """

    def __init__(self, folder: Path) -> None:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        _require_plain(config)
        self._has_magnitudes = bool(config.get("use_dora"))
        self._file = SafetensorsFile(folder / WEIGHTS)
        self._alpha = float(config["lora_alpha"])
        self._rank_stabilised = bool(config.get("use_rslora"))
        self._transposed = bool(config.get("fan_in_fan_out"))
        if self._has_magnitudes and self._transposed:
            raise _cannot_merge("it is a DoRA of transposed layers (`use_dora` with `fan_in_fan_out`)")
        self._modules = _modules(self._file, with_magnitudes=self._has_magnitudes)

    @property
    def tensors(self) -> frozenset[str]:
        """Names of the base tensors that the adapter changes."""
        return frozenset(f"{module}.weight" for module in self._modules)

    def delta(self, tensor: str) -> LowRankDelta:
        """Read the factors that belong to a base tensor."""
        module = tensor.removesuffix(".weight")
        prefix = f"base_model.model.{module}.lora_"
        a, b = self._file.floats_of(f"{prefix}A.weight"), self._file.floats_of(f"{prefix}B.weight")
        rank = a.shape[0]
        scale = self._alpha / (math.sqrt(rank) if self._rank_stabilised else rank)
        if self._transposed:
            return LowRankDelta(tensor, a.T, b.T, scale)
        magnitude = self._file.floats_of(_MAGNITUDE.format(module)) if self._has_magnitudes else None
        return LowRankDelta(tensor, b, a, scale, magnitude)

    def require_fits(self, base: Mapping[str, TensorInfo]) -> None:
        """Check that every pair of factors has a base tensor, and that the shapes agree.

        Raises:
            StageError: one has not, or nothing would be merged.
        """
        if not self._modules:
            raise StageError(
                ExitCode.BAD_DATA,
                f"{self._file.path} holds no LoRA factors: there is nothing to merge",
                reason="NoAdapter",
            )
        orphans = sorted(self.tensors - base.keys())
        if orphans:
            raise StageError(
                ExitCode.BAD_DATA,
                f"{len(orphans)} of the adapter's {len(self.tensors)} tensors have no counterpart in the base: "
                f"{', '.join(orphans[:5])}",
                reason="AdapterDoesNotFit",
                hint="The adapter was trained on another base. Train again from the base that the job names.",
            )
        for module, (a, b) in self._modules.items():
            _require_shapes(base[f"{module}.weight"], a, b, self._transposed)


def _modules(file: SafetensorsFile, *, with_magnitudes: bool) -> dict[str, tuple[TensorInfo, TensorInfo]]:
    """Return the factors A and B of every module.

    Raises:
        StageError: the file holds anything else, one factor without the other, or magnitudes that do not fit.
    """
    sides: dict[str, dict[str, TensorInfo]] = {}
    foreign = []
    for name, info in file.tensors.items():
        match = _FACTOR.fullmatch(name)
        if match is None or len(info.shape) != 2:
            foreign.append(name)
        else:
            sides.setdefault(match["module"], {})[match["side"]] = info
    expected = {_MAGNITUDE.format(module) for module in sides} if with_magnitudes else set()
    if missing := sorted(expected - file.tensors.keys()):
        raise _cannot_merge(f"`use_dora` is true, but {len(missing)} magnitudes are missing, such as {missing[0]}")
    foreign = sorted({*foreign} - expected)
    foreign += [f"{module}.lora_{side}" for module, found in sides.items() if len(found) == 1 for side in found]
    if foreign:
        raise _cannot_merge(f"it holds {len(foreign)} tensors that are no pair of factors: {', '.join(foreign[:5])}")
    for module, found in sides.items():
        if with_magnitudes and file.tensors[_MAGNITUDE.format(module)].shape != found["B"].shape[:1]:
            raise _cannot_merge(f"the magnitudes of {module} are not as many as its rows")
    return {module: (found["A"], found["B"]) for module, found in sides.items()}


def _require_plain(config: Mapping[str, Any]) -> None:
    if config.get("peft_type") != "LORA":
        raise _cannot_merge(f"`peft_type` must be LORA, not {config.get('peft_type')!r}")
    for field, allowed in _UNSUPPORTED.items():
        value = config.get(field)
        if value is not None and value not in allowed:
            raise _cannot_merge(f"`{field}` is {value!r}")


def _require_shapes(base: TensorInfo, a: TensorInfo, b: TensorInfo, transposed: bool) -> None:
    product = (a.shape[1], b.shape[0]) if transposed else (b.shape[0], a.shape[1])
    if a.shape[0] != b.shape[1] or product != base.shape:
        raise StageError(
            ExitCode.BAD_DATA,
            f"the adapter's factors for {base.name} have shapes {b.shape} and {a.shape}, the base tensor {base.shape}",
            reason="AdapterDoesNotFit",
            hint="The adapter was trained on another base. Train again from the base that the job names.",
        )


def _cannot_merge(why: str) -> StageError:
    return StageError(
        ExitCode.BAD_DATA,
        f"the adapter cannot be merged into the base: {why}",
        reason="AdapterNotMergeable",
        hint="Train other modules: name those of the attention in `training.lora.targetModules` (such as q_proj, "
        "k_proj, v_proj, o_proj; experts cannot be merged), or set `training.finetuningType: Full`.",
    )
