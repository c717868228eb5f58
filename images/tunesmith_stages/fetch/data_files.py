"""Which files of a folder hold a dataset's rows."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from tunesmith_stages.contract import ExitCode
from tunesmith_stages.program import StageError
from tunesmith_stages.volume import readable

SUFFIXES = (".json", ".jsonl", ".csv", ".parquet", ".txt")
"""Files with rows end in one of these."""
TABLES = (".json", ".jsonl", ".csv", ".parquet")
"""Those that nobody writes notes in: of a folder with any of them, text files are not taken for data."""
ALLOWED = ".json, .jsonl, .csv, .parquet or .txt"
DESCRIPTIONS = ("dataset_info.json", "dataset_infos.json")
"""Files that say something about datasets, whoever names them."""
_BESIDE = {
    *DESCRIPTIONS,
    "config.json",
    "dataset_dict.json",
    "package.json",
    "requirements.txt",
}
_NOTES = ("README", "LICENSE", "LICENCE", "NOTICE")


def may_hold_rows(name: str) -> bool:
    """Return whether `prepare` reads a file of this name: `.json` alone is no ending, but a hidden file."""
    return PurePosixPath(name).suffix.lower() in SUFFIXES and name not in DESCRIPTIONS


def data_names(names: Iterable[str]) -> list[str]:
    """Return which of a dataset's files hold rows, by their paths: tables, or text files if there are no tables."""
    visible = [name for name in names if not _is_beside(name.rpartition("/")[2])]
    tables = [name for name in visible if name.lower().endswith(TABLES)]
    return sorted(tables or (name for name in visible if name.lower().endswith(".txt")))


def _is_beside(name: str) -> bool:
    """Return whether a file says something about a dataset instead of holding it."""
    return name.startswith(".") or name in _BESIDE or name.upper().startswith(_NOTES)


def dataset_files(place: Path, given: str) -> list[Path]:
    """Return the files of a dataset: the file itself, or those that lie in a folder.

    Raises:
        StageError: there is none, or one whose kind or name cannot be read.
    """
    if place.is_dir():
        names = {path.name for path in place.iterdir() if path.is_file()}
        files = [place / name for name in data_names(names)]
        what = f"the folder {given!r} holds no {ALLOWED} file"
    elif place.is_file():
        files = [place] if may_hold_rows(place.name) else []
        what = f"{given!r} is no {ALLOWED} file"
    else:
        files, what = [], f"{given!r} is neither a file nor a folder"
    hint = f"Datasets must be {ALLOWED} files."
    if place.name in DESCRIPTIONS:
        what = f"{given!r} describes datasets and holds no rows"
        hint = "Name its folder, and one of its entries in `datasetInfo`."
    if not files:
        raise StageError(ExitCode.BAD_DATA, what, reason="UnknownFileType", hint=hint)
    require_readable_names(files, given)
    return files


def require_readable_names(files: list[Path], given: str) -> None:
    """Refuse names that are not UTF-8: manifests and results, which list the files, are.

    Raises:
        StageError: one is not.
    """
    for path in files:
        name = readable(path.name)
        if name != path.name:
            raise StageError(
                ExitCode.BAD_DATA,
                f"the name of a file of {given!r} is not UTF-8; where its bytes are not, `\\udc` precedes them: {name}",
                reason="FileNameNotUtf8",
                hint="Rename the file. (An archive made under Windows is often unpacked with such names: "
                "`unzip -O GBK` or `convmv` mends them.)",
            )
