"""Measures the operator beside Kubeflow Trainer with JobSet: how fast objects get their Jobs, and what that costs.

    make bench BENCH=control_plane

On one machine, in one run, with the same client: FineTuneJobs with our operator, TrainJobs with Trainer and JobSet,
and as the floor plain Jobs, which need no operator. Each is created at ten a second and as a burst over 16 connections,
each time on a cluster of its own that is new and set up in the same way: API server, etcd, controllers and scheduler
on loopback, and nodes that kwok plays, on which Pods run at once and never end. Times are those of one clock: when the
client sent the POST, when it had the answer, when a watch of its own told of the first Job. After a burst the statuses
are waited for, then the operator's memory is read and its CPU when nothing happens, then it is killed and started
again, three times.

Settings: ours are those of the chart (8 workers, with a Lease), Trainer's and JobSet's those of their manifests; see
``benchmarks/operators``. All programs have the API server's administrator as their account, so nobody is slowed down by
its rules of priority. CPU and memory of Trainer and JobSet are added up. Their restart is measured twice: as shipped,
when the new processes wait for the leases of the killed ones, and without leader election.

The table says for each figure how many times the peer's value is ours, and how it grows with the number of objects: 1
is linear. With `--results FILE` what is measured is kept there and not measured again, so that a long run can be made
in parts.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)  # instead of this folder: hack/testcluster has a module of this one's name
sys.path.append(str(ROOT / "tests"))
import support.cluster  # noqa: E402, F401 - puts hack/testcluster on the path

# isort: split
from benchmarks.operators.figures import BURST, Measured, ahead, behind, table  # noqa: E402
from benchmarks.operators.measuring import Run, Spread, measure  # noqa: E402
from benchmarks.operators.ours import FLOOR, TUNESMITH  # noqa: E402
from benchmarks.operators.peer_trainer import kubeflow_trainer  # noqa: E402
from benchmarks.operators.system import System  # noqa: E402


def main() -> None:
    """Run the benchmark and print its figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--objects", type=int, nargs="+", default=[1000, 5000], metavar="N", help="how many (default: 1000 5000)"
    )
    parser.add_argument("--results", type=Path, metavar="FILE", help="where measurements are kept, and taken from")
    arguments = parser.parse_args()
    results, peer = Results(arguments.results), kubeflow_trainer()
    counts = sorted(set(arguments.objects))
    found = {system.name: {count: results.of(system, count) for count in counts} for system in (FLOOR, TUNESMITH, peer)}
    ours, theirs = found[TUNESMITH.name], found[peer.name]
    print_loads(found.values())
    print_floor(found[FLOOR.name])
    print("\n".join(table(TUNESMITH.name, ours, theirs)))
    for count in counts:
        least, figure = behind(ours[count], theirs[count])
        print(f"{count:,}: least ahead in `{figure.name}`: {least:.2f} times")
    most = counts[-1]
    times = ahead(ours[most], theirs[most], BURST)
    print(f"ratio {times:.2f}: a burst of {most:,} took {peer.name} so many times as long as us (goal: above 1)")


class Results:
    """What was measured, kept in a file if there is one."""

    def __init__(self, file: Path | None) -> None:
        self._file = file
        there = file is not None and file.exists()
        self._known: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file and there else {}

    def of(self, system: System, count: int) -> Measured:
        """Return the measurements of a system, made now if need be."""
        return Measured(count, self._run(system, count, burst=False), self._run(system, count, burst=True))

    def _run(self, system: System, count: int, *, burst: bool) -> Run:
        key = f"{system.name}, {count} {'in a burst' if burst else 'at a pace'}"
        if key not in self._known:
            print(key, file=sys.stderr, flush=True)
            self._known[key] = asdict(measure(system, count, burst=burst))
            if self._file:
                self._file.write_text(json.dumps(self._known, indent=1), encoding="utf-8")
        kept = self._known[key]
        return Run(**{**kept, "sent": Spread(**kept["sent"]), "answered": Spread(**kept["answered"])})


def print_loads(systems: Iterable[dict[int, Measured]]) -> None:
    """Print how busy the machine was before each measurement, what the ones before it left included."""
    loads = [run.load for found in systems for one in found.values() for run in (one.paced, one.burst)]
    print(f"load average before a measurement: {min(loads):.1f} to {max(loads):.1f}")


def print_floor(found: dict[int, Measured]) -> None:
    """Print what plain Jobs took."""
    for count, floor in found.items():
        cluster = 1000 * floor.burst.cluster_cpu / count
        print(
            f"{count:,} plain Jobs: at a pace p50 {floor.paced.sent.p50:.3f} s, p99 {floor.paced.sent.p99:.3f} s; "
            f"burst {floor.burst.seconds:.1f} s, CPU of the cluster {cluster:.1f} ms each"
        )


if __name__ == "__main__":
    main()
