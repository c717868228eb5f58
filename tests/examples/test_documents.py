"""What the pages for people say exists: jobs, commands, options, files, links and choices."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from support.builders import carried_out
from support.generator import ROOT
from support.pages import (
    PAGES,
    VALUES_SCHEMA,
    Means,
    blocks,
    commands,
    documents,
    first_columns,
    prose_of,
    spans,
    text_of,
)
from support.reasons import reasons_in_code
from tunesmith.api.crd import custom_resource_definition
from tunesmith.api.datasets import DatasetFormat
from tunesmith.api.finetunejob import FineTuneJob, OutType
from tunesmith.api.kube_yaml import KubeLoader, dump
from tunesmith.api.parse import parse_job
from tunesmith.api.sources import Builtin, Language
from tunesmith.api.training import FinetuningType, LrSchedule, Method, Precision
from tunesmith.cli.kubectl.commands import app as kubectl_app
from tunesmith.cli.main import app
from tunesmith_stages.contract import StageName
from tunesmith_stages.prepare.conversations import Conversation
from tunesmith_stages.prepare.reader import read_conversations
from tunesmith_stages.prepare.recognition import reader_for
from tunesmith_stages.prepare.rows import read_batches
from tunesmith_stages.reasons import REASONS

_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


# --- YAML; values and objects of other kinds are proven by tests/integration/test_documents.py -----------------------


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "yaml")])
def test_the_jobs_on_a_page_are_valid(page: str) -> None:
    """Every FineTuneJob on a page is valid; so is a part of one, put into the job of the page or the one beside it."""
    known = documents(page)
    whole = [document.text for document in known if document.means is Means.JOB]
    for text in whole:
        parse_job(text)
    for part in (document.data for document in known if document.means is Means.PART):
        base = whole[0] if whole else (PAGES[page].parent / "finetunejob.yaml").read_text(encoding="utf-8")
        parse_job(dump(merged(yaml.load(base, KubeLoader), part)))  # noqa: S506 - plain data only


def with_rows(page: str) -> list[FineTuneJob]:
    """Return the jobs on a page, and the parts of jobs, that hold rows themselves."""
    least = {
        "apiVersion": "tunesmith.dev/v1alpha1",
        "kind": "FineTuneJob",
        "metadata": {"name": "shown"},
        "spec": {"model": {"volume": {"path": "base"}}, "ollama": {"model": "shown"}},
    }
    shown = [item for item in documents(page) if item.means in {Means.JOB, Means.PART}]
    wholes = [item.data if item.means is Means.JOB else merged(least, item.data) for item in shown]
    return [
        parse_job(dump(whole))
        for whole in wholes
        if any("inline" in dataset for dataset in whole["spec"].get("datasets", ()))
    ]


@pytest.mark.parametrize("page", [page for page in PAGES if "      inline:" in text_of(page)])
def test_the_rows_in_the_jobs_on_a_page_are_read(page: str, tmp_path: Path) -> None:
    """Rows that a page shows in a job are read as `prepare` does it for the method of that job."""
    jobs = with_rows(page)
    assert jobs
    for number, job in enumerate(jobs):
        params = carried_out(job)[0].stage(StageName.PREPARE).units[0].params
        for dataset, how in zip(job.spec.datasets, params["datasets"], strict=True):
            if dataset.inline is None:
                continue
            folder = tmp_path / f"{number}-{dataset.name}"
            folder.mkdir()
            (folder / "inline.jsonl").write_text("".join(json.dumps(row) + "\n" for row in dataset.inline))
            reader = reader_for(how, folder, params.get("preferences"))
            found = [row for batch in read_batches(folder) for row in read_conversations(batch, reader)]
            assert len(found) == len(dataset.inline)
            assert all(isinstance(row, Conversation) for row in found), found


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
    for words in commands(page):
        if words[0] == "tunesmith" and len(words) > 1:
            require_command(app, words[1:])


@pytest.mark.parametrize("page", PAGES)
def test_every_command_of_the_kubectl_plugin_exists(page: str) -> None:
    """Each `kubectl tunesmith` command on a page is one of the plugin's, with options that it has."""
    for words in commands(page):
        if words[:2] == ["kubectl", "tunesmith"] and len(words) > 2:
            require_command(kubectl_app, words[2:])


def require_command(commands_of: typer.Typer, words: list[str]) -> None:
    group: Any = typer.main.get_command(commands_of)
    assert words[0] in group.commands, words
    options = {option for item in group.commands[words[0]].params for option in item.opts} | {"--help"}
    given = {word.partition("=")[0] for word in words if re.match(r"--?[a-z]", word)}
    assert given <= options, words


@pytest.mark.parametrize("page", PAGES)
def test_every_file_in_a_command_exists(page: str) -> None:
    """Each script that a command on a page runs, and each file of this repository that it names, is there."""
    for words in commands(page):
        scripts = [word for word in words[1:] if words[0].endswith("python") and word.endswith(".py")]
        named = [
            word
            for word in words[1:]
            if re.match(r"(charts|examples|hack|images)/\S+(\.yaml|\.py|Dockerfile|smith)$", word)
        ]
        places = (ROOT, PAGES[page].parent)
        missing = [word for word in scripts + named if not any((place / word).exists() for place in places)]
        assert not missing, f"`{' '.join(words)}`"


def test_the_commands_of_the_readme_are_found() -> None:
    """The search for commands sees those that the README stands on."""
    found = [" ".join(words) for words in commands("README.md")]
    for wanted in ("make demo", "make test", "tunesmith run my-job/finetunejob.yaml --dry-run", "make env"):
        assert wanted in found


# --- fields and reasons ----------------------------------------------------------------------------------------------

_FIELD = re.compile(r"^[a-z]\w*(\[\])?(\.[\w<>]+(\[\])?)+$")
_NO_FIELDS = (
    ".com",
    ".arrow",
    ".gguf",
    ".json",
    ".jsonl",
    ".md",
    ".png",
    ".py",
    ".safetensors",
    ".sh",
    ".toml",
    ".txt",
    ".yaml",
)
JOB_SCHEMA = custom_resource_definition()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]


@pytest.mark.parametrize("page", PAGES)
def test_every_field_exists(page: str) -> None:
    """A field that a page names with a dot, such as `ollama.model`, is one of the job, or a value of the chart."""
    roots = (JOB_SCHEMA, JOB_SCHEMA["properties"]["spec"], VALUES_SCHEMA)
    for name in spans(prose_of(page)):
        parts = re.sub(r"\[\w*\]", "", name).split(".")
        known = [root for root in roots if parts[0] in root["properties"]]
        if _FIELD.match(name) and not name.endswith(_NO_FIELDS) and known:
            assert any(has_field(root, parts) for root in known), f"`{name}`"


@pytest.mark.parametrize("page", [page for page in PAGES if first_columns(page, "value")])
def test_every_value_exists(page: str) -> None:
    """Each row of a table of values names values of the chart."""
    for cell in first_columns(page, "value"):
        assert spans(cell), cell
        for name in spans(cell):
            assert has_field(VALUES_SCHEMA, name.replace("[]", "").split(".")), f"`{name}`"


def has_field(schema: Any, parts: list[str]) -> bool:
    """Tell whether a JSON schema knows a field, by the names on the way to it; `<...>` and more stand for any key."""
    if "$ref" in schema:
        schema = VALUES_SCHEMA["definitions"][schema["$ref"].rpartition("/")[2]]
    if not parts:
        return True
    if "items" in schema:
        return has_field(schema["items"], parts)
    below = schema.get("properties", {})
    any_key = schema.get("additionalProperties")
    if parts[0].startswith("<"):
        return any(has_field(item, parts[1:]) for item in below.values())
    if parts[0] in below:
        return has_field(below[parts[0]], parts[1:])
    return has_field(any_key, parts[1:]) if isinstance(any_key, dict) else schema.get("type") == "object" and not below


def test_every_reason_is_explained() -> None:
    """Troubleshooting has a row for each reason of the table, and no other (tests/unit/reasons: the code's)."""
    explained = [name for cell in first_columns("docs/troubleshooting.md", "STATUS") for name in spans(cell)]
    assert sorted(explained) == sorted(REASONS)


@pytest.mark.parametrize(
    "reason",
    [
        "MissingColumn",
        "ServerNotAllowed",
        "Suspended",
        "ExecLost",
    ],
)
def test_reasons_are_found(reason: str) -> None:
    """The search for reasons sees the ways in which they are given."""
    assert reason in reasons_in_code()


def test_the_operators_errors_are_its_own() -> None:
    """What troubleshooting quotes of the operator's log is in its source."""
    sources = [*ROOT.glob("operator/tunesmith/**/*.py"), *ROOT.glob("charts/tunesmith/templates/*.tpl")]
    said = "\n".join(path.read_text(encoding="utf-8") for path in sources)
    cells = first_columns("docs/troubleshooting.md", "what is seen")
    quoted = [
        text for cell in cells for text in spans(cell) if " " in text and text.split()[0] not in {"helm", "error:"}
    ]
    assert len(quoted) > 5
    for text in quoted:
        if text != "invalid ownership metadata":  # Helm's
            assert re.sub(r": \d+$", "", text) in said, text


# --- links and words -------------------------------------------------------------------------------------------------


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    headings = _HEADING.findall(prose_of(page.relative_to(ROOT).as_posix()))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_somewhere(page: str) -> None:
    """Each link to a file or heading of this repository finds it."""
    for link in _LINK.findall(prose_of(page)):
        path, _, anchor = link.partition("#")
        if "://" in link:
            continue
        target = (PAGES[page].parent / path).resolve() if path else PAGES[page]
        assert target.exists(), f"{page} links to {link}"
        assert not anchor or anchor in anchors(target), f"{page} links to {link}"


@pytest.mark.parametrize(
    "choices", [Builtin, DatasetFormat, FinetuningType, Language, LrSchedule, Method, OutType, Precision]
)
def test_the_readme_names_every_choice(choices: type[Any]) -> None:
    """The README's table of what works today names every choice of the API, and so forgets none that is added."""
    table = text_of("README.md").partition("## What works today")[2].partition("\n## ")[0]
    left_out = {DatasetFormat.AUTO}  # not a format, but the wish to have it found out
    assert {choice for choice in choices if f"`{choice}`" not in table} <= left_out


@pytest.mark.parametrize("page", PAGES)
def test_generated_pages_say_so(page: str) -> None:
    """A page that is generated as a whole says so in its first line, so that nobody edits it."""
    generated = {"docs/api.md", "charts/tunesmith/README.md"}
    assert (page in generated) == text_of(page).startswith("<!-- Generated ")
