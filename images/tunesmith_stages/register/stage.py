"""The flow of the stage `register`.

There is a unit for each server. Every quantization is created on it under a throw-away name and proven there. Only when
all are proven do the live names change: they are created once more in the same way, from the file that the server has
by then, and must come out with the manifest digest of the proven model, or the stage fails. (A copy would leave the
files of the model that was replaced lying on the server until its next start.) The model's own name changes last, when
the tags of its further quantizations are there. A stage that is killed between two of them leaves some new and some
old; run again, it finds out by the digests what is left to do. The throw-away names are removed on every way out; those
that a killed attempt left are removed by the next one with the same key (whoever starts the stage sees to it that no
two attempts at one key run at the same time).
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tunesmith_stages import model_name
from tunesmith_stages.contract import ExitCode, StageResult, digest_of
from tunesmith_stages.live_record import note_live
from tunesmith_stages.llama_server import llama_server
from tunesmith_stages.ollama import Message, Ollama
from tunesmith_stages.ollama_gate import connect, require_names, require_supported, typed_parameters
from tunesmith_stages.program import Made, StageError, Work
from tunesmith_stages.register.candidates import (
    Candidate,
    candidates_of,
    require_context,
    with_num_ctx,
    write_modelfiles,
)
from tunesmith_stages.register.creation import Creation, creation
from tunesmith_stages.register.gguf_reference import GgufReference
from tunesmith_stages.register.proof import CHECKS, Subject, prove
from tunesmith_stages.register.reference import Reference
from tunesmith_stages.throw_away import throw_away_names
from tunesmith_stages.tools import llama_cpp
from tunesmith_stages.volume import write_whole

_CONTEXT = 64
"""Tokens of context for a model that is asked for the tokens of texts alone."""


def register(work: Work) -> Made:
    """Create the model in Ollama, prove it under another name, and only then let it go live."""
    params = work.params
    require_names(params["model"], params["quantizations"])
    parameters = typed_parameters(params["parameters"])
    with connect(work.runtime, params["server"]) as server:
        version = server.version()
        require_supported(version, work.progress.note)
        candidates = candidates_of(work)
        parameters = with_num_ctx(work, candidates[0].gguf, parameters)
        write_modelfiles(work, candidates, parameters)
        way = creation(work, params["server"], server, parameters)
        prefix = model_name.check_prefix(work.unit.key, work.volume.identity())
        with throw_away_names(server, prefix, [candidate.check_name for candidate in candidates]):
            started = time.monotonic()
            for candidate in candidates:
                way.create(candidate.check_name, candidate)
            create_seconds = time.monotonic() - started
            proof = _prove_all(work, server, candidates, parameters["num_ctx"])
            models = _go_live(work, server, way, candidates)
    return Made(
        outputs={
            "models": models,
            "server": version,
            "num_ctx": parameters["num_ctx"],
            "proof": proof,
            "smokeTests": digest_of(work.runtime["smokeTests"]),
        },
        numbers={"createSeconds": round(create_seconds, 3), "checks": len(CHECKS) * len(candidates)},
        tools={"ollama": version},
    )


def still_true(work: Work, result: StageResult) -> bool:
    """Say whether the server still has what was registered, and the job still has the tests that it passed.

    Raises:
        StageError: the server cannot be asked.
    """
    if result.outputs["smokeTests"] != digest_of(work.runtime["smokeTests"]):
        return False
    with connect(work.runtime, work.params["server"]) as server:
        return model_name.still_there(result.outputs["models"], server.models())


# --- proving it ------------------------------------------------------------------------------------------------------


def _prove_all(work: Work, server: Ollama, candidates: Sequence[Candidate], num_ctx: int) -> dict[str, dict[str, str]]:
    """Prove every candidate and return what each check found by quantization.

    Leaves ``logs/proof.json`` with that, and ``logs/answers.json`` with what the models said.
    """
    record: list[dict[str, Any]] = []
    answers: list[dict[str, str]] = []
    advance = work.progress.counter(len(CHECKS) * len(candidates), "checks")
    try:
        with _reference(work, candidates[0]) as reference:
            for subject in _subjects(work, server, candidates, num_ctx, reference, answers):
                work.progress.note(f"proving {subject.quantization} as {subject.name}")
                prove(subject, record, lambda: advance(1))
                server.unload(subject.name)
    finally:
        for name, found in (("proof", record), ("answers", answers)):
            write_whole(work.logs / f"{name}.json", json.dumps(found, indent=2, ensure_ascii=False) + "\n")
    return {
        candidate.quantization: {
            entry["check"]: entry["found"] for entry in record if entry["quantization"] == candidate.quantization
        }
        for candidate in candidates
    }


def _subjects(
    work: Work,
    server: Ollama,
    candidates: Sequence[Candidate],
    num_ctx: int,
    reference: Reference | GgufReference,
    answers: list[dict[str, str]],
) -> Iterator[Subject]:
    probes = _probes(reference, num_ctx)
    for candidate in candidates:
        yield Subject(
            server=server,
            name=candidate.check_name,
            quantization=candidate.quantization,
            reference=reference,
            system=work.params["system"],
            num_ctx=num_ctx,
            probes=probes,
            smoke_tests=work.runtime["smokeTests"],
            thinking="thinking" in server.show(candidate.check_name).get("capabilities", ()),
            answers=answers,
        )


@contextlib.contextmanager
def _reference(work: Work, candidate: Candidate) -> Iterator[Reference | GgufReference]:
    """Yield what Ollama is compared with: tokenizer and template of the training, or of a GGUF that is the base."""
    if "prepared" in work.unit.inputs:
        yield Reference(work.input("base"), work.input("prepared"))
        return
    with llama_server(llama_cpp(), candidate.gguf, work.logs / "llama-server.log", context=_CONTEXT) as local:
        yield GgufReference(work.input("base"), local)


def _probes(reference: Reference | GgufReference, num_ctx: int) -> list[Sequence[Message]]:
    """Return the conversations that were set aside and that fit into the context, the shortest first."""
    require_context(reference.probes, num_ctx)
    prompts = sorted(reference.probes, key=lambda prompt: len(prompt["ids"]))
    return [prompt["messages"] for prompt in prompts if len(prompt["ids"]) < num_ctx]


# --- letting it go live ----------------------------------------------------------------------------------------------


def _go_live(work: Work, server: Ollama, way: Creation, candidates: Sequence[Candidate]) -> dict[str, dict[str, Any]]:
    """Give every candidate its live name, and return what the server then has under these names."""
    digests = _proven_digests(server, candidates)
    note_live(work.logs, work.params["server"], digests)
    for candidate in reversed(candidates):
        proven = digests[candidate.live_name]
        if server.digest(candidate.live_name) == proven:
            continue
        way.create(candidate.live_name, candidate, digest=proven)
        if server.digest(candidate.live_name) != proven:
            raise _changed(candidate.live_name, server)
    work.progress.note("live as " + ", ".join(candidate.live_name for candidate in candidates))
    models = {model_name.canonical(name): model for name, model in server.models().items()}
    return {candidate.live_name: _as_output(candidate, models) for candidate in candidates}


def _proven_digests(server: Ollama, candidates: Sequence[Candidate]) -> dict[str, str]:
    """Return, by live name, the manifest digest of what was proven."""
    digests = {}
    for candidate in candidates:
        proven = server.digest(candidate.check_name)
        if proven is None:
            raise _changed(candidate.check_name, server)
        digests[candidate.live_name] = proven
    return digests


def _changed(name: str, server: Ollama) -> StageError:
    return StageError(
        ExitCode.GATE_FAILED,
        f"{name} on {server.called} is not what was proven: somebody else changed it at the same moment",
        reason="LiveModelDiffers",
        hint="See who else writes to this server, then run again.",
    )


def _as_output(candidate: Candidate, models: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    model = models[model_name.canonical(candidate.live_name)]
    return {"digest": model["digest"], "quantization": candidate.quantization, "size": model["size"]}
