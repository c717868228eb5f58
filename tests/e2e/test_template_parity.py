"""Each chat template that comes with Tunesmith, as transformers, llama.cpp and Ollama render it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from support.family_model import CALL, WEATHER, write_family_base, write_family_gguf
from support.ollama_server import OllamaServer, ollama_programs, ollama_server
from support.templates import DATED, WITH_BLOCKS
from tunesmith_stages.chat_template import guarded
from tunesmith_stages.llama_server import LlamaServer, llama_server
from tunesmith_stages.ollama import Ollama
from tunesmith_stages.prepare.encoder import Encoder
from tunesmith_stages.prepare.named_templates import NAMED
from tunesmith_stages.program import StageError
from tunesmith_stages.register.proof import Subject, renders_equally
from tunesmith_stages.register.reference import Reference
from tunesmith_stages.register.shapes import SHAPES
from tunesmith_stages.tools import llama_cpp
from tunesmith_stages.volume import sha256_of

pytestmark = pytest.mark.e2e

Messages = Sequence[Mapping[str, Any]]

ASKED: Mapping[str, Any] = {"role": "user", "content": "How is the weather?"}
CALLED: list[Mapping[str, Any]] = [
    ASKED,
    {"role": "assistant", "content": "", "tool_calls": [CALL]},
    {"role": "tool", "content": '{"sun": true}', "tool_call_id": "abcdefghi", "name": "weather"},
]
WITH_TOOLS: Mapping[str, Messages] = {
    "functions": [ASKED],
    "functions and system": [{"role": "system", "content": "Be kind."}, ASKED],
    "a result": CALLED,
    "after a result": [*CALLED, {"role": "assistant", "content": "Sunny."}, {"role": "user", "content": "Sure?"}],
}
MORE_SHAPES: Mapping[str, Messages] = {
    **SHAPES,
    "system in the middle": [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello"},
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "Who?"},
    ],
}
HARD_TEXT = "Say \"it's\" {{ok}} %} \\n \\' \r\n\t你好 é."


@dataclass(frozen=True)
class Served:
    """A template in the file of a toy model of its family."""

    encoder: Encoder
    gguf: Path

    def prompt(self, messages: Messages, tools: Sequence[Any] | None = None) -> str | None:
        """Return what transformers renders, as llama.cpp shows it; None if the template refuses the messages."""
        tokenizer = self.encoder.base.tokenizer
        try:
            text: str = tokenizer.apply_chat_template(
                list(messages),
                tools=tools,
                chat_template=self.encoder.template,
                tokenize=False,
                add_generation_prompt=True,
            )
        except Exception as error:
            if "this template" not in str(error):
                raise
            return None
        return text.removeprefix(tokenizer.bos_token) if self.encoder.tokens()["addsBos"] else text

    def ids(self, text: str) -> list[int]:
        return self.encoder._labeller.encode_prompt(text)


CASES: dict[str, tuple[str, Mapping[str, Any], bool]] = {
    **{name: (name, {"name": name}, False) for name in NAMED},
    **{f"{name}, BOS by the tokenizer": (name, {"name": name}, True) for name in ("llama3", "mistral", "vicuna")},
    **{f"{name}, system": (name, {"name": name, "defaultSystem": HARD_TEXT}, False) for name in ("default", "gemma")},
    **{f"{name}, system": (name, {"name": name, "defaultSystem": HARD_TEXT}, False) for name in ("qwen", "llama3")},
    **{f"qwen, thinking {on}": ("qwen", {"name": "qwen", "enableThinking": on}, False) for on in (True, False)},
    "the date": ("chatml", {"jinja": DATED}, False),
    "blocks of what is learnt": ("chatml", {"jinja": WITH_BLOCKS, "defaultSystem": HARD_TEXT}, False),
}


@pytest.fixture(scope="module", params=CASES)
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Served:
    family, chat_template, adds_bos = CASES[request.param]
    folder = tmp_path_factory.mktemp("family")
    base = write_family_base(folder / "base", family, adds_bos=adds_bos)
    encoder = Encoder(base, chat_template)
    return Served(encoder, write_family_gguf(folder / "model.gguf", base, guarded(encoder.template)))


def rendered_by(server: LlamaServer, messages: Messages, tools: Sequence[Any] | None) -> str | None:
    """Return what llama-server renders; None if the template refuses the messages."""
    wire = json.loads(json.dumps(messages))
    for message in wire:
        for call in message.get("tool_calls", ()):  # as OpenAI's clients send them
            call["function"]["arguments"] = json.dumps(call["function"]["arguments"], ensure_ascii=False)
    try:
        return str(server._ask("/apply-template", {"messages": wire, **({"tools": tools} if tools else {})})["prompt"])
    except StageError as error:
        if "this template" not in error.message:
            raise
        return None


def test_llama_cpp_renders_and_counts_the_same(served: Served, tmp_path: Path) -> None:
    """llama.cpp makes the text and the tokens of each shape of conversation that training makes, or refuses, too."""
    knows_tools = "tools" in served.encoder._renderer._template.variables
    equal = []
    with llama_server(llama_cpp(), served.gguf, tmp_path / "log", context=512) as server:
        for shape, messages in {**MORE_SHAPES, **(WITH_TOOLS if knows_tools else {})}.items():
            tools = [WEATHER] if shape in WITH_TOOLS else None
            expected = served.prompt(messages, tools)
            assert rendered_by(server, messages, tools) == expected, shape
            if expected is not None:
                assert server.tokenize(expected, add_special=True) == served.ids(expected), shape
                equal.append(shape)
    assert {*SHAPES} <= {*equal}
    assert not knows_tools or {*WITH_TOOLS} <= {*equal}


def test_ollama_renders_and_counts_the_same(served: Served, newest_ollama: OllamaServer) -> None:
    """Ollama keeps the template as it is, and each shape of conversation comes to the text and tokens of training."""
    digest = sha256_of(served.gguf)
    with Ollama(newest_ollama.url) as server:
        server.upload(digest, served.gguf, lambda _: None)
        statuses = server.create(
            "family", {"files": {"model.gguf": f"sha256:{digest}"}, "parameters": {"num_ctx": 512}}
        )
        try:
            assert not [status for status in statuses if "autodetected" in status]
            assert server.show("family")["template"] == guarded(served.encoder.template)
            modes = (False, True) if "thinking" in server.show("family")["capabilities"] else (None,)
            for shape, messages in SHAPES.items():
                expected = served.prompt(messages)
                assert expected is not None
                for think in modes:
                    assert server.rendered("family", messages, think=think) == expected, (shape, think)
                counted = server.chat("family", messages, limit=1).prompt_tokens
                assert counted == len(served.ids(expected)), shape
        finally:
            server.unload("family")
            server.delete("family")


def test_a_server_whose_day_is_another_one(tmp_path: Path) -> None:
    """A template that writes the date writes the server's: in another time zone that may be yesterday or tomorrow."""
    base = write_family_base(tmp_path / "base", "chatml")
    encoder = Encoder(base, {"jinja": DATED})
    gguf = write_family_gguf(tmp_path / "model.gguf", base, guarded(encoder.template))
    prepared = tmp_path / "prepared"
    prepared.mkdir()
    (prepared / "chat_template.jinja").write_text(encoder.template, newline="")
    (prepared / "tokens.json").write_text(json.dumps(encoder.tokens()))
    (prepared / "probes.json").write_text(json.dumps({"prompts": []}))
    zone = "Etc/GMT+12" if datetime.now(UTC).hour < 12 else "Etc/GMT-14"  # so many hours behind UTC, or ahead
    digest = sha256_of(gguf)
    there = ollama_server(ollama_programs()[-1], tmp_path / "models", wrap=["env", f"TZ={zone}"])
    with there as running, Ollama(running.url) as server:
        server.upload(digest, gguf, lambda _: None)
        server.create("dated", {"files": {"model.gguf": f"sha256:{digest}"}, "parameters": {"num_ctx": 512}})
        subject = Subject(
            server=server,
            name="dated",
            quantization="F16",
            reference=Reference(base, prepared),
            system=None,
            num_ctx=512,
            probes=(),
            smoke_tests=(),
            thinking=False,
        )
        assert datetime.now(UTC).strftime("%d %b %Y") not in server.rendered("dated", [ASKED], think=None)
        assert "equal" in renders_equally(subject)
