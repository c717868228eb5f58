"""The stage `rehearse`: asks, before any training, whether what comes after it could work.

In this order, the cheap first:

1. what `register` can refuse without the trained model: parameters, names, the context;
2. the base by the heads of its weight files, the rows' lengths, estimates of memory and disk;
3. every server: its version, and whether it lets models be created and removed, tried with one without weights;
4. every number of the base's weights;
5. the twin: a small model of the base's own architecture with its real tokenizer, template and end-of-turn token, but
   random weights. It takes a step of training and then goes the way of the trained model, in the hands of `convert`,
   `quantize` and `register`: into a GGUF, quantized, created on every server under a throw-away name, loaded, asked
   what it makes of conversations, and removed.

A gate: it enters no key and leaves nothing behind but its logs, of which ``report.json`` is for people, and the word
that 4 and 5 have passed (:mod:`~tunesmith_stages.rehearse.passed_before`). What comes before is checked every time.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tunesmith_stages.ollama_gate import connect, require_names, require_supported, typed_parameters
from tunesmith_stages.program import Made, Work
from tunesmith_stages.register.candidates import DEFAULT_NUM_CTX, Candidate, require_context
from tunesmith_stages.register.creation import creation
from tunesmith_stages.register.reference import Reference, probes_of
from tunesmith_stages.rehearse import passed_before, room, twin, way_out, weights
from tunesmith_stages.rehearse.empty_model import create_and_remove, empty_candidate
from tunesmith_stages.rehearse.estimates import method_of
from tunesmith_stages.rehearse.finite import are_finite
from tunesmith_stages.rehearse.report import Report

_SCRATCH = ("twin", "convert", "quantize", "Modelfile")


def rehearse(work: Work) -> Made:
    """Check what can be checked before a training; see the module."""
    report = Report(work)
    try:
        parameters = _check_request(work)
        base = weights.weights_of(work.input("base"))
        _check_base(work, report, base)
        _check_servers(work, report, parameters)
        _read_weights(work, report, base)
        _check_twin(work, report, base, parameters)
    finally:
        report.write()
        _clear(work)
    return Made(
        outputs={"servers": report.servers},
        numbers={
            "checks": report.passed,
            **{name: value for name, value in report.estimates.items() if isinstance(value, int)},
        },
        tools={"ollama": ", ".join(sorted(set(report.servers.values())))},
    )


def _check_request(work: Work) -> dict[str, Any]:
    """Check what the job asks of the servers; return the parameters in the types that Ollama wants."""
    parameters = typed_parameters(work.params["parameters"])
    require_names(work.params["model"], work.params["quantizations"])
    probes = probes_of(work.input("prepared"))
    if probes:  # plain text has none
        require_context(probes, parameters.get("num_ctx") or DEFAULT_NUM_CTX)
    return parameters


def _check_base(work: Work, report: Report, base: weights.Weights) -> None:
    """Check what the heads of the weight files and the lengths of the rows tell."""
    folder, config = work.input("base"), _config(work)
    report.check("target modules", lambda: weights.require_modules(base, twin.adapted(work)))
    report.check("number formats", lambda: weights.are_floats(config, base))
    report.check("size of the tensors", lambda: weights.are_not_empty(base))
    report.check("vocabulary", lambda: weights.vocabulary_fits(folder, config, base))
    lengths = room.sequence_lengths(work.input("prepared"), method_of(work.runtime["estimate"]))
    report.check("length of the rows", lambda: room.rows_fit(config, lengths))
    room.estimate(work, report, config, base, lengths)


def _check_servers(work: Work, report: Report, parameters: Mapping[str, Any]) -> None:
    """Check that every server is new enough and lets models be created and removed."""
    candidate = empty_candidate(work, parameters)
    for name in work.params["servers"]:
        with connect(work.runtime, name) as server:
            report.servers[name] = server.version()
            require_supported(report.servers[name], work.progress.note)
            way = creation(work, name, server, parameters)
            report.check(f"rights on {name}", lambda: create_and_remove(work, server, way, candidate))  # noqa: B023 - run at once


def _read_weights(work: Work, report: Report, base: weights.Weights) -> None:
    """Read every number, once for each base on a volume."""
    facts = passed_before.of_the_weights(work)
    if (before := passed_before.look_up(work.volume, facts)) is not None:
        report.passed_before(before)
        return
    advance = work.progress.counter(base.bytes, "bytes read")
    report.check("numbers of the weights", lambda: are_finite(base, advance))
    passed_before.remember(work, facts, report.checks[-1:])


def _check_twin(work: Work, report: Report, base: weights.Weights, parameters: Mapping[str, Any]) -> None:
    """Send a twin of the base the way that the trained model will go, unless one has passed all of it before."""
    way = passed_before.of_the_way_out(work)
    servers = {name: passed_before.of_a_server(work, name, version, way) for name, version in report.servers.items()}
    before = [passed_before.look_up(work.volume, facts) for facts in (way, *servers.values())]
    known = [passed for passed in before if passed is not None]
    if len(known) == len(before):
        for passed in known:
            report.passed_before(passed)
        return
    first = len(report.checks)
    if not _make_twin(work, report, base):
        return
    passed_before.remember(work, way, report.checks[first:])
    candidate, parameters = way_out.candidate_of(work, parameters)
    for (name, facts), proven in zip(servers.items(), before[1:], strict=True):
        if proven is not None:
            report.passed_before(proven)
            continue
        _prove_twin(work, report, name, candidate, parameters)
        passed_before.remember(work, facts, report.checks[-1:])


def _make_twin(work: Work, report: Report, base: weights.Weights) -> bool:
    """Make the twin and let it go as far as the file that servers get; say whether one could be made."""
    work.progress.note("making a small model of the base's architecture")
    checkpointing = bool(work.runtime["estimate"]["gradientCheckpointing"])
    tokens = weights.rows_of(_config(work), base)
    made = twin.make_twin(work, probes_of(work.input("prepared")), tokens, checkpointing=checkpointing)
    report.check("weights of the architecture", lambda: twin.is_whole(made))
    report.check("output layer", lambda: twin.keeps_its_head(made, base))
    if not made.parameters:
        report.not_made("step of training and way out", twin.why_none(made))
        return False
    report.check("step of training", lambda: twin.described(made))
    report.check("convert", lambda: way_out.convert_twin(work))
    report.check("quantize", lambda: way_out.quantize_twin(work))
    return True


def _prove_twin(work: Work, report: Report, name: str, candidate: Candidate, parameters: Mapping[str, Any]) -> None:
    """Let a server take the twin, and compare what it makes of conversations with what training makes of them."""
    reference = Reference(work.input("base"), work.input("prepared"))
    with connect(work.runtime, name) as server:
        way = creation(work, name, server, parameters)
        report.check(
            f"register on {name}",
            lambda: way_out.prove_twin(work, server, way, candidate, reference, parameters["num_ctx"]),
        )


def _config(work: Work) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((work.input("base") / "config.json").read_text(encoding="utf-8"))
    return config


def _clear(work: Work) -> None:
    """Remove what was made on the way: only the logs stay."""
    for path in (*(work.folder / name for name in _SCRATCH), *work.out.iterdir()):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            Path(path).unlink(missing_ok=True)
