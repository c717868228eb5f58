"""Programs that run until the end of a cluster: started in order, each with a log, and waited for."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "toolchain"))

from tied import tied

_PAUSE_SECONDS = 0.05
_TAIL_LINES = 10


@dataclass(frozen=True)
class Daemon:
    """A program to be started.

    Attributes:
        name: for people, and of its log.
        argv: the command line.
        descriptors: open files that it inherits.
    """

    name: str
    argv: tuple[str, ...]
    descriptors: tuple[int, ...] = ()


class DaemonError(Exception):
    """A program ended, or what it should have done did not come; the message ends with its last lines."""


@dataclass
class Daemons:
    """The programs of one cluster. They end with the process that starts them."""

    logs: Path
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    known: dict[str, Daemon] = field(default_factory=dict)

    def start(self, daemon: Daemon) -> None:
        """Start a program, its output appended to its log."""
        self.known[daemon.name] = daemon
        with self.log_of(daemon.name).open("ab") as log:
            self.running[daemon.name] = subprocess.Popen(
                tied(daemon.argv),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                pass_fds=daemon.descriptors,
                start_new_session=True,  # an interrupt of the terminal is for the one who started them
            )

    def named(self, pid: int) -> Daemon | None:
        """Return the program that runs, or ran, as this process."""
        return next((self.known[name] for name, process in self.running.items() if process.pid == pid), None)

    def log_of(self, name: str) -> Path:
        """Return the path of a program's log."""
        return self.logs / f"{name}.log"

    def wait_for(self, what: str, name: str, seconds: float, done: Callable[[], bool]) -> None:
        """Wait until `done`, which the program `name` brings about.

        Raises:
            DaemonError: a program ended meanwhile, or the time is over.
        """
        last = time.monotonic() + seconds
        while not done():
            for ended in [other for other, process in self.running.items() if process.poll() is not None]:
                raise DaemonError(f"{ended} ended while waiting for {what}.\n{self._tail(ended)}")
            if time.monotonic() > last:
                raise DaemonError(f"no {what} in {seconds:.0f} s.\n{self._tail(name)}")
            time.sleep(_PAUSE_SECONDS)

    def kill(self, *names: str) -> None:
        """End these programs (all, without names) at once, the last started first."""
        ended = [self.running.pop(name) for name in reversed(names or tuple(self.running)) if name in self.running]
        for process in ended:
            process.kill()
        for process in ended:
            process.wait()

    def _tail(self, name: str) -> str:
        lines = self.log_of(name).read_text(encoding="utf-8", errors="replace").splitlines()
        return "\n".join([f"The end of {self.log_of(name)}:", *lines[-_TAIL_LINES:]])
