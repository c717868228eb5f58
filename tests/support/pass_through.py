"""A file system that shows a folder as it is, and does to it what failing disks do (FUSE).

    python pass_through.py SOURCE MOUNTPOINT ORDERS

It runs until it is unmounted, with the interpreter of ``hack/toolchain/fuse.py``. ORDERS is a JSON file that may be
replaced at any time: ``{"fault": "", "after": 0, "seconds": 0.0}``. ``fault`` is one of :data:`FAULTS` or empty,
``after`` how many operations of that kind still go well, ``seconds`` how long each one takes.
"""

# The signatures are those of FUSE, and its paths are texts.
# ruff: noqa: ARG002, PTH101, PTH102, PTH104, PTH106, PTH108, PTH115, PTH208, PTH211

from __future__ import annotations

import errno
import json
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mfusepy  # type: ignore[import-not-found] # of an environment of its own

READ_ONLY, FULL, WRITE_ERRORS, READ_ERRORS = "read-only", "full", "write errors", "read errors"
FAULTS = {READ_ONLY: errno.EROFS, FULL: errno.ENOSPC, WRITE_ERRORS: errno.EIO, READ_ERRORS: errno.EIO}
"""What can be wrong, and the error that programs see."""

_CHANGES, _GROWS, _WRITES, _READS = "changes", "grows", "writes", "reads"
_STRUCK = {
    READ_ONLY: {_CHANGES, _GROWS, _WRITES},  # as after `mount -o remount,ro`, which disks that fail end in
    FULL: {_GROWS, _WRITES},  # what is there can be removed and renamed
    WRITE_ERRORS: {_WRITES},
    READ_ERRORS: {_READS},
}


class Orders:
    """What is to go wrong now."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._seen: tuple[int, int] = (0, 0)
        self._given: dict[str, Any] = {"fault": "", "after": 0, "seconds": 0.0}

    def heed(self, kind: str) -> None:
        """Take as long as was ordered, and fail if this operation is to fail."""
        with self._lock:
            found = self.path.stat()
            if (found.st_ino, found.st_mtime_ns) != self._seen:
                self._seen = (found.st_ino, found.st_mtime_ns)
                self._given = json.loads(self.path.read_text(encoding="utf-8"))
            fault, seconds = self._given["fault"], self._given["seconds"]
            strikes = kind in _STRUCK.get(fault, ())
            if strikes and self._given["after"] > 0:
                self._given["after"] -= 1
                strikes = False
        if seconds:
            time.sleep(seconds)
        if strikes:
            raise OSError(FAULTS[fault], os.strerror(FAULTS[fault]))

    @property
    def fault(self) -> str:
        """What is wrong."""
        return str(self._given["fault"])


class PassThrough(mfusepy.Operations):  # type: ignore[misc]
    """Every request goes to the same place below `source`, as the user who asks."""

    use_ns = True

    def __init__(self, source: str, orders: Orders) -> None:
        self.source = source
        self.orders = orders

    def init(self, path: str) -> None:
        print("mounted", flush=True)

    def _at(self, path: str) -> str:
        return self.source + path

    def _made(self, path: str, make: Callable[[str], Any]) -> Any:
        """Make something new, and give it to the user who asked."""
        self.orders.heed(_GROWS)
        made = make(self._at(path))
        user, group, _ = mfusepy.fuse_get_context()
        os.chown(self._at(path), user, group, follow_symlinks=False)
        return made

    # --- looking ---

    def getattr(self, path: str, fh: int | None = None) -> dict[str, Any]:
        found = os.fstat(fh) if fh is not None else os.lstat(self._at(path))
        names = ("st_mode", "st_nlink", "st_size", "st_uid", "st_gid", "st_ino", "st_blocks")
        times = {f"st_{kind}time": getattr(found, f"st_{kind}time_ns") for kind in "amc"}
        return {**{name: getattr(found, name) for name in names}, **times}

    def readdir(self, path: str, fh: int) -> list[str]:
        return [".", "..", *os.listdir(self._at(path))]

    def readlink(self, path: str) -> str:
        return os.readlink(self._at(path))

    def statfs(self, path: str) -> dict[str, int]:
        found = os.statvfs(self._at(path))
        names = (
            "f_bsize",
            "f_frsize",
            "f_blocks",
            "f_bfree",
            "f_bavail",
            "f_files",
            "f_ffree",
            "f_favail",
            "f_namemax",
        )
        told = {name: getattr(found, name) for name in names}
        return told | ({"f_bfree": 0, "f_bavail": 0} if self.orders.fault == FULL else {})

    # --- files ---

    def open(self, path: str, flags: int) -> int:
        if flags & (os.O_WRONLY | os.O_RDWR):
            self.orders.heed(_CHANGES)
        return os.open(self._at(path), flags & ~os.O_APPEND)  # the kernel says where; pwrite would append anyway

    def create(self, path: str, mode: int, fi: Any = None) -> int:
        return int(self._made(path, lambda at: os.open(at, os.O_RDWR | os.O_CREAT | os.O_TRUNC, mode)))

    def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
        self.orders.heed(_READS)
        return os.pread(fh, size, offset)

    def write(self, path: str, data: bytes, offset: int, fh: int) -> int:
        self.orders.heed(_WRITES)
        return os.pwrite(fh, data, offset)

    def fsync(self, path: str, datasync: int, fh: int) -> int:
        self.orders.heed(_WRITES)
        return 0  # no test outlives a power cut

    def fsyncdir(self, path: str, datasync: int, fh: int) -> int:
        return 0

    def flush(self, path: str, fh: int) -> int:
        return 0

    def release(self, path: str, fh: int) -> int:
        os.close(fh)
        return 0

    def truncate(self, path: str, length: int, fh: int | None = None) -> int:
        self.orders.heed(_CHANGES)
        os.truncate(self._at(path) if fh is None else fh, length)
        return 0

    # --- names ---

    def mkdir(self, path: str, mode: int) -> int:
        self._made(path, lambda at: os.mkdir(at, mode))
        return 0

    def symlink(self, target: str, source: str) -> int:
        self._made(target, lambda at: os.symlink(source, at))
        return 0

    def link(self, target: str, source: str) -> int:
        self._made(target, lambda at: os.link(self._at(source), at))
        return 0

    def rename(self, old: str, new: str) -> int:
        self.orders.heed(_CHANGES)
        os.rename(self._at(old), self._at(new))
        return 0

    def unlink(self, path: str) -> int:
        self.orders.heed(_CHANGES)
        os.unlink(self._at(path))
        return 0

    def rmdir(self, path: str) -> int:
        self.orders.heed(_CHANGES)
        os.rmdir(self._at(path))
        return 0

    def chmod(self, path: str, mode: int) -> int:
        self.orders.heed(_CHANGES)
        os.chmod(self._at(path), mode)
        return 0

    def chown(self, path: str, uid: int, gid: int) -> int:
        self.orders.heed(_CHANGES)
        os.chown(self._at(path), uid, gid, follow_symlinks=False)
        return 0

    def utimens(self, path: str, times: tuple[int, int]) -> int:
        self.orders.heed(_CHANGES)
        os.utime(self._at(path), ns=times, follow_symlinks=False)
        return 0


def main() -> None:
    """Show the folder until it is unmounted."""
    source, mountpoint, orders = sys.argv[1:]
    os.umask(0)  # the kernel has applied that of the user
    settings = {"foreground": True, "allow_other": True, "default_permissions": True, "fsname": "tunesmith-faulty"}
    mfusepy.FUSE(PassThrough(source, Orders(Path(orders))), mountpoint, **settings)


if __name__ == "__main__":
    main()
