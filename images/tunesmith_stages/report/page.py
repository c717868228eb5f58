"""The report as one page of HTML that needs nothing else: no script, no font, no picture, no server."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

from tunesmith_stages.byte_size import size
from tunesmith_stages.contract import StageName
from tunesmith_stages.report.blocks import Section
from tunesmith_stages.report.drawing import drawn
from tunesmith_stages.report.facts import Facts, gather
from tunesmith_stages.report.markup import Markup, joined, tag
from tunesmith_stages.report.reading import text
from tunesmith_stages.report.sections import sections_of
from tunesmith_stages.report.shown import count, figure, line, moment
from tunesmith_stages.report.verdict import Verdict, base_of, verdict_of
from tunesmith_stages.volume import Volume, write_whole

log = logging.getLogger(__name__)

MOST_BYTES = 1_000_000
"""No page is larger."""
_SECTION_BYTES = 130_000
"""No section is larger, so that all of them together are less than that. What it is made of is cut to lengths that fit
in there, so that a part has to be left out only if somebody means it to be."""

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
"""The browser is told as well that the page asks for nothing."""


def keep_page(volume: Volume, job: str) -> Path | None:
    """Write the page into the job's folder; None if that cannot be done, which is no failure of whoever asks for it."""
    path = volume.report_page(job)
    try:
        facts = gather(volume, job)
        if facts is None:
            return None
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, page_of(facts))
    except Exception as error:  # noqa: BLE001 - whatever lies on the volume, what was made of it counts
        log.warning("the report page was not written to %s: %s: %s", path, type(error).__name__, error)
        return None
    return path


def page_of(facts: Facts) -> str:
    """Return the page: the same text for the same volume."""
    verdict, sections = verdict_of(facts), sections_of(facts)
    style = Path(__file__).with_name("page.css").read_text(encoding="utf-8")
    title = f"{line(facts.job, 100)}: {verdict.word}"
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("meta", name="referrer", content="no-referrer"),
        tag("title", f"{title} – Tunesmith report"),
        tag("style", Markup(style)),
    )
    body = tag(
        "body",
        tag("a", "To the report", href="#main", class_="skip"),
        _header(facts, verdict),
        _contents(sections),
        tag("main", *(joined("\n", _section(section)) for section in sections), id="main"),
        tag("footer", tag("p", _FOOT)),
    )
    return f"<!DOCTYPE html>\n{tag('html', head, body, lang='en')}\n"


_FOOT = "Made by Tunesmith from what lies on the volume. The page asks for nothing from anywhere."


def _header(facts: Facts, verdict: Verdict) -> Markup:
    rows = [("base model", base_of(facts) or "–"), ("model in Ollama", _model(facts, verdict) or "–")]
    rows.append(("as of", moment(verdict.when)))
    pairs = [tag("div", tag("dt", name), tag("dd", value)) for name, value in rows]
    parts = [
        tag("p", "Tunesmith report", class_="kicker"),
        tag("h1", tag("bdi", line(facts.job, 100)), " ", tag("span", verdict.word, class_=f"badge {verdict.tone}")),
        tag("p", verdict.sentence, class_="verdict"),
    ]
    if verdict.hint:
        parts.append(tag("p", tag("strong", "What to do: "), verdict.hint))
    parts.append(tag("dl", *pairs, class_="facts"))
    if verdict.models:
        parts.append(tag("p", "To run it:", class_="run"))
        parts += [tag("pre", tag("code", f"ollama run {name}")) for name in verdict.models[:8]]
    parts.append(_tiles(facts))
    return tag("header", *parts)


def _model(facts: Facts, verdict: Verdict) -> str:
    """Return the name in Ollama, of a model that is not there yet the one that it will have."""
    for stage in (StageName.REGISTER, StageName.REHEARSE):
        unit = facts.one(stage)
        if unit is not None and text(unit.config.params.get("model")):
            later = "" if verdict.models else " (not there yet)"
            return line(text(unit.config.params["model"]), 200) + later
    return ""


def _tiles(facts: Facts) -> Markup:
    """Return the few figures that people look for first."""
    prepare, train = facts.one(StageName.PREPARE), facts.one(StageName.TRAIN)
    found = []
    if prepare and prepare.result:
        found.append((count(prepare.figures.get("rows")), "rows"))
        found.append((count(prepare.figures.get("tokens")), "tokens"))
    if train and train.result:
        found.append((count(train.figures.get("steps")), "steps"))
        found.append((figure(train.figures.get("loss")), "final loss"))
    found += [
        (size(unit.result.bytes), line(unit.name, 20)) for unit in facts.of(StageName.QUANTIZE)[:2] if unit.result
    ]
    tiles = [tag("li", tag("b", value), " ", tag("span", name)) for value, name in found if value != "–"]
    return tag("ul", *tiles, class_="tiles", aria_label="Key figures") if tiles else Markup("")


def _contents(sections: list[Section]) -> Markup:
    links = [tag("li", tag("a", section.title, href=f"#{section.id}")) for section in sections]
    return tag("nav", tag("ul", *links), aria_label="Sections")


def _section(section: Section) -> Markup:
    title = f"{section.id}-title"
    blocks = joined(*_fitting(section))
    return tag("section", tag("h2", section.title, id=title), blocks, id=section.id, aria_labelledby=title)


def _fitting(section: Section) -> Iterator[Markup]:
    """Yield the blocks of a section that there is room for."""
    room, left_out = _SECTION_BYTES, 0
    for block in section.blocks:
        html = joined("\n", drawn(block))
        size_of_it = len(html.encode())
        if size_of_it > room:
            left_out += 1
            continue
        room -= size_of_it
        yield html
    if left_out:
        yield tag("p", f"Too long for this page, and left out: {left_out} of {len(section.blocks)} parts.")
