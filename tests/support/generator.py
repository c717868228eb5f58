"""``hack/generate.py``, which is a script and not part of an installed package, as a module."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
"""The repository."""

sys.path.append(str(ROOT / "hack"))

import generate  # noqa: E402
from generating.api_reference import EXAMPLE  # noqa: E402
from generating.golden_keys import GOLDEN_KEYS, keys_of  # noqa: E402
from generating.manifests import GOLDEN_MANIFESTS, golden_manifests  # noqa: E402

__all__ = ["EXAMPLE", "GOLDEN_KEYS", "GOLDEN_MANIFESTS", "ROOT", "generate", "golden_manifests", "keys_of"]
