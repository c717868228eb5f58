"""The run as an event file on the volume, which TensorBoard reads: ``tensorboard --logdir VOLUME/runs``."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from pathlib import Path

from tunesmith_stages.track import event_file
from tunesmith_stages.track.asked import Asked, Ended, Event, TrackerDownError
from tunesmith_stages.track.run_record import RunRecord


class TensorBoardRun:
    """A training's event file. One that goes on is written on at its end, behind its last whole record."""

    def __init__(self, asked: Asked) -> None:
        self._asked = asked
        self._record = RunRecord.of(asked)
        self._last: dict[str, int] = {}

    @property
    def file(self) -> Path:
        """The event file: TensorBoard takes what has ``tfevents`` in its name."""
        return self._asked.folder / f"events.out.tfevents.{self._record.id}"

    def open(self) -> str:
        """Find the end of the file, or begin one; see :class:`.asked.Tracker`."""
        try:
            if not self._record.id:
                self._record = self._record.begun()
            self._last = {}
            if self.file.exists():
                self._find_end()
        except OSError as error:
            raise _unwritable(error) from error
        return f"TensorBoard: tensorboard --logdir {self._asked.folder}"

    def _find_end(self) -> None:
        """Note which step each number has come to, and cut off a record that is not whole."""
        size = 0
        for message in event_file.messages(self.file):
            size += len(event_file.record(message))
            step, names = event_file.step_and_names(message)
            self._last |= dict.fromkeys(names, step)
        os.truncate(self.file, size)

    def send(self, events: Sequence[Event]) -> None:
        """Write what is new; see :class:`.asked.Tracker`."""
        made = []
        for event in events:
            new = {name: value for name, value in event.metrics.items() if event.step > self._last.get(name, -1)}
            self._last |= dict.fromkeys(new, event.step)
            if new:
                made.append(event_file.scalars(event.time, event.step, new))
        try:
            with self.file.open("ab") as file:
                if not file.tell():
                    made = [*self._head(events[0].time), *made]
                file.write(b"".join(map(event_file.record, made)))
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise _unwritable(error) from error

    def _head(self, time: float) -> list[bytes]:
        told = {"job": self._asked.name, **self._asked.tags, **self._asked.params}
        rows = "\n".join(f"| {name} | {value.replace('|', chr(92) + '|')} |" for name, value in told.items())
        return [event_file.version(time), event_file.text(time, "training", f"| | |\n|---|---|\n{rows}")]

    def close(self, ended: Ended) -> str:
        """See :class:`.asked.Tracker`."""
        self._record.close(ended)
        return ""


def _unwritable(error: OSError) -> TrackerDownError:
    why = "the volume is full" if error.errno in {errno.ENOSPC, errno.EDQUOT} else str(error)
    return TrackerDownError(f"TensorBoard's file cannot be written: {why}")
