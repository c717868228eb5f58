"""Which model architectures llama.cpp's converter knows.

Its table is read as text, without importing the converter (torch and transformers, several seconds), so that an
earlier stage can ask before anything is trained.
"""

from __future__ import annotations

import ast
import difflib
from collections.abc import Mapping
from typing import Any

from tunesmith_stages.contract import ExitCode
from tunesmith_stages.program import StageError
from tunesmith_stages.tools import LlamaCpp

_TABLE = "TEXT_MODEL_MAP"


def architecture_of(config: Mapping[str, Any]) -> str:
    """Return the architecture that the converter will look up for a ``config.json``; "" if it names none."""
    text_config = config.get("text_config")
    inner = text_config.get("architectures") if isinstance(text_config, Mapping) else None
    names = inner or config.get("architectures") or [""]
    return str(names[0])


def supported_architectures(llama: LlamaCpp) -> frozenset[str]:
    """Return the names of the text models that this llama.cpp can convert."""
    source = (llama.converter / "conversion" / "__init__.py").read_text(encoding="utf-8")
    for node in ast.parse(source).body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.target.id == _TABLE:
            return frozenset(ast.literal_eval(node.value)) if node.value else frozenset()
    raise StageError(ExitCode.INTERNAL, f"llama.cpp {llama.version} has no {_TABLE} in {llama.converter}/conversion")


def require_supported(config: Mapping[str, Any], llama: LlamaCpp) -> str:
    """Return the architecture of a ``config.json``.

    Raises:
        StageError: llama.cpp's converter does not know it.
    """
    name = architecture_of(config)
    known = supported_architectures(llama)
    if name in known:
        return name
    close = difflib.get_close_matches(name, known, n=3)
    raise StageError(
        ExitCode.BAD_CONFIG,
        f"the base's config.json names the architecture {name!r}, which llama.cpp {llama.version} cannot convert"
        if name
        else "the base's config.json names no architecture in `architectures`",
        reason="UnsupportedArchitecture",
        hint="Choose a base model of a supported architecture" + (f", such as {', '.join(close)}." if close else "."),
    )
