"""The section on the data, by what `prepare` left."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from tunesmith_stages.contract import StageName
from tunesmith_stages.report.blocks import NOTE, Bars, Block, Items, Sample, Says, Section, Table
from tunesmith_stages.report.facts import Facts, Unit
from tunesmith_stages.report.reading import listed, mapping, number, text
from tunesmith_stages.report.shown import count, line, shown

_MOST_DATASETS, _MOST_EXAMPLES, _MOST_BARS = 50, 20, 24
_SAMPLE = 6000


def data(facts: Facts) -> Section:
    """Say what was found in the data and what became of it."""
    unit = facts.one(StageName.PREPARE)
    report = mapping(facts.log(unit, "report.json")) if unit else {}
    if unit is None or not (report or unit.result):
        return Section("data", "Data", (Says("The data have not been prepared, so nothing is known of them.", NOTE),))
    blocks = [
        *_datasets(report),
        *_totals(unit, report),
        *_histogram(report),
        *_template(unit, report),
        *_sample(report),
    ]
    return Section("data", "Data", tuple(blocks))


def _datasets(report: Mapping[str, Any]) -> Iterator[Block]:
    found = {str(name): mapping(item) for name, item in mapping(report.get("datasets")).items()}
    rows = [
        (
            line(name, 80),
            line(text(item.get("format")), 40) or "–",
            *(count(number(item.get(field))) for field in ("rows", "used", "samples", "badRows")),
        )
        for name, item in list(found.items())[:_MOST_DATASETS]
    ]
    head = ("dataset", "format", "rows", "used", "samples", "bad rows")
    more = max(0, len(found) - _MOST_DATASETS)
    if rows:
        yield Table("Datasets: rows found and used", head, rows, frozenset({2, 3, 4, 5}), more)
    said = [
        f"{line(name, 80)}: {line(text(item['found']), 400)}" for name, item in found.items() if text(item.get("found"))
    ]
    if said:
        yield Items("What was recognised, and why", said[:_MOST_DATASETS], max(0, len(said) - _MOST_DATASETS))
    bad = [
        f"{line(name, 80)}: {line(text(example), 300)}"
        for name, item in found.items()
        for example in listed(item.get("badRowExamples"))
    ]
    total = sum(int(number(item.get("badRows")) or 0) for item in found.values())
    if bad:
        shown_bad = bad[:_MOST_EXAMPLES]
        yield Items("Bad rows, which were skipped", shown_bad, max(0, total - len(shown_bad)))


_NAMES = {
    "rows": "rows to train on",
    "validationRows": "rows held back to evaluate",
    "duplicateRows": "rows that equal an earlier one: trained on together, or held back together",
    "validationRowsTrainedOn": "rows to evaluate with that are trained on, too",
    "samples": "samples",
    "tokens": "tokens",
    "labelledTokens": "tokens that are learnt",
    "longest": "tokens of the longest sample",
    "longestRow": "tokens of the longest sample",
    "rowsLeftOut": "rows left out: longer than sequenceLength",
    "rowsCutAtTurns": "conversations cut short at a turn",
    "rowsWithControlText": "rows with text like a control token, taken as text",
}
"""Figures, in words."""
_OF_PREFERENCES = {
    "duplicateRows": "rows with the prompt of an earlier one: trained on together, or held back together",
    "validationRowsTrainedOn": "rows to evaluate with whose prompt is trained on, too",
}
_OF_PAIRS = {
    **_OF_PREFERENCES,
    "rows": "pairs of answers to train on",
    "validationRows": "pairs held back to evaluate",
    "samples": "pairs",
    "labelledTokens": "tokens of the answers",
    "rowsLeftOut": "pairs left out: one of the two is longer than sequenceLength",
}
"""The same where rows say what people prefer."""


def _totals(unit: Unit, report: Mapping[str, Any]) -> Iterator[Block]:
    figures = {**unit.figures, **report}
    preferences = mapping(report.get("preferences"))
    others = {"Pairs": _OF_PAIRS, "Labels": _OF_PREFERENCES}.get(text(preferences.get("kind")), {})
    names = {**_NAMES, **others}
    rows = {words: count(value) for name, words in names.items() if (value := number(figures.get(name))) is not None}
    for name in ("desirable", "undesirable"):
        if (value := number(preferences.get(name))) is not None:
            rows[f"rows to train on with an answer that is {name}"] = count(value)
    tokens, learnt = number(figures.get("tokens")), number(figures.get("labelledTokens"))
    if tokens and learnt is not None:
        rows[names["labelledTokens"]] += f" ({learnt / tokens:.0%})"
    length = number(unit.config.params.get("sequenceLength"))
    if length is not None:
        rows["sequenceLength"] = count(length)
    packing = mapping(report.get("packing"))
    if packing:
        fill = number(packing.get("fill"))
        of = f"{count(number(packing.get('samples')))} samples in {count(number(packing.get('rows')))} rows"
        rows["packing"] = of + (f", {fill:.1%} filled" if fill is not None else "")
    yield Table("What is trained on", ("figure", "value"), list(rows.items()), frozenset({1}))


def _histogram(report: Mapping[str, Any]) -> Iterator[Block]:
    found = [mapping(item) for item in listed(report.get("histogram"))][:_MOST_BARS]
    pairs = [(number(item.get("upTo")), number(item.get("samples"))) for item in found]
    bins = [(up_to, samples) for up_to, samples in pairs if up_to is not None and samples is not None and samples >= 0]
    while bins and not bins[-1][1]:
        bins.pop()
    if bins:
        of_pairs = mapping(report.get("preferences")).get("kind") == "Pairs"
        what, of = ("Pairs", "the longer one's number") if of_pairs else ("Samples", "their number")
        most = max(bins, key=lambda item: item[1])
        alt = f"{what} by tokens: most, {count(most[1])}, have up to {count(most[0])} tokens."
        bars = [(f"up to {count(up_to)}", samples, count(samples)) for up_to, samples in bins]
        yield Bars(f"{what} by {of} of tokens", alt, bars)


_TEMPLATES = {"tokenizer": "the base tokenizer's own", "jinja": "given in the job"}
"""What is no name of a template, in words."""


def _template(unit: Unit, report: Mapping[str, Any]) -> Iterator[Block]:
    template, asked = mapping(report.get("template")), unit.config.params.get("chatTemplate")
    name = text(template.get("name")) or ("jinja" if asked else "tokenizer")
    words = [f"Chat template: {_TEMPLATES.get(name) or line(name, 80)}."]
    if template.get("thinking") not in (None, False):
        words.append("It has thinking.")
    if date := text(template.get("date")):
        words.append(f"It writes the date: {line(date, 20)} in training, the day's own when it is served.")
    split = number(template.get("perTurn"))
    if split:
        words.append(f"It rewrites earlier turns, so {count(split)} conversations became one sample for each answer.")
    yield Says(" ".join(words))


def _sample(report: Mapping[str, Any]) -> Iterator[Block]:
    runs, rejected = _runs(report.get("firstRow")), _runs(report.get("firstRejected"))
    if runs and rejected:
        yield Sample("The first pair, as the model is given it: the chosen answer", runs, "the answer to prefer")
        yield Sample("The first pair: the rejected answer", rejected, "the answer that the other is preferred to")
    elif runs:
        labelled = mapping(report.get("preferences")).get("kind") == "Labels"
        marked = "the answer that the label is about" if labelled else "what is learnt"
        yield Sample("The first sample, as the model is given it", runs, marked)


def _runs(value: object) -> list[tuple[bool, str]]:
    """Return the pieces of a sample, each with whether it is learnt, as far as they are shown."""
    runs = []
    room = _SAMPLE
    for item in listed(value):
        run = mapping(item)
        if room <= 0:
            runs.append((False, "…"))
            break
        piece = shown(text(run.get("text")), room)
        runs.append((run.get("learnt") is True, piece))
        room -= len(piece)
        if len(runs) >= 400:
            break
    return runs
