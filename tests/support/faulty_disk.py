"""A folder on a disk that can be told to fail: full, read-only, with I/O errors, slow.

It is FUSE's view of another folder (``pass_through.py``), so nothing of the machine is at risk and programs see the
kernel's own errors.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[2] / "hack" / "toolchain"))  # scripts, not a package that is installed

import fuse
from tied import tied

READ_ONLY, FULL, WRITE_ERRORS, READ_ERRORS = "read-only", "full", "write errors", "read errors"
"""As ``pass_through.FAULTS`` has them."""
_PROGRAM = Path(__file__).with_name("pass_through.py")


@dataclass(frozen=True)
class FaultyDisk:
    """A disk that is mounted."""

    folder: Path
    """Where programs see it."""
    behind: Path
    """The same files as they really are, whatever is wrong with the disk."""
    orders: Path

    def fails(self, fault: str, *, after: int = 0) -> None:
        """Let a fault strike, once `after` more operations of its kind have gone well."""
        self._order(fault=fault, after=after)

    def is_slow(self, seconds: float) -> None:
        """Let every operation take so long."""
        self._order(seconds=seconds)

    def is_well(self) -> None:
        """End whatever was wrong."""
        self._order()

    def _order(self, *, fault: str = "", after: int = 0, seconds: float = 0.0) -> None:
        new = self.orders.with_suffix(".new")
        new.write_text(json.dumps({"fault": fault, "after": after, "seconds": seconds}), encoding="utf-8")
        new.replace(self.orders)


@contextmanager
def faulty_disk(folder: Path, *, inside: Sequence[str] = ()) -> Iterator[FaultyDisk]:
    """Mount a disk that is well at first, until the block ends.

    Args:
        folder: new; takes the mount and what belongs to it.
        inside: a command line that ends by running its last arguments, in the mount namespace that shall see the disk.
    """
    if os.geteuid() != 0 or not Path("/dev/fuse").exists():
        pytest.fail("this test mounts a file system of its own with FUSE: it needs root and /dev/fuse")
    disk = FaultyDisk(folder / "disk", folder / "behind", folder / "orders.json")
    for place in (disk.folder, disk.behind):
        place.mkdir(parents=True)
    disk.is_well()
    command: list[str | Path] = [*inside, fuse.ensure(), _PROGRAM, disk.behind, disk.folder, disk.orders]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(tied(command), stdout=subprocess.PIPE, stderr=log, start_new_session=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"mounted\n", (folder / "log").read_text()
        yield disk
    finally:
        subprocess.run([*inside, "umount", "--lazy", disk.folder], check=False)
        process.kill()
        process.wait()
