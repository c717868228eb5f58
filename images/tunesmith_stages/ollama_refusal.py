"""What an Ollama server complains of, and what that means to the person who reads of it."""

from __future__ import annotations

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


def meaning(status: int, text: str) -> tuple[ExitCode, str, str]:
    """Return the class, the reason and the hint for what a server complains of; `status` is 0 where none is known."""
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
    if status in (401, 403):
        return ExitCode.NO_PERMISSION, "OllamaForbidden", "Let this machine speak to the server."
    if status == 503:
        return ExitCode.UNAVAILABLE, "OllamaBusy", "Wait until the server has fewer requests; then run again."
    return ExitCode.GATE_FAILED, "OllamaRefused", "See the server's log for more."
