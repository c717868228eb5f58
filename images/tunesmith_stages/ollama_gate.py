"""What is asked of an Ollama server, a model's names and its parameters before any work is done for them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tunesmith_stages import model_name
from tunesmith_stages.contract import ExitCode
from tunesmith_stages.ollama_parameters import ParameterError, typed
from tunesmith_stages.program import StageError

OLDEST = (0, 34, 1)
"""Older servers rewrite a GGUF at create, or bring an engine of their own."""
NEWEST_TESTED = (0, 34, 4)


def require_supported(version: str, warn: Callable[[str], None]) -> None:
    """Check a server's version: too old is an error, newer than what was tested is told to `warn`.

    Raises:
        StageError: it is too old, or says no version (a build without one says 0.0.0).
    """
    numbers = re.match(r"v?(\d+)\.(\d+)\.(\d+)", version)
    found = tuple(int(number) for number in numbers.groups()) if numbers else (0, 0, 0)
    oldest = _dotted(OLDEST)
    if found < OLDEST:
        raise StageError(
            ExitCode.BAD_CONFIG,
            f"the Ollama server is version {version}; {oldest} or newer is needed, because older ones change a model "
            "when they take it in",
            reason="OllamaTooOld",
            hint=f"Update Ollama to {oldest} or newer; {_dotted(NEWEST_TESTED)} is the newest that was tested.",
        )
    if found > NEWEST_TESTED:
        warn(f"Ollama {version} is newer than {_dotted(NEWEST_TESTED)}, the newest that was tested; going on")


def require_names(model: str, quantizations: Sequence[str]) -> None:
    """Check the name of the model and those that its quantizations get.

    Raises:
        StageError: the server would refuse one of them.
    """
    problem = model_name.problem_of_any(model, quantizations)
    if problem is not None:
        raise StageError(
            ExitCode.BAD_CONFIG,
            f"`ollama.model`: {problem}",
            reason="InvalidModelName",
            hint="A name is [[host/]namespace/]model[:tag], for example `support-bot:v1`.",
        )


def typed_parameters(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters in the JSON types that Ollama wants.

    Raises:
        StageError: a name is unknown, or a value does not fit.
    """
    try:
        return typed(parameters)
    except ParameterError as error:
        raise StageError(
            ExitCode.BAD_CONFIG,
            f"`ollama.parameters`: {error}",
            reason="InvalidOllamaParameter",
            hint="Correct the parameter; the model need not be trained again.",
        ) from error


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))
