"""Shows a run on the terminal: one line per stage, live while it runs, and plain lines where there is no terminal."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from tunesmith.core.model import PlannedStage
from tunesmith_stages.contract import StageName, StageResult

_METRICS = {
    "loss": "loss",
    "evalLoss": "eval loss",
    "gradNorm": "grad norm",
    "learningRate": "lr",
    "tokensPerSecond": "tok/s",
    "peakGpuMemory": "on the GPU",
    "etaSeconds": "ETA",
}


class LiveView:
    """A :class:`tunesmith.local.run.Watcher` for people."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._progress = Progress(
            SpinnerColumn(finished_text="[green]✓"),
            TextColumn("{task.fields[stage]:<9}"),
            BarColumn(bar_width=24),
            TimeElapsedColumn(),
            TextColumn("{task.description}"),
            console=console,
            disable=not console.is_terminal,
        )
        self._tasks: dict[StageName, TaskID] = {}
        self._metrics: dict[StageName, str] = {}

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def begins(self, stage: PlannedStage) -> None:
        """Show that a stage runs now."""
        what = ", ".join(unit.name for unit in stage.missing if unit.name != stage.name)
        self._tasks[stage.name] = self._progress.add_task(escape(what), stage=stage.name, total=None)
        self._plain(f"{stage.name:<9} runs {what}".rstrip())

    def event(self, stage: StageName, event: Mapping[str, Any]) -> None:
        """Show a progress event."""
        task = self._tasks[stage]
        note = str(event.get("note", ""))
        if "done" not in event:
            self._progress.update(task, description=escape(note))
            self._plain(f"{stage:<9} {note}")
            return
        said = f"{note}  " if note else ""
        if "metrics" in event:
            self._metrics[stage] = metrics_in_words(event["metrics"])
            self._plain(f"{stage:<9} {said}{event['done']}/{event['total']} {event['of']}  {self._metrics[stage]}")
        words = f"{said}{event['done']:,}/{event['total']:,} {event['of']}  {self._metrics.get(stage, '')}"
        self._progress.update(task, completed=event["done"], total=event["total"], description=escape(words))

    def done(self, stage: PlannedStage, results: list[StageResult], *, cached: bool) -> None:
        """Show that a stage has its results."""
        task = self._tasks.get(stage.name)
        if task is None:
            task = self._progress.add_task("", stage=stage.name, total=1)
        seconds = sum(result.numbers.get("seconds", 0.0) for result in results)
        before = "not needed" if stage.name is StageName.REHEARSE else "cached"
        words = f"[dim]{before}[/]" if cached else escape(summary(stage.name, results))
        self._progress.update(task, completed=1, total=1, description=words)
        self._progress.stop_task(task)
        self._plain(
            f"{stage.name:<9} {before if cached else f'done in {seconds:.1f} s'}  {summary(stage.name, results)}"
        )

    def note(self, text: str) -> None:
        """Show a sentence above the stages."""
        self._console.print(escape(text), soft_wrap=True)

    def _plain(self, line: str) -> None:
        if not self._console.is_terminal:
            self._console.print(escape(line.rstrip()), soft_wrap=True, highlight=False)


def metrics_in_words(metrics: Mapping[str, float]) -> str:
    """Return the figures of a training step that fit on a line."""
    parts = []
    for name, word in _METRICS.items():
        value = metrics.get(name)
        if value is None:
            continue
        if name == "etaSeconds":
            parts.append(f"{word} {int(value) // 60}:{int(value) % 60:02d}")
        elif name == "tokensPerSecond":
            parts.append(f"{value:,.0f} {word}")
        elif name == "peakGpuMemory":
            now = f"{metrics['gpuMemory'] / 1e9:.1f} GB, at most " if "gpuMemory" in metrics else ""
            parts.append(f"{now}{value / 1e9:.1f} GB {word}")
        else:
            parts.append(f"{word} {value:.4g}")
    return "  ".join(parts)


def summary(stage: StageName, results: list[StageResult]) -> str:
    """Return what a stage came to, in a few words."""
    if not results:
        return ""
    numbers = results[0].numbers
    if stage is StageName.FETCH:
        return f"{len(results)} sources, {sum(result.bytes for result in results) / 1e6:,.1f} MB"
    if stage is StageName.PREPARE:
        return f"{numbers['rows']:,.0f} rows, {numbers['tokens']:,.0f} tokens"
    if stage is StageName.TRAIN:
        return metrics_in_words(numbers)
    if stage in {StageName.CONVERT, StageName.QUANTIZE}:
        return ", ".join(f"{result.unit} {result.bytes / 1e6:,.1f} MB" for result in results)
    if stage is StageName.REGISTER:
        return ", ".join(results[0].outputs["models"])
    return ""
