"""The parameters that a model in Ollama can have, and their JSON types. Pure; standard library only.

The names and types are those of ``api.Options`` in Ollama 0.34 (``api/types.go``). Ollama drops a name that it does
not know with no more than a line in its own log, and refuses a value of the wrong type only when the model is asked
for the first time; so both are checked here. ``typical_p`` is left out: the server refuses it.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from typing import Any

_INT = "a whole number"
_DECIMAL = "a decimal number"
_BOOL = "true or false"
_TEXTS = "a text or a list of texts"

PARAMETERS: Mapping[str, str] = {
    "num_ctx": _INT,
    "num_batch": _INT,
    "num_gpu": _INT,
    "main_gpu": _INT,
    "use_mmap": _BOOL,
    "num_thread": _INT,
    "draft_num_predict": _INT,
    "num_keep": _INT,
    "seed": _INT,
    "num_predict": _INT,
    "top_k": _INT,
    "top_p": _DECIMAL,
    "min_p": _DECIMAL,
    "repeat_last_n": _INT,
    "temperature": _DECIMAL,
    "repeat_penalty": _DECIMAL,
    "presence_penalty": _DECIMAL,
    "frequency_penalty": _DECIMAL,
    "stop": _TEXTS,
}
"""Name of each parameter, and what its value must be, in words."""

_DECIMAL_TEXT = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?")
_INT_TEXT = re.compile(r"[+-]?\d+")


class ParameterError(ValueError):
    """A parameter is unknown, or its value is of the wrong kind; the text says what is allowed."""


def typed(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters with each value in the JSON type that Ollama wants.

    Decimals come as strings in a job, so a string that spells a number becomes one: ``{"temperature": "0.7"}`` gives
    ``{"temperature": 0.7}``. A single stop text becomes a list of one.

    Raises:
        ParameterError: a name is unknown, or a value does not fit.
    """
    return {name: _typed(name, value) for name, value in parameters.items()}


def _typed(name: str, value: Any) -> Any:
    kind = PARAMETERS.get(name)
    if kind is None:
        close = difflib.get_close_matches(name, PARAMETERS, n=1)
        guess = f"did you mean `{close[0]}`? " if close else ""
        raise ParameterError(f"`{name}` is not a parameter of Ollama; {guess}known are {', '.join(sorted(PARAMETERS))}")
    reader = {_INT: _int, _DECIMAL: _decimal, _BOOL: _bool, _TEXTS: _texts}[kind]
    result = reader(value)
    if result is None:
        raise ParameterError(f"`{name}` must be {kind}, got {value!r}")
    if name == "num_ctx" and isinstance(result, int) and result < 1:
        raise ParameterError(f"`num_ctx` must be at least 1, got {value!r}")
    return result


def _int(value: Any) -> int | None:
    if isinstance(value, str) and _INT_TEXT.fullmatch(value):
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _decimal(value: Any) -> float | None:
    if isinstance(value, str) and _DECIMAL_TEXT.fullmatch(value):
        return float(value)
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _bool(value: Any) -> bool | None:
    if isinstance(value, str) and value.lower() in ("true", "false"):
        return value.lower() == "true"
    return value if isinstance(value, bool) else None


def _texts(value: Any) -> list[str] | None:
    texts = [value] if isinstance(value, str) else value
    if isinstance(texts, list | tuple) and texts and all(isinstance(text, str) and text for text in texts):
        return list(texts)
    return None
