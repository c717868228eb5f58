"""A page about a FineTuneJob as people see it, as JSON, and as one line."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

from pydantic.alias_generators import to_camel
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from tunesmith.cli.kubectl.page import Page, StageRow
from tunesmith.core.progress import duration
from tunesmith_stages.byte_size import size

_WIDE = 100_000
_COLOURS = {"Succeeded": "green", "Running": "cyan", "Pending": "yellow", "Unknown": "yellow", "Failed": "red"}
_VERSION_DIGITS = 12


class _Output(Console):
    """Standard output. That nobody reads it any more is told to who prints: it is no failure of rich's to end for."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


def output() -> Console:
    """Return standard output. What is no terminal has no width that lines must be broken for."""
    console = _Output(emoji=False, highlight=False)
    if not console.is_terminal:
        console.width = _WIDE
    return console


def as_json(page: Page) -> str:
    """Return a page as JSON, its fields named as Kubernetes names them; what controls the terminal is escaped."""
    text = json.dumps(_camel(asdict(page)), indent=2, ensure_ascii=False)
    return "".join(letter if _is_harmless(letter) else json.dumps(letter)[1:-1] for letter in text)


def _camel(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {to_camel(name): _camel(item) for name, item in value.items()}
    return [_camel(item) for item in value] if isinstance(value, list | tuple) else value


def as_text(page: Page) -> RenderableType:
    """Return a page for people."""
    parts: list[RenderableType] = [_headline(page)]
    if page.stages:
        head = ("STAGE", "STATE", "ATTEMPT", "DURATION", "CACHED", "REASON")
        parts += ["", _table(head, (_stage_cells(stage) for stage in page.stages))]
    for stage in page.stages:
        if stage.log_tail:
            parts += ["", Text(f"LAST LINES OF {stage.name}'s LOG", style="dim"), _indented(stage.log_tail)]
    if progress := progress_in_words(page.progress):
        parts += ["", Text(f"PROGRESS  {page.progress.get('stage', '')} {progress}")]
    if page.artifacts:
        rows = ((made.type, size(made.bytes), made.model, made.path) for made in page.artifacts)
        parts += ["", _table(("TYPE", "SIZE", "MODEL", "PATH ON THE VOLUME"), rows)]
    if page.servers:
        parts += ["", _table(("SERVER", "MODELS"), ((item.name, ", ".join(item.models)) for item in page.servers))]
    if page.sources:
        sources = (
            (item.name, item.place, item.version[:_VERSION_DIGITS], "" if item.bytes is None else size(item.bytes))
            for item in page.sources
        )
        parts += ["", _table(("SOURCE", "FROM", "VERSION", "SIZE"), sources)]
    return Group(*parts)


def as_line(page: Page) -> str:
    """Return where a job stands on one line."""
    progress = progress_in_words(page.progress)
    message = " ".join(part for part in (page.message, f"→ {page.hint}" if page.hint else "") if part)
    goes_on = not page.ready and not page.stalled and progress
    said = f"{page.progress.get('stage', '')} {progress}" if goes_on else message
    return printable(f"{page.reason}: {said}").replace("\n", " ")


def progress_in_words(progress: Mapping[str, Any]) -> str:
    """Return how far a stage is, its newest figures, and the time that is left."""
    parts = [str(progress.get("text", ""))]
    if progress.get("total"):
        parts.append(f"({progress.get('done', 0):,}/{progress['total']:,} {progress.get('of', '')})".replace(" )", ")"))
    figures = {"loss": "loss", "evalLoss": "eval loss", "gradNorm": "grad norm", "learningRate": "lr"}
    parts += [f"{word} {progress[name]}" for name, word in figures.items() if progress.get(name)]
    if progress.get("tokensPerSecond"):
        parts.append(f"{progress['tokensPerSecond']} tok/s")
    if progress.get("peakGpuMemoryBytes"):
        now = f"{size(progress['gpuMemoryBytes'])}, at most " if progress.get("gpuMemoryBytes") else ""
        parts.append(f"{now}{size(progress['peakGpuMemoryBytes'])} on the GPU")
    if progress.get("eta"):
        parts.append(f"ETA {progress['eta']}")
    return printable("  ".join(filter(None, parts)))


def printable(text: str) -> str:
    """Return a text without what would control the terminal: others have a hand in it."""
    return "".join(letter if _is_harmless(letter) else "\ufffd" for letter in text)


def _is_harmless(letter: str) -> bool:
    return letter.isprintable() or letter == "\n"


def _headline(page: Page) -> RenderableType:
    colour = "green" if page.ready else "red" if page.stalled else "yellow"
    head = Text.assemble(
        (page.name, "bold"), f"  in namespace {page.namespace}:  ", (printable(page.reason), f"bold {colour}")
    )
    lines = [head, *([Text(f"  {printable(page.message)}")] if page.message else [])]
    return Group(*lines, *([Text(f"  → {printable(page.hint)}")] if page.hint else []))


def _indented(text: str) -> Text:
    return Text("\n".join(f"  {printable(line)}" for line in text.splitlines()))


def _stage_cells(stage: StageRow) -> tuple[str | Text, ...]:
    reason = stage.reason + (f", next try at {stage.next_attempt}" if stage.next_attempt else "")
    return (
        stage.name,
        Text(stage.state, style=_COLOURS.get(stage.state, "dim")),
        str(stage.attempt or ""),
        "" if stage.seconds is None else duration(stage.seconds),
        "yes" if stage.cached else "",
        reason,
    )


def _table(head: tuple[str, ...], rows: Iterable[tuple[str | Text, ...]]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for title in head:
        table.add_column(title, overflow="fold")
    for row in rows:
        table.add_row(*(cell if isinstance(cell, Text) else Text(printable(cell)) for cell in row))
    return table
