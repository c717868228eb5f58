"""What the pages for people say exists: jobs, commands, options, files, links and choices."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from support.generator import ROOT
from tunesmith.api.finetunejob import (
    Builtin,
    DatasetFormat,
    FinetuningType,
    Language,
    LrSchedule,
    OutType,
    Precision,
    Quantization,
)
from tunesmith.api.kube_yaml import KubeLoader, dump
from tunesmith.api.parse import parse_job
from tunesmith.cli.main import app

PAGES = {
    path.relative_to(ROOT).as_posix(): path
    for pattern in ("*.md", "docs/**/*.md", "examples/*.md", "examples/*/*.md", "changelog.d/*.md", "hack/**/*.md")
    for path in sorted(ROOT.glob(pattern))
}
_FENCE = re.compile(r"^ *```(\w*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
_SPAN = re.compile(r"`([^`\n]+)`")
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


def text_of(page: str) -> str:
    return PAGES[page].read_text(encoding="utf-8")


def blocks(page: str, *languages: str) -> list[str]:
    return [code for language, code in _FENCE.findall(text_of(page)) if language in languages]


def commands(page: str) -> Iterator[list[str]]:
    """Yield the words of every command line on a page, in its blocks and code spans, without settings before it."""
    lines = [line for block in blocks(page, "", "sh", "bash", "console") for line in block.splitlines()]
    spans = _SPAN.findall(_FENCE.sub("", text_of(page)))
    for line in [*lines, *spans]:
        try:
            words = shlex.split(line.strip().removeprefix("$ "), comments=True)
        except ValueError:
            continue  # a text that is no command
        while words and re.match(r"[A-Z_]+=", words[0]):
            words.pop(0)
        if words:
            yield words


# --- jobs ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "yaml")])
def test_the_yaml_on_a_page_is_valid(page: str) -> None:
    """Every FineTuneJob on a page is valid; a part of one is, when it is put into the job beside the page."""
    for block in blocks(page, "yaml"):
        data = yaml.load(block, KubeLoader)  # noqa: S506 - it reads plain data only
        if data.keys() == {"spec"}:
            beside = (PAGES[page].parent / "finetunejob.yaml").read_text(encoding="utf-8")
            block = dump(merged(yaml.load(beside, KubeLoader), data))  # noqa: S506, PLW2901
        parse_job(block)


def merged(base: Any, change: Any) -> Any:
    if not (isinstance(base, dict) and isinstance(change, dict)):
        return change
    return base | {name: merged(base.get(name), value) for name, value in change.items()}


# --- commands --------------------------------------------------------------------------------------------------------

MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
TARGETS = set(re.findall(r"^([a-z][a-z0-9-]*):", MAKEFILE, re.MULTILINE))


@pytest.mark.parametrize("page", PAGES)
def test_every_make_command_exists(page: str) -> None:
    """Each target and each variable of a `make` command on a page is in the Makefile."""
    for words in commands(page):
        if words[0] == "make":
            names = [word for word in words[1:] if "=" not in word]
            assert set(names) <= TARGETS, f"`{' '.join(words)}`"
            for variable in (word.partition("=")[0] for word in words[1:] if "=" in word):
                assert f"$({variable})" in MAKEFILE, f"`{' '.join(words)}`"


def test_every_target_is_listed_by_help() -> None:
    """Each target of the Makefile has a line in `make help`."""
    listed = set(re.findall(r"^([a-z][a-z0-9-]*):.*## .", MAKEFILE, re.MULTILINE))
    assert listed == TARGETS


@pytest.mark.parametrize("page", PAGES)
def test_every_tunesmith_command_exists(page: str) -> None:
    """Each `tunesmith` command on a page is one of the command line's, with options that it has."""
    group: Any = typer.main.get_command(app)
    for words in commands(page):
        if words[0] != "tunesmith" or len(words) == 1:
            continue
        assert words[1] in group.commands, f"`{' '.join(words)}`"
        options = {option for item in group.commands[words[1]].params for option in item.opts} | {"--help"}
        assert {word for word in words if word.startswith("--")} <= options, f"`{' '.join(words)}`"


@pytest.mark.parametrize("page", PAGES)
def test_every_file_in_a_command_exists(page: str) -> None:
    """Each script that a command on a page runs, and each example that it names, is in the repository."""
    for words in commands(page):
        scripts = [word for word in words[1:] if words[0].endswith("python") and word.endswith(".py")]
        named = [word for word in words[1:] if word.startswith("examples/") and word.endswith(".yaml")]
        places = (ROOT, PAGES[page].parent)
        missing = [word for word in scripts + named if not any((place / word).exists() for place in places)]
        assert not missing, f"`{' '.join(words)}`"


def test_the_commands_of_the_readme_are_found() -> None:
    """The search for commands sees those that the README stands on."""
    found = [" ".join(words) for words in commands("README.md")]
    for wanted in ("make demo", "make test", "tunesmith run my-job/finetunejob.yaml --dry-run", "make env"):
        assert wanted in found


# --- links and words -------------------------------------------------------------------------------------------------


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    headings = _HEADING.findall(_FENCE.sub("", page.read_text(encoding="utf-8")))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_somewhere(page: str) -> None:
    """Each link to a file or heading of this repository finds it."""
    for link in _LINK.findall(_FENCE.sub("", text_of(page))):
        path, _, anchor = link.partition("#")
        if "://" in link:
            continue
        target = (PAGES[page].parent / path).resolve() if path else PAGES[page]
        assert target.exists(), f"{page} links to {link}"
        assert not anchor or anchor in anchors(target), f"{page} links to {link}"


@pytest.mark.parametrize(
    "choices", [Builtin, DatasetFormat, FinetuningType, Language, LrSchedule, OutType, Precision, Quantization]
)
def test_the_readme_names_every_choice(choices: type[Any]) -> None:
    """The README's table of what works today names every choice of the API, and so forgets none that is added."""
    table = text_of("README.md").partition("## What works today")[2].partition("\n## ")[0]
    left_out = {DatasetFormat.AUTO}  # not a format, but the wish to have it found out
    assert {choice for choice in choices if f"`{choice}`" not in table} <= left_out


@pytest.mark.parametrize("page", PAGES)
def test_generated_pages_say_so(page: str) -> None:
    """A page that is generated as a whole says so in its first line, so that nobody edits it."""
    generated = {"docs/api.md"}
    assert (page in generated) == text_of(page).startswith("<!-- Generated ")
