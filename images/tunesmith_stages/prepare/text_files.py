"""Reads text files as UTF-8, line by line or in pieces, and says what a file is that holds no such text."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from tunesmith_stages.contract import ExitCode
from tunesmith_stages.prepare.row import MAX_ROW_BYTES
from tunesmith_stages.program import StageError

BOM = codecs.BOM_UTF8
_PIECE = 1024 * 1024  # bytes that are decoded at once

_BEGINNINGS = {
    b"PAR1": "a Parquet file",
    b"ARROW1": "an Arrow file",
    b"\x1f\x8b": "compressed with gzip",
    b"\x28\xb5\x2f\xfd": "compressed with zstd",
    b"BZh": "compressed with bzip2",
    b"\xfd7zXZ": "compressed with xz",
    b"PK\x03\x04": "a ZIP archive, or a spreadsheet",
    b"version https://git-lfs": "a pointer to a file in Git LFS, not the file itself",
}
"""What files of other kinds begin with."""


def other_kind(head: bytes) -> str:
    """Return what a file is that begins with `head`, or nothing if it is not one of the known other kinds."""
    return next((what for beginning, what in _BEGINNINGS.items() if head.startswith(beginning)), "")


def open_text(path: Path, name: str) -> BinaryIO:
    """Open a text file at its first byte after a byte order mark.

    Raises:
        StageError: it begins as a file of another kind or of another encoding does.
    """
    file = path.open("rb")
    head = file.read(64)
    if what := other_kind(head):
        file.close()
        hint = "Give the file an ending that says what it is, or unpack it; allowed are .json, .jsonl, .csv, .parquet"
        message = f"{name} is {what}, not a text file"
        raise StageError(ExitCode.BAD_DATA, message, reason="WrongFileType", hint=f"{hint} and .txt.")
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        file.close()
        raise _not_utf8(name, head, 0, 0, 1)
    file.seek(len(BOM) if head.startswith(BOM) else 0)
    return file


def raw_lines(path: Path, name: str) -> Iterator[tuple[int, bytes | None]]:
    """Yield number, from 1, and bytes of each line that is not blank; None for one that is too long for a row.

    Raises:
        StageError: as :func:`open_text`.
    """
    with open_text(path, name) as file:
        number = 0
        while line := file.readline(MAX_ROW_BYTES + 1):
            number += 1
            if len(line) > MAX_ROW_BYTES:
                while line and not line.endswith(b"\n"):
                    line = file.readline(_PIECE)
                yield number, None
            elif not line.isspace():
                yield number, line


def decoded(content: bytes, place: str) -> str:
    """Return text of UTF-8, found at `place`.

    Raises:
        StageError: it is not UTF-8, or holds a NUL.
    """
    if 0 in content:
        raise _nul(place, content.index(0))
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise _not_utf8(place, content, error.start, error.start, 1) from None


def pieces(file: BinaryIO, name: str) -> Iterator[str]:
    """Yield the text of a file in pieces of some size.

    Raises:
        StageError: it is not UTF-8, or holds a NUL.
    """
    decoder = codecs.getincrementaldecoder("utf-8")()
    line = 1
    read = file.tell()
    while True:
        content = file.read(_PIECE)
        if 0 in content:
            raise _nul(name, read + content.index(0))
        pending = len(decoder.getstate()[0])
        try:
            text = decoder.decode(content, final=not content)
        except UnicodeDecodeError as error:
            offset = read - pending + error.start
            raise _not_utf8(name, error.object, error.start, offset, line) from None
        if text:
            yield text
        if not content:
            return
        line += content.count(b"\n")
        read += len(content)


def _nul(place: str, offset: int) -> StageError:
    return StageError(
        ExitCode.BAD_DATA,
        f"{place} holds a NUL byte, at offset {offset}",
        reason="NulByte",
        hint="The file is damaged, or UTF-16 without a mark (then: iconv -f UTF-16LE -t UTF-8). Text has no NUL bytes.",
    )


def _not_utf8(place: str, content: bytes, start: int, offset: int, line: int) -> StageError:
    """Return the error that `content` has a wrong byte at `start`, which is at `offset` of what `place` names."""
    code = "UTF-16" if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "CP1252"
    line += content.count(b"\n", 0, start)
    where = f"byte 0x{content[start]:02x} at offset {offset}" + (f" (line {line})" if line > 1 else "")
    return StageError(
        ExitCode.BAD_DATA,
        f"{place} is not UTF-8: {where}",
        reason="NotUtf8",
        hint=f"Save the file as UTF-8 (for example: iconv -f {code} -t UTF-8; in Excel: CSV UTF-8).",
    )
