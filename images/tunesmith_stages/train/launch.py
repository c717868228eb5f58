"""Starts a node's ranks with torchrun: ``python -m tunesmith_stages.train.launch <Launch as JSON>``.

It is torchrun itself, run in a process of ours for two reasons: it ends with the stage program, however that ends,
and it writes down the ranks' exit codes, which torchrun turns into 1. Its own exit code is a failed rank's.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tunesmith_stages.train.exchange import Exchange
from tunesmith_stages.train.lifeline import die_with

LAUNCHER_VARIABLE = "TUNESMITH_LAUNCHER_PID"

_SOON_SECONDS = 5
"""Within this time a rank counts as one of the first that failed; torchrun's clock has whole seconds here."""


@dataclass(frozen=True)
class Meeting:
    """Where and as what the launcher of one of several nodes meets the others'."""

    node: int
    nodes: int
    master: str
    """Address of node 0."""
    port: int
    """Port on which torchrun on node 0 will listen."""
    own_address: str
    """The address by which this node reaches the others, and they it."""


@dataclass(frozen=True)
class Launch:
    """What the launcher is told."""

    parent: int
    """Process number of the stage program, which started the launcher."""
    folder: Path
    """The attempt's folder."""
    ranks: int
    """Ranks to start on this node."""
    meeting: Meeting | None
    """None: this node trains alone."""

    @property
    def node(self) -> int:
        """This node's number."""
        return self.meeting.node if self.meeting else 0

    def to_json(self) -> str:
        """Return it as one argument."""
        return json.dumps({**dataclasses.asdict(self), "folder": str(self.folder)})

    @classmethod
    def from_json(cls, text: str) -> Launch:
        """Read what :meth:`to_json` made."""
        data = json.loads(text)
        meeting = data["meeting"] and Meeting(**data["meeting"])
        return cls(data["parent"], Path(data["folder"]), data["ranks"], meeting)


def torchrun_arguments(launch: Launch) -> list[str]:
    """Return torchrun's arguments: no restarts, for a training begins anew as a whole.

    A node alone meets nobody but itself, on the loopback interface. Several use torchrun's static rendezvous: every
    node's number is given, so rank 0 is where the result is published. It takes nobody back who was lost, nor need it.
    """
    meeting = launch.meeting
    if meeting is None:
        rendezvous = ["--standalone", "--local-addr=127.0.0.1", "--nnodes=1"]
    else:
        rendezvous = [
            "--rdzv-backend=static",
            f"--nnodes={meeting.nodes}",
            f"--node-rank={meeting.node}",
            f"--master-addr={meeting.master}",
            f"--master-port={meeting.port}",
        ]
    return [
        *rendezvous,
        f"--nproc-per-node={launch.ranks}",
        "--max-restarts=0",
        "--module",
        "tunesmith_stages.train.worker",
        str(launch.folder),
    ]


def main() -> int:
    """Run torchrun to its end; return the exit code."""
    launch = Launch.from_json(sys.argv[1])
    die_with(launch.parent)
    os.environ[LAUNCHER_VARIABLE] = str(os.getpid())

    from torch.distributed import run as torchrun
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    try:
        torchrun.run(torchrun.parse_args(torchrun_arguments(launch)))
    except ChildFailedError as error:
        # Those of ranks that torchrun ended then are among them. One that hangs it kills (SIGKILL) half a minute later.
        first = min(failure.timestamp for failure in error.failures.values())
        soon = {rank: failure for rank, failure in error.failures.items() if failure.timestamp <= first + _SOON_SECONDS}
        codes: dict[int, int] = {rank: failure.exitcode for rank, failure in soon.items()}
        with suppress(OSError):
            Exchange(launch.folder).leave_codes(launch.node, codes)
            print(error, file=sys.stderr)
        return max(1, *codes.values())
    return 0


if __name__ == "__main__":
    sys.exit(main())
