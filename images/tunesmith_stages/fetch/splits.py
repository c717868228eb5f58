"""Which files of a hub's repository belong to a subset and a split of a dataset, without running anything of it.

What the repository's card says (``configs`` in the YAML at the top of README.md) counts; else the usual names of files.
The rules are those of the hub's own documentation ("Manual configuration" and "File names and splits").
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import yaml

from tunesmith_stages.contract import ExitCode
from tunesmith_stages.fetch.data_files import ALLOWED, SUFFIXES, data_names
from tunesmith_stages.program import StageError

_DEFAULT = "default"
_WORDS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}
_SHARD = re.compile(r"^(?P<split>[\w.-]+?)-\d{5}-of-\d{5}$")
_MAX_CARD = 1_000_000
_MAX_PATTERNS = 1000


def choose(names: Sequence[str], card: str, subset: str | None, split: str, called: str) -> list[str]:
    """Return the paths of the data files of a split, sorted.

    Args:
        names: paths of all files of the repository.
        card: text of its README.md; empty if it has none.
        subset: name of the subset; None for the default one.
        split: name of the split.
        called: what people call the repository.

    Raises:
        StageError: there is no such subset or split, or no file that can be read without running the repository's code.
    """
    config = _config(_configs(card, called), subset, called)
    folder = _word(config.get("data_dir"), "").strip("/") if config else ""
    if config and config.get("data_files"):
        splits = {
            name: _matching(names, patterns, folder, called)
            for name, patterns in _patterns(config["data_files"], called).items()
        }
    else:
        inside = folder or (subset or "" if config is None else "")
        splits = _by_names([name for name in names if name.startswith(f"{inside}/")] if inside else names)
        if inside and not splits:
            raise _no_subset(inside, sorted({name.split("/")[0] for name in data_names(names) if "/" in name}), called)
    if not splits:
        raise _nothing_to_read(names, called)
    if split not in splits:
        raise StageError(
            ExitCode.BAD_CONFIG,
            f"{called} has no split {split!r}; it has {', '.join(sorted(splits))}",
            reason="SplitNotFound",
            hint="Name one of these in `split`.",
        )
    return _readable(splits[split], split, called)


# --- what the card says ----------------------------------------------------------------------------------------------


def _configs(card: str, called: str) -> list[Mapping[str, Any]]:
    found = re.match(r"\ufeff?---[ \t]*\r?\n(.*?)\r?\n---[ \t]*(\r?\n|$)", card[:_MAX_CARD], re.DOTALL)
    if not found:
        return []
    try:
        data = yaml.safe_load(found[1])
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise StageError(
            ExitCode.BAD_DATA,
            f"the card of {called} (README.md) begins with YAML that cannot be read: {str(error).splitlines()[0]}",
            reason="BadDatasetCard",
            hint="Have it mended, or copy the data files to the volume and name them there.",
        ) from error
    configs = data.get("configs") if isinstance(data, Mapping) else None
    return [item for item in configs if isinstance(item, Mapping)] if isinstance(configs, list) else []


def _config(configs: list[Mapping[str, Any]], subset: str | None, called: str) -> Mapping[str, Any] | None:
    """Return what the card says of a subset; None if it says nothing of any."""
    if not configs:
        return None
    names = [_word(item.get("config_name"), _DEFAULT) for item in configs]
    if subset is None:
        marked = [item for item in configs if item.get("default") is True]
        named = [item for item, name in zip(configs, names, strict=True) if name == _DEFAULT]
        if marked or named or len(configs) == 1:
            return (marked or named or configs)[0]
        raise StageError(
            ExitCode.BAD_CONFIG,
            f"{called} has several subsets and no default one: {', '.join(names[:20])}",
            reason="SubsetNotFound",
            hint="Name one of these in `subset`.",
        )
    if subset not in names:
        raise _no_subset(subset, names, called)
    return configs[names.index(subset)]


def _no_subset(subset: str, names: Sequence[str], called: str) -> StageError:
    known = f"; it has {', '.join(names[:20])}" if names else ""
    return StageError(
        ExitCode.BAD_CONFIG,
        f"{called} has no subset {subset!r}{known}",
        reason="SubsetNotFound",
        hint="Name one of these in `subset`." if names else "Leave `subset` out.",
    )


def _patterns(data_files: object, called: str) -> dict[str, list[str]]:
    """Return the patterns of files by split, of what a card may say: a text, a list of them, or of splits with them."""
    items = data_files if isinstance(data_files, list) else [data_files]
    found: dict[str, list[str]] = {}
    for item in items[:_MAX_PATTERNS]:
        whole = item if isinstance(item, Mapping) else {"path": item}
        path = whole.get("path")
        for pattern in path[:_MAX_PATTERNS] if isinstance(path, list) else [path]:
            if not isinstance(pattern, str) or "://" in pattern or ".." in pattern.split("/") or len(pattern) > 1000:
                shown = repr(pattern[:80]) if isinstance(pattern, str) else f"a {type(pattern).__name__}"
                raise StageError(
                    ExitCode.BAD_DATA,
                    f"the card of {called} names data files not its own, or in a way that is not read: {shown}",
                    reason="BadDatasetCard",
                    hint="Copy the data files to the volume and name them there.",
                )
            found.setdefault(_word(whole.get("split"), "train"), []).append(pattern)
    return found


def _word(value: object, default: str) -> str:
    """Return a name as YAML has it, which may take it for a number or a truth value; lists and such are no names."""
    return str(value) if isinstance(value, str | int | float) else default


def _matching(names: Sequence[str], patterns: Sequence[str], folder: str, called: str) -> list[str]:
    chosen: set[str] = set()
    for pattern in patterns:
        whole = f"{folder}/{pattern}" if folder else pattern
        try:
            like = _like(whole.removeprefix("./").lstrip("/"))
        except re.error:  # such as [z-a]
            like = {whole}.__contains__
        matching = set(filter(like, names))
        if not matching:
            raise StageError(
                ExitCode.BAD_DATA,
                f"the card of {called} names data files that are not there: {pattern!r}",
                reason="BadDatasetCard",
                hint="Name another `revision`, or copy the data files to the volume and name them there.",
            )
        chosen |= matching
    return sorted(chosen)


def _like(pattern: str) -> Callable[[str], bool]:
    """Return what tells whether a path is like a pattern: ``**`` for any folders, ``*`` and ``?`` within a name.

    The time that it takes does not grow with the ways to read a path, whatever a card says.

    Raises:
        re.error: it is no pattern.
    """
    wanted = [None if part == "**" else re.compile(_expression(part), re.DOTALL) for part in pattern.split("/")]

    def reached(places: set[int]) -> set[int]:
        """Return the places in the pattern, and those behind the ``**`` that stand there: these may be for nothing."""
        for place in sorted(places):
            following = place
            while following < len(wanted) and wanted[following] is None:
                following += 1
                places.add(following)
        return places

    def fits(path: str) -> bool:
        places = reached({0})
        for part in path.split("/"):
            places = reached(set(_behind(places, part)))
        return len(wanted) in places

    def _behind(places: set[int], part: str) -> Iterator[int]:
        for place in places - {len(wanted)}:
            like = wanted[place]
            if like is None:
                yield place
            elif like.fullmatch(part):
                yield place + 1

    return fits


def _expression(pattern: str) -> str:
    """Return the pattern of a name as a regular expression that never goes back behind a star.

    It need not: if what stands between two stars is found early, there is but more left for the second.
    """
    first, *others = re.split(r"\*+", pattern)
    if not others:
        return _fixed(first)
    *middle, last = others
    return _fixed(first) + "".join(f"(?>.*?{_fixed(part)})" for part in middle) + f".*{_fixed(last)}"


def _fixed(pattern: str) -> str:
    """Return a pattern without stars as a regular expression."""
    parts = re.split(r"(\?|\[!?[^]/]+\])", pattern)
    return "".join("." if part == "?" else _class(part) for part in parts)


def _class(part: str) -> str:
    """Return a class of signs, such as ``[0-9]`` or ``[!a]``, as a regular expression has it; a text as itself."""
    if len(part) < 3 or part[0] != "[" or part[-1] != "]":
        return re.escape(part)
    inner = re.sub(r"([\\\[\]^&~|])", r"\\\1", part[1:-1])
    return f"[^{inner[1:]}]" if inner.startswith("!") else f"[{inner}]"


# --- what the names of files say -------------------------------------------------------------------------------------


def _by_names(names: Sequence[str]) -> dict[str, list[str]]:
    """Return data files by split, as their names tell; if no name tells anything they are all for training."""
    data = data_names(names)
    splits: dict[str, list[str]] = {}
    for name in data:
        for split in _splits_of(name):
            splits.setdefault(split, []).append(name)
            break
    return splits or ({"train": data} if data else {})


def _splits_of(path: str) -> Iterator[str]:
    """Yield the split that a path speaks of: of a shard by its name, else by a word in its name or folders."""
    *folders, name = path.split("/")
    stem = name.rpartition(".")[0]
    if shard := _SHARD.match(stem):
        yield shard["split"]
    for part in (stem, *reversed(folders)):
        for split, words in _WORDS.items():
            if re.search(rf"(?:^|[\W_\d])(?:{'|'.join(words)})(?:[\W_\d]|$)", part, re.IGNORECASE):
                yield split


def _readable(names: list[str], split: str, called: str) -> list[str]:
    others = [name for name in names if not name.lower().endswith(SUFFIXES)]
    if others:
        raise StageError(
            ExitCode.BAD_DATA,
            f"the split {split!r} of {called} has files that cannot be read, such as {others[0]!r}",
            reason="UnknownFileType",
            hint=f"Datasets must be {ALLOWED} files.",
        )
    return names


def _nothing_to_read(names: Sequence[str], called: str) -> StageError:
    scripts = sorted(name for name in names if name.endswith(".py"))
    if scripts:
        return StageError(
            ExitCode.BAD_DATA,
            f"{called} has no data files, only a script that would make them ({scripts[0]}); code of others is not run",
            reason="LoadingScript",
            hint="Use a dataset with data files, or make them on a machine that you trust and copy them to the volume.",
        )
    return StageError(
        ExitCode.BAD_DATA,
        f"{called} has no {ALLOWED} file",
        reason="UnknownFileType",
        hint=f"Datasets must be {ALLOWED} files.",
    )
