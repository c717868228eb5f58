"""What is remembered of a rehearsal, and what makes it void."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from support.builders import stage_config
from tunesmith_stages.contract import Input, StageName
from tunesmith_stages.program import Work
from tunesmith_stages.progress import Progress
from tunesmith_stages.rehearse import passed_before
from tunesmith_stages.rehearse.report import Check
from tunesmith_stages.volume import Volume

PARAMS: dict[str, Any] = {
    "parameters": {},
    "system": None,
    "license": None,
    "outType": "F16",
    "quantizations": ["Q8_0"],
}
RUNTIME = {
    "method": "API",
    "servers": {"main": {"url": "http://127.0.0.1:1", "caBundle": "", "exec": None}},
    "estimate": {"lora": {"targetModules": ["q_proj"]}, "gradientCheckpointing": False},
}
CHECKS = [Check("convert", True, "llama"), Check("quantize", True, "Q8_0")]


@pytest.fixture(autouse=True)
def llama(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the file that says which llama.cpp there is."""
    folder = tmp_path_factory.mktemp("llama.cpp")
    monkeypatch.setenv("TUNESMITH_LLAMA_CPP", str(folder))
    (folder / "VERSION").write_text("1.0\n")
    return folder / "VERSION"


def prepared(root: Path, **messages: Any) -> None:
    """Write what `prepare` leaves of a template, the tokens and a prompt."""
    folder = root / "prepared"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    (folder / "tokens.json").write_text("{}")
    message = {"role": "user", "content": "Who are you?", **messages}
    (folder / "probes.json").write_text(json.dumps({"prompts": [{"messages": [message], "ids": [1, 2]}]}))


def work_of(root: Path, params: dict[str, Any] | None = None, runtime: dict[str, Any] | None = None) -> Work:
    inputs = {"base": Input("base", "b" * 64), "prepared": Input("prepared", "c" * 64)}
    if not (root / "prepared").is_dir():
        prepared(root)
    config = stage_config(
        root,
        StageName.REHEARSE,
        params={**PARAMS, **(params or {})},
        inputs=inputs,
        runtime={**RUNTIME, **(runtime or {})},
    )
    folder = root / "attempt"
    folder.mkdir(parents=True, exist_ok=True)
    (root / "stages" / "rehearse").mkdir(parents=True, exist_ok=True)
    return Work(config, config.units[0], Volume(root), folder, Progress(StageName.REHEARSE, "rehearse", folder))


def of_another_template(root: Path) -> Work:
    (root / "prepared" / "chat_template.jinja").write_text("{{ messages[0] }}")
    return work_of(root)


def of_other_messages(root: Path) -> Work:
    prepared(root, tool_calls=[])
    return work_of(root)


CHANGED: dict[str, Callable[[Path], Work]] = {
    "the file's type": lambda root: work_of(root, {"outType": "BF16"}),
    "the quantizations": lambda root: work_of(root, {"quantizations": ["Q4_0"]}),
    "the modules": lambda root: work_of(
        root, runtime={"estimate": {"lora": {"targetModules": ["AllLinear"]}, "gradientCheckpointing": False}}
    ),
    "no adapter": lambda root: work_of(root, runtime={"estimate": {"lora": None, "gradientCheckpointing": False}}),
    "checkpointing": lambda root: work_of(
        root, runtime={"estimate": {"lora": {"targetModules": ["q_proj"]}, "gradientCheckpointing": True}}
    ),
    "the template": of_another_template,
    "DoRA": lambda root: work_of(
        root,
        runtime={"estimate": {"lora": {"targetModules": ["q_proj"], "useDora": True}, "gradientCheckpointing": False}},
    ),
    "messages of another kind": of_other_messages,
}


def test_what_has_passed_is_found_again(tmp_path: Path) -> None:
    """With the same facts the checks are known, and when they passed."""
    work = work_of(tmp_path)
    assert passed_before.look_up(work.volume, passed_before.of_the_way_out(work)) is None
    passed_before.remember(work, passed_before.of_the_way_out(work), CHECKS)
    prepared(tmp_path, content="Another question?")
    found = passed_before.look_up(work.volume, passed_before.of_the_way_out(work_of(tmp_path)))
    assert found is not None
    assert list(found.checks) == CHECKS
    assert found.when.startswith("20")


@pytest.mark.parametrize("change", CHANGED.values(), ids=CHANGED)
def test_change_makes_it_void(tmp_path: Path, change: Callable[[Path], Work]) -> None:
    """If anything that the twin's way depends on is otherwise, it goes it again."""
    work = work_of(tmp_path)
    passed_before.remember(work, passed_before.of_the_way_out(work), CHECKS)
    assert passed_before.look_up(work.volume, passed_before.of_the_way_out(change(tmp_path))) is None


def test_another_tool_makes_it_void(tmp_path: Path, llama: Path) -> None:
    """A newer llama.cpp may do otherwise."""
    work = work_of(tmp_path)
    passed_before.remember(work, passed_before.of_the_way_out(work), CHECKS)
    llama.write_text("1.1\n")
    assert passed_before.look_up(work.volume, passed_before.of_the_way_out(work)) is None


def test_programs_and_their_libraries_count(tmp_path: Path) -> None:
    """The stage programs themselves and what makes a model in them are among the facts."""
    facts = passed_before.of_the_way_out(work_of(tmp_path))
    assert facts["tools"]["torch"] == importlib.metadata.version("torch")
    assert re.fullmatch("[0-9a-f]{64}", facts["programs"])


SERVED: dict[str, dict[str, Any]] = {
    "another version": {"version": "0.34.5"},
    "another address": {"url": "http://127.0.0.1:2"},
    "another name": {"name": "second"},
    "another system text": {"params": {"system": "Be brief."}},
    "another context": {"params": {"parameters": {"num_ctx": 4096}}},
    "another way out": {"way": {"what": "another"}},
}


def of_a_server(
    root: Path,
    name: str = "main",
    url: str = "http://127.0.0.1:1",
    version: str = "0.34.4",
    way: dict[str, Any] | None = None,
    params: dict[str, Any] | None = None,
) -> dict[str, Any]:
    work = work_of(root, params, {"servers": {name: {"url": url, "caBundle": "", "exec": None}}})
    return passed_before.of_a_server(work, name, version, way or {"what": "way out"})


@pytest.mark.parametrize("change", SERVED.values(), ids=SERVED)
def test_another_server_is_another_proof(tmp_path: Path, change: dict[str, Any]) -> None:
    """What one server made of the twin says nothing of another, nor of the same with another version or text."""
    work = work_of(tmp_path)
    passed_before.remember(work, of_a_server(tmp_path), CHECKS[:1])
    assert passed_before.look_up(work.volume, of_a_server(tmp_path)) is not None
    assert passed_before.look_up(work.volume, of_a_server(tmp_path, **change)) is None


def test_other_prompts_are_another_proof(tmp_path: Path) -> None:
    """A server is asked for prompts of the data: that it reads some as training does says nothing of others."""
    work = work_of(tmp_path)
    passed_before.remember(work, of_a_server(tmp_path), CHECKS[:1])
    prepared(tmp_path, content="Where is the cafe\u0301?")
    assert passed_before.look_up(work.volume, of_a_server(tmp_path)) is None


def test_weights_are_remembered_by_what_is_in_them(tmp_path: Path) -> None:
    """The numbers of a base are read once, whatever the job; those of another base are another's."""
    work = work_of(tmp_path)
    passed_before.remember(work, passed_before.of_the_weights(work), CHECKS)
    other = work_of(tmp_path, {"outType": "Q8_0", "system": "Be brief."})
    assert passed_before.look_up(other.volume, passed_before.of_the_weights(other)) is not None
    inputs = {**work.unit.inputs, "base": Input("base", "d" * 64)}
    of_another = dataclasses.replace(work, unit=dataclasses.replace(work.unit, inputs=inputs))
    assert passed_before.look_up(work.volume, passed_before.of_the_weights(of_another)) is None


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"checks": [1], "when": "", "facts": {}}'])
def test_damaged_memory_is_none(tmp_path: Path, content: str) -> None:
    """A file that is not what was written counts for nothing."""
    work = work_of(tmp_path)
    facts = passed_before.of_the_weights(work)
    passed_before.remember(work, facts, CHECKS)
    (file,) = (tmp_path / "stages" / "rehearse").glob("*.passed.json")
    file.write_text(content)
    assert passed_before.look_up(work.volume, facts) is None
