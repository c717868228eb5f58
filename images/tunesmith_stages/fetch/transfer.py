"""Brings one file of a hub: goes on where an earlier try ended, waits for a hub that falters, and checks every byte.

huggingface_hub has no such function: since its version 2 a download that breaks off is thrown away with the process.
So the addresses and the headers are the hub's own client's, and the bytes come by this module, with one set of rules
for all hubs. A token is in the headers; httpx2 takes it off when a hub redirects to another host, scheme or port.
"""

from __future__ import annotations

import functools
import hashlib
import logging
import os
import re
import ssl
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import httpx2

from tunesmith_stages.contract import ExitCode, FileEntry
from tunesmith_stages.fetch import hub as hubs
from tunesmith_stages.fetch.hub import Hub, HubFile, denied, unavailable
from tunesmith_stages.program import Progress, StageError

CONNECT_SECONDS = 10.0
STALL_SECONDS = 30.0
"""A connection on which nothing comes for so long is given up, and made anew."""
_LONGEST_WAIT = 60.0
_CHUNK = 1024 * 1024
_PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})
_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")
logging.getLogger("httpx2").setLevel(logging.WARNING)  # it tells every address, with what signs it
_POINTER = b"version https://git-lfs.github.com/spec/"


@functools.cache
def trusted() -> ssl.SSLContext:
    """Return whom to trust for https: made once, for to read all authorities takes a tenth of a second."""
    return httpx2.create_ssl_context()


class _BrokenOffError(Exception):
    """The file did not come whole; what came is kept, and the rest is asked for again."""

    def __init__(self, why: str, wait: float = 0.0) -> None:
        super().__init__(why)
        self.wait = wait
        """Seconds that the hub asks to wait."""


class Transfers:
    """Brings files of one repository at one commit. Used as a context manager."""

    def __init__(self, hub: Hub, commit: str, parts: Path, progress: Progress) -> None:
        self._hub = hub
        self._commit = commit
        self._parts = parts
        self._progress = progress
        timeout = httpx2.Timeout(STALL_SECONDS, connect=CONNECT_SECONDS)
        self._client = httpx2.Client(follow_redirects=True, timeout=timeout, verify=trusted())

    def __enter__(self) -> Transfers:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the connections."""
        self._client.close()

    def begun(self, file: HubFile, target: Path) -> int:
        """Return how many bytes of a file are here."""
        place = target if target.is_file() else self._part(file)
        return min(place.stat().st_size, file.size) if place.is_file() else 0

    def bring(self, file: HubFile, target: Path, advance: Callable[[int], None]) -> FileEntry:
        """Bring a file to `target`, unless it is there already; `advance` is told the bytes, those from before as well.

        Raises:
            StageError: the hub refuses it, keeps failing, or sends something else than it lists.
        """
        if target.is_file() and target.stat().st_size == file.size:
            sums = _Sums(file)
            sums.read(target)
            if not sums.differ():
                advance(file.size)
                return self._entry(file, sums)
        part = self._part(file)
        if part.is_file() and part.stat().st_size > file.size:
            part.unlink()
        advance(part.stat().st_size if part.is_file() else 0)
        sums = self._whole(file, part, advance)
        if sums.differ():
            self._progress.note(f"{file.path} came with another hash than the hub lists; it is fetched once more")
            part.unlink()
            advance(-file.size)
            sums = self._whole(file, part, advance)
        if sums.differ():
            part.unlink()
            raise self._wrong(file, "its content has another hash than the hub lists")
        target.parent.mkdir(parents=True, exist_ok=True)
        part.rename(target)
        return self._entry(file, sums)

    def _part(self, file: HubFile) -> Path:
        identity = f"{file.path}\0{file.size}\0{file.sha256}\0{file.blob}"
        return self._parts / hashlib.sha256(identity.encode("utf-8", "surrogatepass")).hexdigest()

    def _entry(self, file: HubFile, sums: _Sums) -> FileEntry:
        return FileEntry(file.path, file.size, sums.sha256.hexdigest())

    def _whole(self, file: HubFile, part: Path, advance: Callable[[int], None]) -> _Sums:
        """Have all bytes of a file in `part`, in as many tries as it takes while each brings some."""
        sums = _Sums(file)
        if part.is_file():
            sums.read(part)
        waits = iter(hubs.WAITS)
        while True:
            before = sums.count
            try:
                self._stream(file, part, sums, advance)
                return sums
            except (_BrokenOffError, httpx2.RequestError) as error:
                why = str(error) or type(error).__name__
                if sums.count > before:
                    waits = iter(hubs.WAITS)
                wait = next(waits, None)
                if wait is None:
                    raise unavailable(self._hub, f"{file.path}: {why}") from error
                wait = max(wait, error.wait) if isinstance(error, _BrokenOffError) else wait
                self._progress.note(
                    f"{file.path} broke off at {sums.count:,} of {file.size:,} bytes ({why}); going on in {wait:.0f} s"
                )
                time.sleep(wait)

    def _stream(self, file: HubFile, part: Path, sums: _Sums, advance: Callable[[int], None]) -> None:
        """Append to `part` what is missing, from one answer of the hub.

        Raises:
            _BrokenOffError: not all came.
            httpx2.RequestError: the same.
            StageError: the hub refuses, or has something else.
        """
        if sums.count == file.size:
            part.touch()
            return
        url, headers = self._hub.request(self._commit, file.path)
        asked = {**headers, "Accept-Encoding": "identity"}
        if sums.count:
            asked["Range"] = f"bytes={sums.count}-"
        with self._client.stream("GET", url, headers=asked) as answer:
            self._require_content(file, answer, headers)
            if sums.count and answer.status_code != httpx2.codes.PARTIAL_CONTENT:  # all of it comes once more
                advance(-sums.count)
                part.unlink()
                sums.reset()
            with part.open("ab") as writing:
                for chunk in answer.iter_bytes():  # of the sizes that come: what is gathered is lost when it breaks
                    if sums.count + len(chunk) > file.size:
                        raise self._wrong(file, f"more than the {file.size:,} bytes come that the hub lists")
                    writing.write(chunk)
                    sums.add(chunk)
                    advance(len(chunk))
                writing.flush()
                os.fsync(writing.fileno())
        if sums.count < file.size:
            raise _BrokenOffError("the answer ended early")

    def _require_content(self, file: HubFile, answer: httpx2.Response, headers: Mapping[str, str]) -> None:
        status = answer.status_code
        if status in _PASSING:
            raise _BrokenOffError(f"HTTP {status}", _asked_to_wait(answer))
        if status in (401, 403):
            raise denied(self._hub, status, with_token=any(name.lower() == "authorization" for name in headers))
        if status not in (200, 206):
            raise self._wrong(file, f"the hub lists it, but does not hand it out (HTTP {status})")
        if status == 206:
            place = _RANGE.fullmatch(answer.headers.get("Content-Range", ""))
            wanted = re.fullmatch(r"bytes=(\d+)-", answer.request.headers.get("Range", ""))
            if not (place and wanted and place[1] == wanted[1] and place[2] in {str(file.size), "*"}):
                raise self._wrong(file, "the hub sends another part of it than was asked for, or it has another size")
        length = answer.headers.get("Content-Length", "")
        if status == 200 and length.isdecimal() and "Content-Encoding" not in answer.headers:
            self._require_size(file, int(length), answer)

    def _require_size(self, file: HubFile, size: int, answer: httpx2.Response) -> None:
        if size == file.size:
            return
        what = f"{size:,} bytes come instead of the {file.size:,} that the hub lists"
        if size < 1024 and answer.read().startswith(_POINTER):
            what = "a pointer of Git LFS comes instead of the file"
        raise self._wrong(file, what)

    def _wrong(self, file: HubFile, why: str) -> StageError:
        return StageError(
            ExitCode.BAD_DATA,
            f"{self._hub.called} has no usable {file.path}: {why}",
            reason="DownloadWrong",
            hint="If a mirror or a proxy is on the way, it hands out something old or damaged: have it forget this "
            "file, or ask the hub itself.",
        )


class _Sums:
    """Hashes of the bytes that came, in order: sha256 for the store, and git's where the hub knows no other."""

    def __init__(self, file: HubFile) -> None:
        self._file = file
        self.reset()

    def reset(self) -> None:
        """Begin anew."""
        self.count = 0
        self.sha256 = hashlib.sha256()
        self._blob = hashlib.sha1(b"blob %d\0" % self._file.size, usedforsecurity=False)

    def add(self, chunk: bytes) -> None:
        """Take the next bytes."""
        self.count += len(chunk)
        self.sha256.update(chunk)
        if not self._file.sha256:
            self._blob.update(chunk)

    def read(self, path: Path) -> None:
        """Take all bytes of a file."""
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                self.add(chunk)

    def differ(self) -> bool:
        """Return whether these are not the bytes that the hub lists."""
        if self._file.sha256:
            return self.sha256.hexdigest() != self._file.sha256
        return self._blob.hexdigest() != self._file.blob


def _asked_to_wait(answer: httpx2.Response) -> float:
    given = answer.headers.get("Retry-After", "")
    return min(float(given), _LONGEST_WAIT) if given.isdecimal() else 0.0
