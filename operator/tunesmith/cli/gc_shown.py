"""What `tunesmith gc` found and did: as tables for people, as JSON for programs."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tunesmith.core.retention import Verdict
from tunesmith.core.times import to_text
from tunesmith.housekeeping.sweep import Removal
from tunesmith_stages.byte_size import size
from tunesmith_stages.volume import Volume


@dataclass
class Outcome:
    """What a clean-up found and did."""

    deletes: bool
    verdicts: Sequence[Verdict] = ()
    removals: list[Removal] = field(default_factory=list)
    is_whole: bool = False
    """It came to its end."""

    @property
    def useless(self) -> list[Verdict]:
        """What is to go."""
        return [verdict for verdict in self.verdicts if not verdict.keeps]

    @property
    def freed(self) -> int:
        """Bytes that were freed."""
        return sum(removal.entry.bytes for removal in self.removals if removal.removed)

    @property
    def failed(self) -> list[Removal]:
        """What could not be removed."""
        return [one for one in self.removals if not one.removed and one.is_failure]

    def as_json(self, volume: Volume) -> dict[str, Any]:
        """Return everything, for programs."""
        became = {removal.entry.path: removal for removal in self.removals}
        return {
            "volume": str(volume.root),
            **self.as_summary(),
            "things": [
                {
                    "path": verdict.entry.path,
                    "kind": verdict.entry.kind,
                    "bytes": verdict.entry.bytes,
                    "lastUsed": to_text(datetime.fromtimestamp(verdict.entry.used, UTC)),
                    "keeps": verdict.keeps,
                    "why": verdict.why,
                    "removed": verdict.entry.path in became and became[verdict.entry.path].removed,
                }
                for verdict in self.verdicts
            ],
        }

    def as_summary(self) -> dict[str, Any]:
        """Return the figures: small enough for a container's termination message."""
        return {
            "dryRun": not self.deletes,
            "complete": self.is_whole,
            "uselessBytes": sum(verdict.entry.bytes for verdict in self.useless),
            "freedBytes": self.freed,
            "keptBytes": sum(verdict.entry.bytes for verdict in self.verdicts if verdict.keeps),
            "removed": sum(removal.removed for removal in self.removals),
            "failed": len(self.failed),
        }


def show_plan(console: Console, outcome: Outcome, grace: str) -> None:
    """Show each thing that is to go, and of what stays how much it is for whom."""
    if outcome.useless:
        table = Table("size", "what", "where", "why", box=None, pad_edge=False)
        table.columns[0].justify = "right"
        for verdict in sorted(outcome.useless, key=lambda one: -one.entry.bytes):
            entry = verdict.entry
            table.add_row(size(entry.bytes), entry.kind, escape(_short(entry.path)), escape(verdict.why))
        console.print(f"To go, as nobody needs it and nothing of it was used for {grace}:")
        console.print(table)
    kept: Mapping[str, list[int]] = defaultdict(list)
    for verdict in outcome.verdicts:
        if verdict.keeps:
            kept[verdict.why].append(verdict.entry.bytes)
    if kept:
        table = Table("size", "things", "for", box=None, pad_edge=False)
        table.columns[0].justify = table.columns[1].justify = "right"
        for why, sizes in sorted(kept.items(), key=lambda item: -sum(item[1])):
            table.add_row(size(sum(sizes)), str(len(sizes)), escape(why))
        console.print("Stays:")
        console.print(table)


def show_removal(console: Console, removal: Removal) -> None:
    """Show what became of one thing."""
    where = escape(_short(removal.entry.path))
    if removal.removed:
        said = f"removed {where} ({size(removal.entry.bytes)})"
    else:
        said = f"left    {where}: {escape(removal.why_not)}"
    console.print(said, soft_wrap=True, highlight=False)


def show_summary(console: Console, outcome: Outcome) -> None:
    """Show what it came to."""
    count, useless = len(outcome.useless), sum(verdict.entry.bytes for verdict in outcome.useless)
    if not outcome.deletes:
        told = f"{size(useless)} in {_things(count)} could be freed. Nothing was changed: --delete removes them."
        console.print(told if count else "There is nothing to remove.", soft_wrap=True, highlight=False)
        return
    left = f"; {len(outcome.failed)} could not be removed" if outcome.failed else ""
    done = sum(removal.removed for removal in outcome.removals)
    console.print(f"{size(outcome.freed)} freed: {_things(done)} removed{left}.", soft_wrap=True, highlight=False)


def _things(count: int) -> str:
    return f"{count} thing" + ("" if count == 1 else "s")


def _short(path: str) -> str:
    """Return a path with its keys cut to twelve digits, as everywhere else."""
    return re.sub(r"[0-9a-f]{64}", lambda found: found[0][:12], path)
