"""Starts the ranks with torchrun: ``python -m tunesmith_stages.train.launch <parent pid> <attempt folder> <ranks>``.

It is torchrun itself, run in a process of ours for two reasons: it ends with the stage program, however that ends,
and it writes down the ranks' exit codes, which torchrun turns into 1. Its own exit code is a failed rank's.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path

from tunesmith_stages.train.exchange import Exchange
from tunesmith_stages.train.lifeline import die_with

LAUNCHER_VARIABLE = "TUNESMITH_LAUNCHER_PID"


def torchrun_arguments(ranks: int, folder: Path) -> list[str]:
    """Return torchrun's arguments: one node, a rendezvous on the loopback interface, no restarts."""
    return [
        "--standalone",
        "--local-addr=127.0.0.1",
        "--nnodes=1",
        f"--nproc-per-node={ranks}",
        "--max-restarts=0",
        "--module",
        "tunesmith_stages.train.worker",
        str(folder),
    ]


def main() -> int:
    """Run torchrun to its end; return the exit code."""
    parent, folder, ranks = int(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    die_with(parent)
    os.environ[LAUNCHER_VARIABLE] = str(os.getpid())

    from torch.distributed import run as torchrun
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    try:
        torchrun.run(torchrun.parse_args(torchrun_arguments(ranks, folder)))
    except ChildFailedError as error:
        codes: dict[int, int] = {rank: failure.exitcode for rank, failure in error.failures.items()}
        with suppress(OSError):
            Exchange(folder).leave_codes(codes)
            print(error, file=sys.stderr)
        return max(1, *codes.values())
    return 0


if __name__ == "__main__":
    sys.exit(main())
