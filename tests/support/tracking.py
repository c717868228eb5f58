"""Builds what the tracking process is asked for, and follows a record that a test writes."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tunesmith_stages.track.asked import Asked, Ended, TrackerType
from tunesmith_stages.train.tracking import Tracking

TOKEN = "secret-0123456789-0123456789-0123456789-0123456789"  # noqa: S105 - made up
PATIENCE = 90.0
"""Seconds after which what takes a second counts as stuck, on a busy machine too."""


def asked(folder: Path, type_: TrackerType, url: str = "", **changes: Any) -> Asked:
    """Return what is asked for a training in `folder`."""
    return Asked(
        **{
            "parent": os.getpid(),
            "type": type_,
            "url": url,
            "project": "team/bots",
            "name": "support-bot",
            "params": {"learningRate": "0.0001", "lora.rank": "16"},
            "tags": {"key": "0123", "model": "huggingFace acme/base main", "data": "faq, chats"},
            "metrics": folder / "metrics.jsonl",
            "folder": folder / "tracking",
            "log": folder / "tracking.log",
            **changes,
        }
    )


def write_steps(file: Path, first: int, last: int, mode: str = "a") -> None:
    """Write lines as a training does, with an evaluation after every fifth step."""
    with file.open(mode, encoding="utf-8") as lines:
        for step in range(first, last + 1):
            lines.write(json.dumps({"step": step, "epoch": step / 10, "loss": 1 / step, "learningRate": 1e-4}) + "\n")
            if step % 5 == 0:
                lines.write(json.dumps({"step": step, "epoch": step / 10, "evalLoss": 2 / step}) + "\n")


@dataclass
class Followed:
    """A record that the real process follows."""

    asked: Asked
    tracking: Tracking
    notes: list[str] = field(default_factory=list)

    def steps(self, first: int, last: int) -> None:
        """Let the training do these steps."""
        write_steps(self.asked.metrics, first, last)

    def wait_for(self, condition: Any) -> None:
        """Wait until `condition()`, hearing what the process has to say meanwhile."""
        end = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < end, f"it takes too long; notes: {self.notes}"
            self.tracking.hear()
            time.sleep(0.02)

    def wait_for_note(self, part: str) -> None:
        """Wait until the process has said something with `part` in it."""
        self.wait_for(lambda: any(part in note for note in self.notes))


@contextmanager
def followed(asked: Asked, ended: Ended = Ended.WELL, seconds: float = PATIENCE) -> Iterator[Followed]:
    """Follow a record with the real process while the block runs; then the training has ended."""
    asked.metrics.touch()
    notes: list[str] = []
    tracking = Tracking(notes.append)
    tracking.begin(asked)
    try:
        yield Followed(asked, tracking, notes)
    except BaseException:
        seconds = 0.0
        raise
    finally:
        tracking.end(ended, seconds)


def tokens_below(folder: Path, token: str = TOKEN) -> list[Path]:
    """Return the files that hold a token."""
    return [path for path in folder.rglob("*") if path.is_file() and token.encode() in path.read_bytes()]


def numbers(events: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row of W&B's history without what W&B adds."""
    return {name: value for name, value in events.items() if not name.startswith("_")}
