"""What is measured: the kind of object that somebody creates, and the programs that turn it into Jobs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from daemons import Daemon, Daemons

from support.cluster import ApiServer

NAMESPACE = "bench"
JOBS = f"/apis/batch/v1/namespaces/{NAMESPACE}/jobs"

Object = dict[str, Any]


@dataclass
class Processes:
    """The programs of an operator, as processes of this machine.

    Attributes:
        daemons: that they run in.
        shipped: with the settings that they are shipped with.
        unelected: the same without leader election, if that can be left out.
    """

    daemons: Daemons
    shipped: Sequence[Daemon]
    unelected: Sequence[Daemon] = ()

    def start(self, programs: Sequence[Daemon]) -> None:
        """Start the programs; they take a moment until they work."""
        for program in programs:
            self.daemons.start(program)

    def kill(self) -> None:
        """End them as a crash does."""
        self.daemons.kill()

    def cpu(self) -> float:
        """Return the CPU seconds that those that run have used."""
        return cpu(self.daemons)

    def memory(self) -> float:
        """Return their resident MB."""
        return sum(psutil.Process(one.pid).memory_info().rss for one in self.daemons.running.values()) / 1e6


def cpu(daemons: Daemons) -> float:
    """Return the CPU seconds that programs have used since they were started."""
    used = (psutil.Process(process.pid).cpu_times() for process in daemons.running.values())
    return float(sum(times.user + times.system for times in used))


@dataclass(frozen=True)
class System:
    """One that makes Jobs of objects.

    Attributes:
        name: for people.
        collection: path of its objects in the API.
        label: of a Job: the name of the object that it is for.
        make: returns an object of that name.
        tells: whether an object's status says that its Pod runs.
        install: brings what it needs into a new cluster, and starts its programs.
    """

    name: str
    collection: str
    label: str
    make: Callable[[str], Object]
    tells: Callable[[Object], bool]
    install: Callable[[ApiServer, Path], Processes]
