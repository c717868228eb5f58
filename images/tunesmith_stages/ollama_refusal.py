"""What an Ollama server complains of, and what that means to the person who reads of it."""

from __future__ import annotations

from collections.abc import Mapping

from tunesmith_stages.contract import ExitCode
from tunesmith_stages.program import StageError


class RefusalError(StageError):
    """The server understood and said no.

    Attributes:
        status: HTTP status; 200 where the error came inside a stream.
        text: the server's own words.
    """

    def __init__(
        self, code: ExitCode, message: str, *, status: int, text: str, reason: str = "OllamaRefused", hint: str = ""
    ) -> None:
        super().__init__(code, message, reason=reason, hint=hint)
        self.status = status
        self.text = text


_BY_STATUS: Mapping[int, tuple[ExitCode, str, str]] = {
    413: (
        ExitCode.BAD_CONFIG,
        "OllamaUploadTooLarge",
        "A proxy before the server limits uploads: raise its limit, or use the method Exec, which uploads nothing.",
    ),
    429: (ExitCode.UNAVAILABLE, "OllamaBusy", "Wait until the server has fewer requests; then run again."),
    502: (ExitCode.UNAVAILABLE, "OllamaUnreachable", "A proxy does not reach the server: see whether it runs."),
    503: (
        ExitCode.UNAVAILABLE,
        "OllamaBusy",
        "Wait until the server has fewer requests, or a proxy before it reaches it again; then run again.",
    ),
    504: (
        ExitCode.UNAVAILABLE,
        "OllamaProxyTimeout",
        "A proxy before the server gave up waiting: raise its timeout to 15 minutes; a large model loads slowly.",
    ),
}
"""What is said by a status alone: by a proxy, whose page says nothing of Ollama, or by a server that is busy."""


def meaning(status: int, text: str) -> tuple[ExitCode, str, str]:
    """Return the class, the reason and the hint for what a server complains of; `status` is 0 where none is known."""
    if status in _BY_STATUS:
        return _BY_STATUS[status]
    if "no space left on device" in text:
        hint = "Free space where the server keeps its models (OLLAMA_MODELS), e.g. with `ollama rm`; then run again."
        return ExitCode.NO_SPACE, "OllamaNoSpace", hint
    if "invalid model name" in text:
        hint = "A name is [[host/]namespace/]model[:tag] of letters, digits, '_', '-' and '.'."
        return ExitCode.BAD_CONFIG, "InvalidModelName", hint
    if any(words in text for words in ("digest mismatch", "unexpected EOF", "exceeds file size")):
        hint = (
            "The model file changed or is cut short on the volume: remove it, then the stage that makes it is repeated."
        )
        return ExitCode.BAD_DATA, "DamagedModelFile", hint
    if any(words in text.lower() for words in ("out of memory", "unable to allocate", "failed to allocate")):
        hint = "Choose a smaller quantization or `num_ctx`, or a server with more memory."
        return ExitCode.OUT_OF_MEMORY, "OllamaOutOfMemory", hint
    if status in (401, 403, 405):
        hint = "Let this machine speak to the server; a proxy before it must let through all of /api/, DELETE too."
        return ExitCode.NO_PERMISSION, "OllamaForbidden", hint
    return ExitCode.GATE_FAILED, "OllamaRefused", "See the server's log for more."
