"""The twin's way into a server, in the hands of the stages that will do it with the trained model."""

from __future__ import annotations

import dataclasses
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tunesmith_stages import model_name, quantize
from tunesmith_stages.contract import Input, UnitConfig
from tunesmith_stages.convert import run_converter
from tunesmith_stages.convert import stage as convert
from tunesmith_stages.gguf_file import NAME, read_gguf, write_with_text
from tunesmith_stages.ollama import Ollama
from tunesmith_stages.ollama_gate import EXEC
from tunesmith_stages.program import Made, StageError, Work
from tunesmith_stages.quantization_source import Source, require_possible
from tunesmith_stages.quantization_types import QUANTIZATION_TYPES
from tunesmith_stages.register.candidates import Candidate, with_num_ctx, write_modelfiles
from tunesmith_stages.register.creation import Creation
from tunesmith_stages.register.proof import (
    Subject,
    counts_tokens_equally,
    difference,
    loads,
    renders_equally,
    template_is_ours,
)
from tunesmith_stages.register.reference import Reference
from tunesmith_stages.register.shapes import as_asked
from tunesmith_stages.rehearse.forked import run_forked
from tunesmith_stages.throw_away import throw_away_names
from tunesmith_stages.volume import sha256_of


def convert_twin(work: Work) -> str:
    """The twin becomes a GGUF that has its tokens, template and expectations.

    Raises:
        StageError: `convert` would refuse the trained model, too.
    """
    inputs = {
        "base": _made_here(work, work.folder / "twin" / "base"),
        "prepared": work.unit.inputs["prepared"],
        "trained": _made_here(work, work.folder / "twin" / "trained"),
    }
    params = {"outType": work.params["outType"]}
    made = _as_stage(work, "convert", lambda sub: convert.make(sub, _in_a_fork), params, inputs)
    found = made.outputs["preTokenizer"]
    return f"{made.outputs['ggufArchitecture']} by {made.outputs['path']}, pre-tokenizer {found['name']}"


def _in_a_fork(task: Path, log_file: Path, watch: convert.Watch) -> None:
    run_forked(run_converter.main, task, log_file, what=convert.CONVERTER, watch=watch)


def quantize_twin(work: Work) -> str:
    """The GGUF becomes the first type asked for; the others can be made of such a model.

    A type that needs an importance matrix is not tried: that would be computed from what the trained model computes.

    Raises:
        StageError: one cannot be made.
    """
    kinds: Sequence[str] = work.params["quantizations"]
    source = Source(read_gguf(_converted(work)), is_base=False)
    for kind in kinds:
        require_possible(source, kind, imatrix=True)
    kind = next((kind for kind in kinds if not QUANTIZATION_TYPES[kind].needs_imatrix), "Q8_0")
    inputs = {"converted": _made_here(work, _converted(work).parent)}
    _as_stage(work, "quantize", quantize.make, {"type": kind}, inputs)
    return kind


def candidate_of(work: Work, parameters: Mapping[str, Any]) -> tuple[Candidate, dict[str, Any]]:
    """Return the twin as `register` takes it, and the parameters with the `num_ctx` that it gets.

    The server's pod, if it is created there, reads the file from the volume. The file has a name, so that no two
    rehearsals of one base have it in common: a server that removes a model removes its file from under those who have
    just found that it has it.
    """
    made, gguf = (work.folder / "quantize" / "out" / name for name in ("model.gguf", "twin.gguf"))
    name = model_name.check_name(work.unit.key, work.volume.identity(), work.config.attempt, "twin")
    write_with_text(read_gguf(made), gguf, NAME, name)
    made.unlink()
    parameters = with_num_ctx(work, gguf, parameters)
    candidate = Candidate("the twin of the base", gguf, sha256_of(gguf), name, name, work.folder / "Modelfile")
    if work.runtime["method"] == EXEC:
        write_modelfiles(work, [candidate], parameters)
    return candidate, parameters


def prove_twin(
    work: Work, server: Ollama, way: Creation, candidate: Candidate, reference: Reference, num_ctx: int
) -> str:
    """A server takes the twin, loads it, and makes of conversations what training makes of them.

    Raises:
        StageError: it would not serve the trained model as it was trained.
    """
    name = candidate.check_name
    prefix = model_name.check_prefix(work.unit.key, work.volume.identity())
    with throw_away_names(server, prefix, [name]):
        way.create(name, candidate)
        subject = Subject(
            server=server,
            name=name,
            quantization=candidate.quantization,
            reference=reference,
            system=work.params["system"],
            num_ctx=num_ctx,
            probes=(),
            smoke_tests=(),
            thinking="thinking" in server.show(name).get("capabilities", ()),
        )
        checks = (template_is_ours, loads, renders_equally, counts_tokens_equally)
        found = [f"{check.__name__}: {check(subject)}" for check in checks]
        found.append(f"data: {_reads_the_data_equally(subject, reference)}")
    return "; ".join(found)


def _reads_the_data_equally(subject: Subject, reference: Reference) -> str:
    """Prompts of the training data become the text and the number of tokens that training has.

    Decomposed accents are composed by most tokenizers and not by llama.cpp (:mod:`..convert.token_gate`): which rows
    are asked for is chance, so a prompt with some proves nothing.
    """
    probes = [probe for probe in reference.probes if unicodedata.is_normalized("NFC", probe["text"])]
    fitting = [probe for probe in probes if len(probe["ids"]) < subject.num_ctx]
    for probe in fitting:
        messages = tuple(probe["messages"])
        expected = reference.prompt(as_asked(messages, subject.system), subject.modes[0])
        if expected is None:
            continue
        found = subject.server.rendered(subject.name, messages, think=subject.modes[0])
        if found != expected.text:
            raise subject.failed(
                "RenderingDiffers",
                "for a prompt of the training data, Ollama's prompt differs from the one that is trained with:\n"
                f"{difference(expected.text, found)}",
                "Ollama's template engine reads this chat template differently: give a simpler one.",
            )
        tokens = subject.server.chat(subject.name, messages, limit=1, think=subject.modes[0]).prompt_tokens
        if tokens != expected.tokens and expected.tokens < subject.num_ctx:
            raise subject.failed(
                "TokenCountDiffers",
                f"for a prompt of the training data, Ollama counts {tokens} tokens and the base's tokenizer "
                f"{expected.tokens}: {expected.text[:500]!r}",
                "Choose another base model: its tokenizer cannot be exported faithfully.",
            )
    return f"{len(fitting)} prompts equal"


def _converted(work: Work) -> Path:
    return work.folder / "convert" / "out" / "model.gguf"


def _made_here(work: Work, folder: Path) -> Input:
    return Input(work.volume.relative(folder), "0" * 64)


def _as_stage(
    work: Work, name: str, make: Callable[[Work], Made], params: Mapping[str, Any], inputs: Mapping[str, Input]
) -> Made:
    """Let a later stage make a unit in a folder of ours.

    Raises:
        StageError: it fails, in its own words.
    """
    folder = work.folder / name
    sub = dataclasses.replace(work, unit=UnitConfig(name, work.unit.key, params, inputs), folder=folder)
    sub.out.mkdir(parents=True)
    sub.logs.symlink_to(work.logs, target_is_directory=True)
    try:
        return make(sub)
    except StageError as error:
        message = f"a small model of the base's architecture, with its tokenizer, does not get out: {error.message}"
        raise StageError(error.code, message, reason=error.reason, hint=error.hint) from error
