"""The Ollama servers of a job, and what is asked of a server, a model's names and its parameters."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from tunesmith_stages import model_name
from tunesmith_stages.contract import ExitCode
from tunesmith_stages.ollama import Ollama
from tunesmith_stages.ollama_parameters import ParameterError, typed
from tunesmith_stages.program import StageError

OLDEST = (0, 34, 1)
"""Older servers rewrite a GGUF at create, or bring an engine of their own."""
NEWEST_TESTED = (0, 34, 4)


API = "API"
EXEC = "Exec"
"""Values of ``runtime["method"]``: create models by HTTP, or with ``ollama create`` inside the server's pod."""


def connect(runtime: Mapping[str, Any], name: str) -> Ollama:
    """Return the server that the administrator calls `name`.

    ``runtime["servers"]`` has for each name the server's ``url``, the certificates to trust as ``caBundle`` (PEM text,
    or empty for the system's) and ``exec``, which is None or says where its pod is (:class:`.ollama_pod.OllamaPod`).
    """
    server = runtime["servers"][name]
    return Ollama(server["url"], name=name, ca_bundle=server["caBundle"])


def exec_settings(runtime: Mapping[str, Any], name: str) -> Mapping[str, Any] | None:
    """Return where the pod of a server is if models are to be created inside it, and None if by HTTP.

    Raises:
        StageError: they are, but the administrator has not said where it is.
    """
    if runtime["method"] == API:
        return None
    settings: Mapping[str, Any] | None = runtime["servers"][name]["exec"]
    if settings is None:
        raise StageError(
            ExitCode.BAD_CONFIG,
            f"`ollama.method` is Exec, but the administrator has not set up Exec for the server `{name}`",
            reason="ExecNotConfigured",
            hint="Use the method API, or have `servers[].exec` set for it.",
        )
    return settings


def require_own_template(statuses: Iterable[str]) -> None:
    """Check what a server said while it created a model.

    Raises:
        StageError: it put a template of its own in the place of the model's.
    """
    for status in statuses:
        if "autodetected template" in status:
            raise StageError(
                ExitCode.GATE_FAILED,
                f"Ollama replaced the model's chat template by one of its own ({status!r}), which renders differently",
                reason="TemplateReplaced",
                hint="Report it: the comment that should keep the template from being mistaken did not suffice.",
            )


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
