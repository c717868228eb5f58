"""The flow of the stage `register`.

Every quantization is sent to the server, created under a throw-away name and proven there. Only when all are proven do
the live names change: by the same create request once more, which the server answers from the files that it has, and
which gives the same manifest digest as the proven model, or the stage fails. (A copy would leave the files of the
model that was replaced lying on the server until its next start.) The model's own name changes last, when the tags of
its further quantizations are there. A stage that is killed between two of them leaves some new and some old; run
again, it finds out by the digests what is left to do. The throw-away names are removed on every way out; those that a
killed attempt left are removed by the next one with the same key (whoever starts the stage sees to it that no two
attempts at one key run at the same time).
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunesmith_stages import model_name
from tunesmith_stages.contract import ExitCode, StageResult, digest_of
from tunesmith_stages.gguf_file import read_gguf
from tunesmith_stages.ollama import Message, Ollama
from tunesmith_stages.ollama_gate import require_names, require_supported, typed_parameters
from tunesmith_stages.program import Made, StageError, Work
from tunesmith_stages.register.modelfile import modelfile
from tunesmith_stages.register.proof import CHECKS, Subject, prove
from tunesmith_stages.register.reference import Reference
from tunesmith_stages.volume import sha256_of, write_whole

log = logging.getLogger(__name__)

_DEFAULT_NUM_CTX = 8192
"""Without `num_ctx` a server takes 4,096 on a small machine and cuts longer prompts silently, so it is always set: to
the model's context length, but not above this, because the memory for it is taken whether it is used or not."""


@dataclass(frozen=True)
class Candidate:
    """A quantization on its way to the server."""

    quantization: str
    gguf: Path
    sha256: str
    check_name: str
    live_name: str


def register(work: Work) -> Made:
    """Create the model in Ollama, prove it under another name, and only then let it go live."""
    params = work.params
    require_names(params["model"], params["quantizations"])
    parameters = typed_parameters(params["parameters"])
    with Ollama(work.runtime["server"]) as server:
        version = server.version()
        require_supported(version, work.progress.note)
        candidates = _candidates(work)
        parameters = _with_num_ctx(work, candidates[0].gguf, parameters)
        _write_modelfiles(work, candidates, parameters)
        with _throw_away_names(server, work.unit.key, candidates):
            started = time.monotonic()
            for candidate in candidates:
                _upload(work, server, candidate)
            upload_seconds = time.monotonic() - started
            for candidate in candidates:
                _create(server, candidate.check_name, _request(work, candidate, parameters))
            proof = _prove_all(work, server, candidates, parameters["num_ctx"])
            models = _go_live(work, server, candidates, parameters)
    return Made(
        outputs={
            "models": models,
            "server": version,
            "num_ctx": parameters["num_ctx"],
            "proof": proof,
            "smokeTests": digest_of(work.runtime.get("smokeTests") or []),
        },
        numbers={"uploadSeconds": round(upload_seconds, 3), "checks": len(CHECKS) * len(candidates)},
        tools={"ollama": version},
    )


# --- getting it there ------------------------------------------------------------------------------------------------


def _candidates(work: Work) -> list[Candidate]:
    names = model_name.live_names(work.params["model"], work.params["quantizations"])
    candidates = []
    for quantization, live_name in names.items():
        gguf = work.input(f"quantized:{quantization}") / "model.gguf"
        check_name = model_name.check_name(work.unit.key, work.config.attempt, quantization)
        candidates.append(Candidate(quantization, gguf, _sha256(work, gguf), check_name, live_name))
    return candidates


def _sha256(work: Work, gguf: Path) -> str:
    """Return the file's sha256 from the result of the stage that made it; the server checks it at upload."""
    try:
        result = StageResult.from_json((gguf.parent.parent / "result.json").read_text(encoding="utf-8"))
        return next(entry.sha256 for entry in result.files if entry.path == gguf.name)
    except (OSError, ValueError, KeyError, TypeError, StopIteration):
        return sha256_of(gguf, work.progress.counter(gguf.stat().st_size, "bytes hashed"))


@contextmanager
def _throw_away_names(server: Ollama, key: str, candidates: Sequence[Candidate]) -> Iterator[None]:
    for name in server.models():
        if name.startswith(model_name.check_prefix(key)):
            log.info("removing %s, left by an attempt that was killed", name)
            server.delete(name)
    try:
        yield
    finally:
        for candidate in candidates:
            try:
                server.unload(candidate.check_name)
                server.delete(candidate.check_name)
            except StageError as error:  # what ended the stage is worth more to a reader than this
                log.warning("%s could not be removed: %s", candidate.check_name, error.message)
                break


def _upload(work: Work, server: Ollama, candidate: Candidate) -> None:
    if server.has_blob(candidate.sha256):
        return
    size = candidate.gguf.stat().st_size
    work.progress.note(f"sending {candidate.quantization} to {server.url}")
    server.upload(candidate.sha256, candidate.gguf, work.progress.counter(size, "bytes sent"))


def _request(work: Work, candidate: Candidate, parameters: Mapping[str, Any]) -> dict[str, Any]:
    request: dict[str, Any] = {"files": {"model.gguf": f"sha256:{candidate.sha256}"}, "parameters": dict(parameters)}
    for field in ("system", "license"):
        if work.params.get(field):
            request[field] = work.params[field]
    return request


def _create(server: Ollama, name: str, request: Mapping[str, Any]) -> None:
    for status in server.create(name, request):
        if "autodetected template" in status:
            raise StageError(
                ExitCode.GATE_FAILED,
                f"Ollama replaced the model's chat template by one of its own ({status!r}), which renders differently",
                reason="TemplateReplaced",
                hint="Report it: the comment that should keep the template from being mistaken did not suffice.",
            )


def _with_num_ctx(work: Work, gguf: Path, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters with a `num_ctx`, taken from the model's own context length where none is given."""
    try:
        longest = int(read_gguf(gguf).own("context_length") or _DEFAULT_NUM_CTX)
    except ValueError as error:
        raise StageError(ExitCode.BAD_DATA, str(error), reason="DamagedModelFile") from error
    given = parameters.get("num_ctx")
    if given is not None and given > longest:
        work.progress.note(f"`num_ctx` is {given:,}, more than the {longest:,} that the model can read at once")
    return {**parameters, "num_ctx": given or min(longest, _DEFAULT_NUM_CTX)}


def _write_modelfiles(work: Work, candidates: Sequence[Candidate], parameters: Mapping[str, Any]) -> None:
    for candidate in candidates:
        source = os.path.relpath(candidate.gguf, work.out)
        try:
            text = modelfile(source, parameters, system=work.params["system"], license_text=work.params["license"])
        except ValueError as error:
            raise StageError(ExitCode.BAD_CONFIG, f"`ollama`: {error}", reason="InvalidModelfile") from error
        write_whole(work.out / f"Modelfile.{candidate.quantization}", text)


# --- proving it ------------------------------------------------------------------------------------------------------


def _prove_all(work: Work, server: Ollama, candidates: Sequence[Candidate], num_ctx: int) -> dict[str, dict[str, str]]:
    """Prove every candidate, write ``logs/proof.json``, and return what each check found by quantization."""
    reference = Reference(work.input("base"), work.input("prepared"))
    probes = _probes(reference, num_ctx)
    record: list[dict[str, Any]] = []
    advance = work.progress.counter(len(CHECKS) * len(candidates), "checks")
    try:
        for candidate in candidates:
            work.progress.note(f"proving {candidate.quantization} as {candidate.check_name}")
            subject = Subject(
                server=server,
                name=candidate.check_name,
                quantization=candidate.quantization,
                reference=reference,
                system=work.params["system"],
                num_ctx=num_ctx,
                probes=probes,
                smoke_tests=work.runtime.get("smokeTests") or (),
                thinking="thinking" in server.show(candidate.check_name).get("capabilities", ()),
            )
            prove(subject, record, lambda: advance(1))
            server.unload(candidate.check_name)
    finally:
        write_whole(work.logs / "proof.json", json.dumps(record, indent=2, ensure_ascii=False) + "\n")
    return {
        candidate.quantization: {
            entry["check"]: entry["found"] for entry in record if entry["quantization"] == candidate.quantization
        }
        for candidate in candidates
    }


def _probes(reference: Reference, num_ctx: int) -> list[Sequence[Message]]:
    """Return the conversations that `prepare` set aside and that fit into the context, the shortest first."""
    prompts = sorted(reference.probes, key=lambda prompt: len(prompt["ids"]))
    if len(prompts[0]["ids"]) >= num_ctx:
        raise StageError(
            ExitCode.BAD_CONFIG,
            f"`ollama.parameters.num_ctx` is {num_ctx}, too small for the prompts of the training data: the shortest "
            f"of those looked at has {len(prompts[0]['ids'])} tokens",
            reason="ContextTooSmall",
            hint="Raise `num_ctx`, or leave it out; the model need not be trained again.",
        )
    return [prompt["messages"] for prompt in prompts if len(prompt["ids"]) < num_ctx]


# --- letting it go live ----------------------------------------------------------------------------------------------


def _go_live(
    work: Work, server: Ollama, candidates: Sequence[Candidate], parameters: Mapping[str, Any]
) -> dict[str, dict[str, Any]]:
    """Give every candidate its live name, and return what the server then has under these names."""
    for candidate in reversed(candidates):
        models = _by_canonical_name(server)
        proven = models[model_name.canonical(candidate.check_name)]["digest"]
        live = model_name.canonical(candidate.live_name)
        if live in models and models[live]["digest"] == proven:
            continue
        _create(server, candidate.live_name, _request(work, candidate, parameters))
        if _by_canonical_name(server)[live]["digest"] != proven:
            raise StageError(
                ExitCode.GATE_FAILED,
                f"{candidate.live_name} is not what was proven: somebody else changed it at the same moment",
                reason="LiveModelDiffers",
                hint="See who else writes to this server, then run again.",
            )
    work.progress.note("live as " + ", ".join(candidate.live_name for candidate in candidates))
    models = _by_canonical_name(server)
    return {candidate.live_name: _as_output(candidate, models) for candidate in candidates}


def _by_canonical_name(server: Ollama) -> dict[str, Mapping[str, Any]]:
    return {model_name.canonical(name): model for name, model in server.models().items()}


def _as_output(candidate: Candidate, models: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    model = models[model_name.canonical(candidate.live_name)]
    return {"digest": model["digest"], "quantization": candidate.quantization, "size": model["size"]}
