"""Models and datasets of a hub: which files of a repository are needed, and how they come into the store."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

from tunesmith_stages.contract import FileEntry
from tunesmith_stages.fetch import hugging_face, model_scope
from tunesmith_stages.fetch.asked import Asked
from tunesmith_stages.fetch.hub import Hub, HubFile, patiently, pinned, token_of, version_of
from tunesmith_stages.fetch.model_files import (
    INDEX,
    LICENCES,
    describe_model,
    indexed_names,
    model_files,
    require_parts,
    require_shards,
    weight_names,
)
from tunesmith_stages.fetch.scratch import Scratch, download_folder
from tunesmith_stages.fetch.splits import choose
from tunesmith_stages.fetch.storing import require_space, store_folder, write_file
from tunesmith_stages.fetch.transfer import Transfers
from tunesmith_stages.program import Made, Work

log = logging.getLogger(__name__)

_CARD = "README.md"
_CURE = "Name a repository, or a `revision` of it, that holds the whole model in transformers' format."
_BESIDE_WEIGHTS = frozenset(
    {
        "added_tokens.json",
        "chat_template.jinja",
        "chat_template.json",
        "config.json",
        "generation_config.json",
        "merges.txt",
        "special_tokens_map.json",
        "spiece.model",
        "tokenizer.json",
        "tokenizer.model",
        "tokenizer_config.json",
        "vocab.json",
        "vocab.txt",
        INDEX,
    }
)
"""What is needed of a model besides its weights and what is allowed with it: no code, nothing for other libraries."""


def version(asked: Asked) -> str:
    """Return the commit that the source's revision leads to, as a version; the one that it was found to have stays.

    Raises:
        StageError: the hub does not tell.
    """
    if pinned(asked.version):
        return asked.version
    name, hub = hub_of(asked)
    return version_of(patiently(lambda: hub.commit(asked.source[name]["revision"]), log.info))


def hub_of(asked: Asked) -> tuple[str, Hub]:
    """Return the form of a unit's source, ``huggingFace`` or ``modelScope``, and the repository.

    Raises:
        StageError: the token that it is to be asked with is none.
    """
    (name,) = asked.source.keys() & _HUBS.keys()
    variable, connect = _HUBS[name]
    token = token_of(asked.unit.name, asked.runtime, variable)
    return name, connect(asked.kind, asked.source[name]["repo"], token)


def bring(work: Work) -> Made:
    """Bring a model or a dataset of a hub into the store.

    Raises:
        StageError: the hub refuses or fails, or what it has is not what is needed.
    """
    (name,) = work.params["source"].keys() & _HUBS.keys()
    source: Mapping[str, Any] = work.params["source"][name]

    def select(loads: Loads) -> tuple[list[FileEntry], dict[str, Any]]:
        if work.params["kind"] == "models":
            return _model(loads, source["repo"])
        return loads.data_files(source.get("subset"), source.get("split", "train")), {}

    return bring_selected(work, Asked(work.volume, work.unit, work.runtime), select)


def bring_selected(work: Work, asked: Asked, select: Callable[[Loads], tuple[list[FileEntry], dict[str, Any]]]) -> Made:
    """Bring what `select` chooses of a repository into the store.

    Args:
        work: the unit.
        asked: the same unit, with the repository as its source.
        select: brings the files, returns them, and what the result is to say of them.

    Raises:
        StageError: the hub refuses or fails, or `select` finds nothing of use.
    """
    name, hub = hub_of(asked)
    note = work.progress.note
    commit = pinned(asked.version) or patiently(lambda: hub.commit(asked.source[name]["revision"]), note)
    note(f"{hub.called}, commit {commit}")
    files = {file.path: file for file in patiently(lambda: hub.files(commit), note)}
    with download_folder(work) as scratch, Transfers(hub, commit, scratch.parts, work.progress) as transfers:
        loads = Loads(work, hub, files, scratch, transfers)
        entries, described = select(loads)
        scratch.keep_only(entries)
        made = store_folder(work, scratch.files, entries, {**described, "commit": commit})
    return replace(made, scratch=scratch.folder)


class Loads:
    """Brings chosen files of one commit into a unit's download folder."""

    def __init__(
        self, work: Work, hub: Hub, files: Mapping[str, HubFile], scratch: Scratch, transfers: Transfers
    ) -> None:
        self.called = hub.called
        self.files = files
        self.scratch = scratch
        self._work = work
        self._transfers = transfers

    def bring(self, paths: Iterable[str]) -> list[FileEntry]:
        """Bring files that go into the store.

        Raises:
            StageError: they don't fit on the volume, or the hub fails.
        """
        wanted = [self.files[path] for path in sorted(paths)]
        targets = {file.path: self.scratch.files / file.path for file in wanted}
        here = sum(self._transfers.begun(file, targets[file.path]) for file in wanted)
        total = sum(file.size for file in wanted)
        require_space(self._work, total - here)
        advance = self._work.progress.counter(total, "bytes")
        return [self._transfers.bring(file, targets[file.path], advance) for file in wanted]

    def content(self, path: str) -> bytes:
        """Return the content of a small file that is only read.

        Raises:
            StageError: the hub fails.
        """
        target = self.scratch.read / path
        self._transfers.bring(self.files[path], target, lambda _: None)
        return target.read_bytes()

    def write(self, path: str, content: bytes) -> FileEntry:
        """Put a small file into the folder that goes into the store, whatever lies there."""
        (self.scratch.files / path).unlink(missing_ok=True)
        return write_file(content, self.scratch.files, path)

    def data_files(self, subset: str | None, split: str, folder: str = "") -> list[FileEntry]:
        """Bring the files of a dataset's split, from a folder of the repository if one is named.

        Raises:
            StageError: there is no such split, or the hub fails.
        """
        names = sorted(path for path in self.files if path.startswith(f"{folder}/" if folder else ""))
        card = self.content(_CARD).decode(errors="replace") if _CARD in self.files and not folder else ""
        return self.bring(choose(names, card, subset, split, f"{self.called}, {folder}" if folder else self.called))


def _model(loads: Loads, repo: str) -> tuple[list[FileEntry], dict[str, Any]]:
    """Bring a model: what is small first, for it tells which weights there must be."""
    names = {path for path in loads.files if "/" not in path}
    require_parts(names, repo, _CURE)
    weights = set() if INDEX in names else set(weight_names(names, repo, _CURE))
    small = {name for name in names if name in _BESIDE_WEIGHTS or name.upper().startswith(LICENCES)}
    entries = loads.bring(small)
    if INDEX in names:
        weights = set(indexed_names(loads.scratch.files / INDEX, repo, _CURE))
        require_shards(weights, names, repo, _CURE)
    described = describe_model(loads.scratch.files, _CURE)
    entries += loads.bring(weights)
    model_files(loads.scratch.files, repo, cure=_CURE)
    return entries, described


_HUBS: Mapping[str, tuple[str, Callable[[str, str, str], Hub]]] = {
    "huggingFace": (hugging_face.TOKEN, hugging_face.HuggingFace),
    "modelScope": (model_scope.TOKEN, model_scope.ModelScope),
}
