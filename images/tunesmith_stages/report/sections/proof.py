"""The section on what was proven of the finished model, by what `convert` and `register` left."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from tunesmith_stages.contract import StageName
from tunesmith_stages.report.blocks import BAD, GOOD, NOTE, Block, Code, Says, Section, Table
from tunesmith_stages.report.facts import Facts, Unit
from tunesmith_stages.report.reading import listed, mapping, text
from tunesmith_stages.report.shown import figure, line, shown

_MOST_CHECKS, _MOST_ANSWERS, _MOST_MODELS = 50, 12, 4

_CHECKS = {
    "template_is_ours": "the chat template is the trained one, byte for byte",
    "loads": "it loads",
    "renders_equally": "conversations are rendered as in training",
    "counts_tokens_equally": "prompts have as many tokens as in training",
    "stops": "it ends its turn by itself",
    "passes_smoke_tests": "it answers the smoke tests",
}
"""What each check of `register` says if it passes."""


def proof(facts: Facts) -> Section:
    """Say what was compared and asked, and what came of it."""
    blocks: list[Block] = [*_same_model(facts.one(StageName.CONVERT))]
    for unit in facts.of(StageName.REGISTER):
        blocks += [*_checks(facts, unit), *_answers(facts, unit)]
    if not blocks:
        blocks = [Says("Nothing has been proven of the model yet: it is not there.", NOTE)]
    return Section("proof", "Proof", tuple(blocks))


def _same_model(unit: Unit | None) -> Iterator[Block]:
    if unit is None or unit.result is None or "maxKl" not in unit.figures:
        return
    mean, most = (figure(value) if value else "less than 0.000001" for value in _divergences(unit))
    yield Says(
        "The GGUF is the model that was trained: on the prompts set aside, the probabilities of the next token differ "
        f"by {mean} nats on average, by {most} at most (Kullback-Leibler divergence).",
        GOOD,
    )


def _divergences(unit: Unit) -> tuple[float, float]:
    """Return the mean and the largest divergence, which are recorded with six places."""
    return unit.figures.get("meanKl", 0.0), unit.figures["maxKl"]


def _checks(facts: Facts, unit: Unit) -> Iterator[Block]:
    record = [mapping(item) for item in listed(facts.log(unit, "proof.json"))]
    if not record:
        yield Says(f"Server {line(unit.name, 80)}: no check has been made.", NOTE)
        return
    failed = [item for item in record if item.get("passed") is not True]
    if failed:
        yield Says(f"Server {line(unit.name, 80)}: a check failed, so the model did not get its name.", BAD)
        yield Code("What differs", shown(text(failed[-1].get("found")), 4000))
    else:
        yield Says(f"Server {line(unit.name, 80)}: all {len(record)} checks passed.", GOOD)
    rows = [
        (
            line(text(item.get("quantization")), 20),
            _CHECKS.get(text(item.get("check")), line(text(item.get("check")), 80)),
            "✓ passed" if item.get("passed") is True else "✗ failed",
            line(text(item.get("found")), 300),
        )
        for item in record[:_MOST_CHECKS]
    ]
    head = ("quantization", "check", "outcome", "found")
    yield Table(f"Checks on {line(unit.name, 80)}", head, rows, more=max(0, len(record) - _MOST_CHECKS))


# --- answers ---------------------------------------------------------------------------------------------------------


def _answers(facts: Facts, unit: Unit) -> Iterator[Block]:
    """Yield what the models said, those of one question side by side: the untuned one's, where it was asked, first."""
    said: dict[str, dict[str, str]] = {}
    for item in map(mapping, listed(facts.log(unit, "answers.json"))):
        answers = said.setdefault(text(item.get("prompt")), {})
        answers[line(text(item.get("quantization")), 20) or "answer"] = text(item.get("after"))
    if not said:
        return
    trained = facts.one(StageName.TRAIN)
    for item in map(mapping, listed(facts.log(trained, "before.json") if trained else ())):
        if text(item.get("prompt")) in said:
            said[text(item["prompt"])]["before"] = text(item.get("answer"))
    expected = {text(test.get("prompt")): text(test.get("expect")) for test in _smoke_tests(unit)}
    names = list(dict.fromkeys(name for answers in said.values() for name in answers))
    names = sorted(names, key=lambda name: name != "before")[:_MOST_MODELS]
    rows = [
        (
            line(prompt, 300),
            *(shown(answers.get(name, "–"), 500) for name in names),
            _outcome(
                expected.get(prompt, ""), [answers[name] for name in names if name in answers.keys() - {"before"}]
            ),
        )
        for prompt, answers in list(said.items())[:_MOST_ANSWERS]
    ]
    head = ("asked", *names, "expected")
    yield Table(f"Answers on {line(unit.name, 80)}", head, rows, more=max(0, len(said) - _MOST_ANSWERS))


def _smoke_tests(unit: Unit) -> list[Mapping[str, Any]]:
    return [mapping(test) for test in listed(unit.runtime.get("smokeTests"))]


def _outcome(expected: str, answers: list[str]) -> str:
    """Return what a smoke test wants, and whether every answer holds it; a question of the data wants nothing."""
    if not expected:
        return "–"
    return f"{'✓' if all(expected in answer for answer in answers) else '✗'} {line(expected, 200)}"
