"""The pages for people, and what stands on them: blocks, commands, tables, and the YAML by what it is."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Any

import yaml

from support.generator import ROOT
from tunesmith.api.kube_yaml import KubeLoader

_WHERE = (
    "*.md",
    "docs/**/*.md",
    "examples/*.md",
    "examples/*/*.md",
    "examples/gitops/*/*.md",
    "changelog.d/*.md",
    "charts/*/*.md",
    "hack/**/*.md",
    "images/*.md",
)
PAGES = {path.relative_to(ROOT).as_posix(): path for where in _WHERE for path in sorted(ROOT.glob(where))}
_FENCE = re.compile(r"^ *```(\w*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
_SPAN = re.compile(r"`([^`\n]+)`")
_ROW = re.compile(r"^\| (.*) \|$", re.MULTILINE)


def text_of(page: str) -> str:
    """Return a page as it is."""
    return PAGES[page].read_text(encoding="utf-8")


def prose_of(page: str) -> str:
    """Return a page without its blocks."""
    return _FENCE.sub("", text_of(page))


def blocks(page: str, *languages: str) -> list[str]:
    """Return the blocks in one of these languages; the empty one is a block without a language."""
    return [code for language, code in _FENCE.findall(text_of(page)) if language in languages]


def spans(text: str) -> list[str]:
    """Return what stands in back-quotes."""
    return _SPAN.findall(text)


def commands(page: str) -> Iterator[list[str]]:
    """Yield the words of every command line on a page, in its blocks and code spans, without settings before it."""
    shells = [block.replace("\\\n", " ") for block in blocks(page, "", "sh", "bash", "console")]
    lines = [line for block in shells for line in block.splitlines()]
    for line in [*lines, *spans(prose_of(page))]:
        try:
            words = shlex.split(line.strip().removeprefix("$ "), comments=True)
        except ValueError:
            continue  # a text that is no command
        while words and re.match(r"[A-Z_]+=", words[0]):
            words.pop(0)
        if words:
            yield words


def first_columns(page: str, *headings: str) -> list[str]:
    """Return the first cell of every row of the tables whose first column has one of these headings."""
    found = []
    heading = ""
    for line in prose_of(page).splitlines():
        row = _ROW.match(line)
        if row is None:
            heading = heading if line.startswith("|---") else ""
        elif not heading:
            heading = row[1].split(" | ")[0]
        elif heading in headings:
            found.append(row[1].split(" | ")[0])
    return found


# --- YAML ------------------------------------------------------------------------------------------------------------

VALUES_SCHEMA = json.loads((ROOT / "charts/tunesmith/values.schema.json").read_text(encoding="utf-8"))


class Means(Enum):
    """What a document in YAML is, told by its keys."""

    JOB = "a FineTuneJob: its kind says so"
    PART = "a part of a FineTuneJob: nothing but `spec`"
    OBJECT = "another object of Kubernetes: it has a kind"
    VALUES = "values of the chart: every key is one of them"


@dataclass(frozen=True)
class Document:
    """A document in YAML on a page."""

    text: str
    data: dict[str, Any]

    @property
    def means(self) -> Means:
        """What it is.

        Raises:
            ValueError: nothing that a page may show.
        """
        if "kind" in self.data:
            return Means.JOB if self.data["kind"] == "FineTuneJob" else Means.OBJECT
        if self.data.keys() == {"spec"}:
            return Means.PART
        if self.data.keys() <= VALUES_SCHEMA["properties"].keys():
            return Means.VALUES
        raise ValueError(f"neither a job, a part of one, an object nor values: {sorted(self.data)}")


def documents(page: str) -> list[Document]:
    """Return the documents in the YAML blocks of a page."""
    texts = [text for block in blocks(page, "yaml") for text in re.split(r"^ *---\n", block, flags=re.MULTILINE)]
    return [Document(text, yaml.load(text, KubeLoader)) for text in texts if text.strip()]  # noqa: S506 - plain data only
