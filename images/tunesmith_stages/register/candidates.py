"""The quantizations on their way to a server: their files, their names, and the Modelfile of each."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunesmith_stages import model_name
from tunesmith_stages.contract import ExitCode, StageResult
from tunesmith_stages.gguf_file import read_gguf
from tunesmith_stages.ollama_gate import EXEC
from tunesmith_stages.program import StageError, Work
from tunesmith_stages.register.modelfile import dropped, modelfile
from tunesmith_stages.volume import write_whole

DEFAULT_NUM_CTX = 8192
"""Without `num_ctx` a server takes 4,096 on a small machine and cuts longer prompts silently, so it is always set: to
the model's context length, but not above this, because the memory for it is taken whether it is used or not."""


@dataclass(frozen=True)
class Candidate:
    """A quantization on its way to the server."""

    quantization: str
    gguf: Path
    sha256: str
    check_name: str
    """Under which it is proven."""
    live_name: str
    modelfile: Path
    """Written by :func:`write_modelfiles`, where one can say what the job asks for."""


def candidates_of(work: Work) -> list[Candidate]:
    """Return a candidate for each quantization, the one with the model's own name first."""
    names = model_name.live_names(work.params["model"], work.params["quantizations"])
    volume = work.volume.identity()
    candidates = []
    for quantization, live_name in names.items():
        gguf = work.input(f"quantized:{quantization}") / "model.gguf"
        check_name = model_name.check_name(work.unit.key, volume, work.config.attempt, quantization)
        path = work.out / f"Modelfile.{quantization}"
        candidates.append(Candidate(quantization, gguf, _sha256(gguf), check_name, live_name, path))
    return candidates


def _sha256(gguf: Path) -> str:
    """Return the file's sha256 from the result of the stage that made it; what the server has is compared with it."""
    result = StageResult.from_json((gguf.parent.parent / "result.json").read_text(encoding="utf-8"))
    return next(entry.sha256 for entry in result.files if entry.path == gguf.name)


def with_num_ctx(work: Work, gguf: Path, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters with a `num_ctx`, taken from the model's own context length where none is given."""
    try:
        longest = int(read_gguf(gguf).own("context_length") or DEFAULT_NUM_CTX)
    except ValueError as error:
        raise StageError(ExitCode.BAD_DATA, str(error), reason="DamagedModelFile") from error
    given = parameters.get("num_ctx")
    if given is not None and given > longest:
        work.progress.note(f"`num_ctx` is {given:,}, more than the {longest:,} that the model can read at once")
    return {**parameters, "num_ctx": given or min(longest, DEFAULT_NUM_CTX)}


def require_context(probes: Sequence[Mapping[str, Any]], num_ctx: int) -> None:
    """Check that a context of `num_ctx` tokens has room for the shortest of the prompts that `prepare` set aside.

    Raises:
        StageError: it has not.
    """
    shortest = min(len(prompt["ids"]) for prompt in probes)
    if shortest >= num_ctx:
        raise StageError(
            ExitCode.BAD_CONFIG,
            f"`ollama.parameters.num_ctx` is {num_ctx}, too small for the prompts of the training data: the shortest "
            f"of those looked at has {shortest} tokens",
            reason="ContextTooSmall",
            hint="Set a larger `num_ctx`; nothing is trained again for it.",
        )


def write_modelfiles(work: Work, candidates: Sequence[Candidate], parameters: Mapping[str, Any]) -> None:
    """Write the Modelfile of each candidate; it names the GGUF relative to itself, so that it holds in any mount.

    The method API does not go by it, so where a text of the job has no place in one, none is kept.

    Raises:
        StageError: a text cannot be written in one, or would not come out of it as it is, and the method is Exec.
    """
    for candidate in candidates:
        source = os.path.relpath(candidate.gguf, candidate.modelfile.parent)
        try:
            text = _exact_modelfile(source, parameters, work.params["system"], work.params["license"])
        except StageError as error:
            if work.runtime["method"] == EXEC:
                raise
            work.progress.note(f"no Modelfile is kept beside the result: {error.message}")
            return
        write_whole(candidate.modelfile, text)


def _exact_modelfile(source: str, parameters: Mapping[str, Any], system: str | None, license_text: str | None) -> str:
    """Return the text of a Modelfile from which `ollama create` makes the model that the job asks for."""
    _require_nothing_dropped({**parameters, "system": system, "license": license_text})
    try:
        return modelfile(source, parameters, system=system, license_text=license_text)
    except ValueError as error:
        raise StageError(
            ExitCode.BAD_CONFIG,
            f"`ollama`: {error}",
            reason="InvalidModelfile",
            hint="Change that line, or use the method API, which keeps it. Nothing is trained again for it.",
        ) from error


def _require_nothing_dropped(texts: Mapping[str, Any]) -> None:
    for name, value in texts.items():
        lost = dropped(value)
        if lost:
            raise StageError(
                ExitCode.BAD_CONFIG,
                f"`ollama`: `{name}` holds characters that `ollama create` drops from a Modelfile: "
                f"{', '.join(f'U+{ord(character):04X}' for character in lost)}",
                reason="InvalidModelfile",
                hint="Use the method API, which keeps them, or remove them. Nothing is trained again for it.",
            )
