"""The types of llama.cpp's files: every name that ``llama-quantize`` takes, and what each asks for.

The table is that of the pinned release (see :mod:`tunesmith_stages.tools`): ``QUANT_OPTIONS`` in its
tools/quantize/quantize.cpp, ``tensor_requires_imatrix`` and ``llama_tensor_get_type_impl`` in its src/llama-quant.cpp,
the sizes of blocks in its ggml/src/ggml-common.h. `COPY` is left out: it is no type. Whoever plans a job knows the
names from here; standard library only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class QuantizationType:
    """One name."""

    file_type: int
    """``general.file_type`` of such a file (``enum llama_ftype`` in llama.h)."""
    block: int = 1
    """Rows must be a multiple of so many numbers, or the tensor gets another type."""
    needs_imatrix: bool = False
    """Whether llama-quantize refuses to make it without an importance matrix."""
    is_served: bool = True
    """Whether Ollama takes such a file; 0.34.4 says of the others that a tensor's "size overflows"."""


QUANTIZATION_TYPES: Mapping[str, QuantizationType] = {
    "F32": QuantizationType(0),
    "F16": QuantizationType(1),
    "BF16": QuantizationType(32),
    "Q8_0": QuantizationType(7, 32),
    "Q6_K": QuantizationType(18, 256),
    "Q5_K": QuantizationType(17, 256),
    "Q5_K_M": QuantizationType(17, 256),
    "Q5_K_S": QuantizationType(16, 256),
    "Q5_0": QuantizationType(8, 32),
    "Q5_1": QuantizationType(9, 32),
    "Q4_K": QuantizationType(15, 256),
    "Q4_K_M": QuantizationType(15, 256),
    "Q4_K_S": QuantizationType(14, 256),
    "Q4_0": QuantizationType(2, 32),
    "Q4_1": QuantizationType(3, 32),
    "IQ4_NL": QuantizationType(25, 32),
    "IQ4_XS": QuantizationType(30, 256),
    "MXFP4_MOE": QuantizationType(38, 32),
    "Q3_K": QuantizationType(12, 256),
    "Q3_K_L": QuantizationType(13, 256),
    "Q3_K_M": QuantizationType(12, 256),
    "Q3_K_S": QuantizationType(11, 256),
    "IQ3_M": QuantizationType(27, 256),
    "IQ3_S": QuantizationType(26, 256),
    "IQ3_XS": QuantizationType(22, 256, needs_imatrix=True),
    "IQ3_XXS": QuantizationType(23, 256, needs_imatrix=True),
    "Q2_K": QuantizationType(10, 256),
    "Q2_K_S": QuantizationType(21, 256, needs_imatrix=True),
    "IQ2_M": QuantizationType(29, 256, needs_imatrix=True),
    "IQ2_S": QuantizationType(28, 256, needs_imatrix=True),
    "IQ2_XS": QuantizationType(20, 256, needs_imatrix=True),
    "IQ2_XXS": QuantizationType(19, 256, needs_imatrix=True),
    "IQ1_M": QuantizationType(31, 256, needs_imatrix=True),
    "IQ1_S": QuantizationType(24, 256, needs_imatrix=True),
    "TQ2_0": QuantizationType(37, 256, is_served=False),
    "TQ1_0": QuantizationType(36, 256, is_served=False),
    "Q2_0": QuantizationType(41, 64, is_served=False),
    "Q1_0": QuantizationType(40, 128),
}
"""By name, the larger ones first. `Q3_K`, `Q4_K` and `Q5_K` are other names of `Q3_K_M`, `Q4_K_M` and `Q5_K_M`."""

NAMES: tuple[str, ...] = tuple(QUANTIZATION_TYPES)
"""Every name that llama-quantize knows."""

NOT_SERVED: frozenset[str] = frozenset(name for name, kind in QUANTIZATION_TYPES.items() if not kind.is_served)
"""The types that a job cannot have, because no Ollama would take them."""

NEEDS_IMATRIX: frozenset[str] = frozenset(name for name, kind in QUANTIZATION_TYPES.items() if kind.needs_imatrix)
"""The types for which a job needs an importance matrix, whether it asks for one or not."""

OUT_TYPES: tuple[str, ...] = ("F16", "BF16", "F32", "Q8_0")
"""What a model may be converted to, before any quantization."""
