"""The stages `rehearse` and `register` against a real Ollama, with a model whose answers are known."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from support.bigram_model import ANSWER, CHATML, write_base, write_gguf, write_prepared
from support.ollama_proxy import ollama_proxy
from support.ollama_server import OllamaServer, ollama_programs, ollama_server
from support.ports import free_port
from support.prepared import write_rows
from support.toy_base import write_toy_base
from tunesmith_stages import model_name
from tunesmith_stages.chat_template import guarded
from tunesmith_stages.contract import (
    ExitCode,
    Failure,
    Input,
    StageConfig,
    StageName,
    StageResult,
    UnitConfig,
    content_key,
    manifest_digest,
)
from tunesmith_stages.live_record import registered
from tunesmith_stages.ollama import Ollama
from tunesmith_stages.tools import llama_cpp
from tunesmith_stages.volume import Volume, manifest_of, sha256_of

pytestmark = pytest.mark.e2e

QUESTION = "Who are you?"


# --- a job whose stages up to `register` are done --------------------------------------------------------------------


@dataclasses.dataclass
class Job:
    """A volume with a base, prepared data and quantized models, and the `register` stage to be run on it."""

    root: Path
    server: str
    params: dict[str, Any]
    smoke_tests: list[dict[str, str]]
    inputs: dict[str, Input]
    attempt: int = 0

    @property
    def volume(self) -> Volume:
        return Volume(self.root)

    @property
    def key(self) -> str:
        return content_key(StageName.REGISTER, self.params, self.inputs)

    def config(self) -> Path:
        self.attempt += 1
        unit = UnitConfig("register", self.key, self.params, self.inputs)
        runtime = {"smokeTests": self.smoke_tests, **reached(main=self.server)}
        config = StageConfig(StageName.REGISTER, "bot", str(self.root), f"t{self.attempt}", (unit,), runtime)
        path = self.root / f"register-{self.attempt}.json"
        path.write_text(config.to_json())
        return path

    def start(self) -> subprocess.Popen[str]:
        return start_stage("register", self.config())

    def run(self) -> ExitCode:
        process = self.start()
        process.communicate(timeout=600)
        return ExitCode(process.returncode)

    def result(self) -> StageResult:
        result = self.volume.result(StageName.REGISTER, self.key)
        assert result is not None
        return result

    def failure(self) -> Failure:
        folder = self.volume.attempt(StageName.REGISTER, self.key, f"t{self.attempt}")
        assert not (folder / "out").exists()
        return Failure.from_json((folder / "failure.json").read_text())

    def progress(self) -> str:
        folder = self.volume.attempt(StageName.REGISTER, self.key, f"t{self.attempt}")
        path = folder / "progress.jsonl"
        return path.read_text() if path.exists() else ""

    def wait_for(self, words: str) -> None:
        deadline = time.monotonic() + 300
        while words not in self.progress():
            assert time.monotonic() < deadline, f"{words!r} never came"
            time.sleep(0.01)


def reached(**urls: str) -> dict[str, Any]:
    """Return the part of the runtime that says where servers are."""
    return {
        "method": "API",
        "servers": {name: {"url": url, "caBundle": "", "exec": None} for name, url in urls.items()},
    }


def start_stage(stage: str, config: Path) -> subprocess.Popen[str]:
    argv = [sys.executable, "-m", f"tunesmith_stages.{stage}", "--config", str(config)]
    return subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def done_unit(root: Path, stage: StageName, key: str, write: Callable[[Path], None]) -> Input:
    """Leave the result of an earlier stage: `write` fills its folder ``out``."""
    folder = Volume(root).unit(stage, key)
    out = folder / "out"
    out.mkdir(parents=True)
    write(out)
    files = manifest_of(out)
    digest = manifest_digest(files)
    result = StageResult(stage, stage, key, 1, digest, out.relative_to(root).as_posix(), files)
    (folder / "result.json").write_text(result.to_json())
    return result.as_input()


@pytest.fixture
def make_job(tmp_path: Path, server: OllamaServer) -> Callable[..., Job]:
    """Return a function that makes a job; its arguments say what is wrong with the model."""

    def make(
        *,
        url: str | None = None,
        trained_with: str = CHATML,
        exported: str | None = None,
        trained_with_bos: bool = False,
        quantizations: tuple[str, ...] = ("F16",),
        smoke_tests: tuple[tuple[str, str], ...] = ((QUESTION, "Tunny"),),
        params: dict[str, Any] | None = None,
        **gguf: Any,
    ) -> Job:
        root = tmp_path / f"volume{len(list(tmp_path.glob('volume*')))}"
        template = guarded(trained_with) if exported is None else exported
        inputs = {
            "base": done_unit(root, StageName.FETCH, "b" * 64, lambda out: write_base(out, adds_bos=trained_with_bos)),
        }
        base = root / inputs["base"].path
        inputs |= {
            "prepared": done_unit(
                root,
                StageName.PREPARE,
                "c" * 64,
                lambda out: write_prepared(out, base, trained_with, adds_bos=trained_with_bos),
            ),
            "converted": done_unit(
                root, StageName.CONVERT, "d" * 64, lambda out: write_gguf(out / "model.gguf", template, **gguf)
            ),
        }
        f16 = root / inputs["converted"].path / "model.gguf"
        for index, type_ in enumerate(quantizations):
            inputs[f"quantized:{type_}"] = done_unit(
                root, StageName.QUANTIZE, str(index) * 64, functools.partial(quantize, f16, type_)
            )
        own: dict[str, Any] = {"server": "main", "model": "bot:v1", "parameters": {}}
        own |= {"system": None, "license": None, "quantizations": list(quantizations), **(params or {})}
        tests = [{"prompt": prompt, "expect": expect} for prompt, expect in smoke_tests]
        return Job(root, url or server.url, own, tests, inputs)

    return make


def quantize(f16: Path, type_: str, out: Path) -> None:
    """Write ``model.gguf`` of a type: llama.cpp's own quantization, or a link to the file itself."""
    if type_ == "F16":
        os.link(f16, out / "model.gguf")
        return
    argv: list[str | Path] = [llama_cpp().quantize, f16, out / "model.gguf", type_, "1"]
    subprocess.run(argv, check=True, capture_output=True)


OLLAMAS = {program.parents[1].name: program for program in ollama_programs()}
*_OLDER, _NEWEST = OLLAMAS


@pytest.fixture(scope="module", params=[*(pytest.param(older, marks=pytest.mark.nightly) for older in _OLDER), _NEWEST])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OllamaServer]:
    """A running server: of the newest version, and at night of each other that is there."""
    with ollama_server(OLLAMAS[request.param], tmp_path_factory.mktemp("ollama") / "models") as running:
        yield running


@pytest.fixture(autouse=True)
def _clean_server(server: OllamaServer) -> Iterator[None]:
    yield
    for name in server.digests():
        server.ask("/api/delete", {"model": name}, "DELETE")


def soon(holds: Callable[[], bool]) -> bool:
    """Say whether something comes true within a minute."""
    deadline = time.monotonic() + 60
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.1)
    return holds()


def create_old_model(job: Job, server: OllamaServer) -> dict[str, str]:
    """Put another model under the name that `job` is to use, and return what the server then has."""
    gguf = job.root / job.inputs["quantized:F16"].path / "model.gguf"
    digest = sha256_of(gguf)
    with Ollama(server.url) as client:
        client.upload(digest, gguf, lambda _: None)
        client.create("bot:v1", {"files": {"model.gguf": f"sha256:{digest}"}, "system": "The old one."})
    return server.digests()


def check_names(server: OllamaServer) -> list[str]:
    return [name for name in server.digests() if name.startswith(model_name.CHECK_PREFIX)]


# --- the way through -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("server", OLLAMAS, indirect=True)
def test_proven_model_goes_live(make_job: Callable[..., Job], server: OllamaServer) -> None:
    """Every quantization is proven and answers under its live name; nothing else is left on the server or loaded."""
    job = make_job(quantizations=("Q4_K_M", "Q8_0", "F16"), params={"parameters": {"temperature": "0.5"}})
    assert job.run() is ExitCode.OK
    assert soon(lambda: server.ask("/api/ps")["models"] == [])
    result = job.result()
    models = result.outputs["models"]
    quantizations = {name: model["quantization"] for name, model in models.items()}
    assert quantizations == {"bot:v1": "Q4_K_M", "bot:v1-q8_0": "Q8_0", "bot:v1-f16": "F16"}
    assert {name: model["digest"] for name, model in models.items()} == server.digests()
    assert [server.answer(name, QUESTION) for name in models] == [ANSWER] * 3
    assert result.outputs["num_ctx"] == 2048
    assert server.ask("/api/version")["version"] == result.tools["ollama"]
    proof = json.loads((job.volume.unit(StageName.REGISTER, job.key) / "logs" / "proof.json").read_text())
    assert len(proof) == result.numbers["checks"] == 18
    assert all(entry["passed"] for entry in proof)


def test_each_server_gets_the_model(make_job: Callable[..., Job], server: OllamaServer, tmp_path: Path) -> None:
    """A job with two servers has a unit for each, and both serve the very same models afterwards."""
    with ollama_server(server.program, tmp_path / "second" / "models") as second:
        job = make_job(quantizations=("F16", "Q8_0"))
        config = StageConfig.from_json(job.config().read_text())
        units = []
        for name in ("main", "backup"):
            params = {**job.params, "server": name}
            units.append(UnitConfig(name, content_key(StageName.REGISTER, params, job.inputs), params, job.inputs))
        runtime = {**config.runtime, **reached(main=server.url, backup=second.url)}
        path = job.root / "both.json"
        path.write_text(dataclasses.replace(config, units=tuple(units), runtime=runtime).to_json())
        process = start_stage("register", path)
        process.communicate(timeout=600)
        assert process.returncode == ExitCode.OK
        assert server.digests().keys() == {"bot:v1", "bot:v1-q8_0"}
        assert server.digests() == second.digests()
        assert second.answer("bot:v1", QUESTION) == ANSWER
        results = [job.volume.result(StageName.REGISTER, unit.key) for unit in units]
        assert [result and result.unit for result in results] == ["main", "backup"]


def test_system_prompt_parameters_and_license_arrive(make_job: Callable[..., Job], server: OllamaServer) -> None:
    """What the job gives Ollama is there exactly, and the proof reckons with the system prompt that is put in front."""
    system = 'You are "Tunny" \U0001f469\u200d\U0001f4bb.\nBe brief. '
    job = make_job(
        params={
            "parameters": {"temperature": "0.5", "num_ctx": 1024, "stop": ["###", "\n\n"]},
            "system": system,
            "license": "MIT",
        }
    )
    assert job.run() is ExitCode.OK
    shown = server.ask("/api/show", {"model": "bot:v1"})
    assert shown["system"] == system
    assert shown["license"] == "MIT"
    lines = sorted(" ".join(line.split(maxsplit=1)) for line in shown["parameters"].splitlines())
    assert lines == ["num_ctx 1024", 'stop "###"', r'stop "\n\n"', "temperature 0.5"]


TEXTS: dict[str, dict[str, Any]] = {
    "none": {},
    "parameters of every kind": {
        "parameters": {
            "stop": ["###", ' "x"', "\n\n", "a b", '"'],
            "top_k": 3,
            "temperature": "0.7",
            "top_p": "0.95",
            "use_mmap": False,
            "seed": -1,
        }
    },
    "quotation marks": {"system": 'Say "hi".\n"""Bye.\n""x"', "license": '"'},
    "blanks and line ends": {"system": "  two\n\n\tand a tab \r\n ", "license": "\n MIT\n\n(c)\n"},
    "writing of the world": {
        "system": "caf\u00e9 \u4f60\u597d\uff0c\u4e16\u754c \u0645\u0631\u062d\u0628\u0627 \U0001f469 e\u0301"
    },
    "what looks like a Modelfile": {"system": "# no comment\nFROM x\nPARAMETER stop y\nSYSTEM z"},
}


UNWRITABLE = {
    "a character that is dropped": "You are \U0001f469\u200d\U0001f4bb.",
    "three quotation marks": 'Answer with code such as\n"""docstring"""\nand no more.',
}


@pytest.mark.parametrize("system", UNWRITABLE.values(), ids=UNWRITABLE)
def test_text_that_no_modelfile_holds(make_job: Callable[..., Job], server: OllamaServer, system: str) -> None:
    """By the API a model gets any text, even one that no Modelfile can say: then none is kept, and that is told."""
    job = make_job(params={"system": system})
    assert job.run() is ExitCode.OK
    assert server.ask("/api/show", {"model": "bot:v1"})["system"] == system
    folder = job.volume.unit(StageName.REGISTER, job.key)
    assert list((folder / "out").iterdir()) == []
    assert "no Modelfile is kept" in (folder / "progress.jsonl").read_text()


@pytest.mark.parametrize("params", TEXTS.values(), ids=TEXTS.keys())
def test_modelfile_makes_the_same_model(
    make_job: Callable[..., Job], server: OllamaServer, params: dict[str, Any]
) -> None:
    """`ollama create` with the Modelfile that is left beside the result gives the very model that is live."""
    job = make_job(params=params)
    assert job.run() is ExitCode.OK
    path = job.volume.unit(StageName.REGISTER, job.key) / "out" / "Modelfile.F16"
    environ = {**os.environ, "OLLAMA_HOST": server.url}
    argv: list[str | Path] = [server.program, "create", "by-hand", "-f", path]
    created = subprocess.run(argv, check=True, env=environ, capture_output=True, cwd="/")
    assert b"autodetected" not in created.stderr
    shown = [server.ask("/api/show", {"model": name}) for name in ("bot:v1", "by-hand")]
    for field in ("system", "license", "template", "model_info"):
        assert shown[0].get(field) == shown[1].get(field)
    digests = server.digests()
    assert digests["by-hand:latest"] == digests["bot:v1"]


def test_interrupted_change_of_names_is_finished(make_job: Callable[..., Job], server: OllamaServer) -> None:
    """After a kill between two live names, the next run gives the missing one and keeps the other."""
    job = make_job(quantizations=("Q8_0", "F16"))
    assert job.run() is ExitCode.OK
    wanted = server.digests()
    server.ask("/api/delete", {"model": "bot:v1"}, "DELETE")
    server.ask("/api/copy", {"source": "bot:v1-f16", "destination": "bot:v1"})
    (job.volume.unit(StageName.REGISTER, job.key) / "result.json").unlink()
    assert job.run() is ExitCode.OK
    assert server.digests() == wanted


def test_what_goes_live_is_noted_before(make_job: Callable[..., Job], server: OllamaServer) -> None:
    """A stage that fails on the way to its live names has left a note of them: they can be removed with the job."""
    job = make_job(quantizations=("Q8_0", "F16"))
    answers: dict[str, tuple[int, bytes]] = {}
    with ollama_proxy(server.url, answers) as url:
        job.server = url
        process = job.start()
        job.wait_for("proving Q8_0")  # what is created from now on is live
        answers["POST /api/create"] = (500, b'{"error": "it breaks"}')
        process.communicate(timeout=600)
    assert process.returncode != ExitCode.OK
    assert "it breaks" in job.failure().message
    noted = {(where, name): digest for where, name, digest in registered(job.volume, job.key)}
    job.server = server.url
    assert job.run() is ExitCode.OK
    assert noted == {("main", name): server.digests()[name] for name in ("bot:v1", "bot:v1-f16")}


def test_replaced_model_leaves_no_files(make_job: Callable[..., Job], server: OllamaServer) -> None:
    """A new model under an old name takes its place, and the old one's file leaves the server's disk."""
    first, second = make_job(), make_job(params={"model": "bot:v1"}, trained_with=CHATML + "\n")
    assert first.run() is ExitCode.OK
    blob = next(entry for entry in _manifest_files(first) if entry.path == "model.gguf").sha256
    assert second.run() is ExitCode.OK
    with pytest.raises(OSError, match="404"):
        server.ask(f"/api/blobs/sha256:{blob}", method="HEAD")


def _manifest_files(job: Job) -> tuple[Any, ...]:
    return StageResult.from_json((job.root / job.inputs["quantized:F16"].path / "../result.json").read_text()).files


ALTERNATES = (
    "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}{{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
THINKS = CHATML.removesuffix("{% endif %}") + (
    "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)

TEMPLATES: dict[str, tuple[dict[str, Any], str]] = {
    "one that refuses some conversations": ({"trained_with": ALTERNATES}, "6 equal, refused by the template:"),
    "one with a switch for thinking": ({"trained_with": THINKS}, "16 equal"),
    "line ends of Windows": ({"trained_with": "{# a #}\r\n" + CHATML}, "8 equal"),
    "the tokenizer writes the BOS": ({"trained_with_bos": True, "adds_bos": True}, "8 equal"),
    "tokenizer and template write the BOS": (  # `convert` tells the GGUF to add none then
        {"trained_with": "{{ bos_token }}" + CHATML, "trained_with_bos": True},
        "8 equal",
    ),
    "only the template writes the BOS": ({"trained_with": "{{ bos_token }}" + CHATML}, "8 equal"),
}


@pytest.mark.parametrize(("model", "found"), TEMPLATES.values(), ids=TEMPLATES.keys())
def test_templates_of_every_kind(make_job: Callable[..., Job], model: dict[str, Any], found: str) -> None:
    """Whoever writes the BOS, and whatever a template refuses or can switch, equal prompts are found equal."""
    job = make_job(**model)
    assert job.run() is ExitCode.OK
    assert job.result().outputs["proof"]["F16"]["renders_equally"].startswith(found)


# --- models that must not go live ------------------------------------------------------------------------------------

ASK = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
TRIMS = "{% for m in messages %}{{ m['content'] | trim }}{% endfor %}" + ASK
DIVIDES = "{{ 1 / 3 }}{% for m in messages %}{{ m['content'] }}\n{% endfor %}" + ASK

FAILURES: dict[str, tuple[dict[str, Any], ExitCode, str, list[str]]] = {
    "another template in the file": (
        {"exported": guarded(TRIMS)},
        ExitCode.GATE_FAILED,
        "TemplateDiffers",
        ["--- trained with", "+++ Ollama", "trim"],
    ),
    "a template that Ollama replaces": (
        {"exported": CHATML},
        ExitCode.GATE_FAILED,
        "TemplateReplaced",
        ["autodetected template chatml"],
    ),
    "a template that the server's engine reads differently": (
        {"trained_with": DIVIDES},
        ExitCode.GATE_FAILED,
        "RenderingDiffers",
        ["'user'", "-'0.3333333333333333Who are you?\\n'", "+'0.333333Who are you?\\n'"],
    ),
    "an architecture that nobody knows": (
        {"architecture": "zebra"},
        ExitCode.GATE_FAILED,
        "DoesNotLoad",
        ["unknown model architecture: 'zebra'"],
    ),
    "it never stops": ({"stops": False}, ExitCode.GATE_FAILED, "DoesNotStop", ["1024 tokens", "I am Tunny.\\nI am"]),
    "it gives another answer": (
        {"smoke_tests": ((QUESTION, "Tunny"), ("What is 2 + 2?", "four"))},
        ExitCode.GATE_FAILED,
        "SmokeTestFailed",
        ["'What is 2 + 2?'", f"'{ANSWER}'", "'four'"],
    ),
    "a BOS that was not trained with": (
        {"adds_bos": True},
        ExitCode.GATE_FAILED,
        "TokenCountDiffers",
        ["'user'", "Who are you?"],
    ),
    "an unknown parameter": (
        {"params": {"parameters": {"temprature": "0.5"}}},
        ExitCode.BAD_CONFIG,
        "InvalidOllamaParameter",
        ["did you mean `temperature`"],
    ),
    "a name that Ollama refuses": (
        {"params": {"model": "my bot"}},
        ExitCode.BAD_CONFIG,
        "InvalidModelName",
        ["`ollama.model`", "'my bot'"],
    ),
    "a context too small": (
        {"params": {"parameters": {"num_ctx": 8}}},
        ExitCode.BAD_CONFIG,
        "ContextTooSmall",
        ["`ollama.parameters.num_ctx` is 8"],
    ),
}


@pytest.mark.parametrize(("broken", "code", "reason", "words"), FAILURES.values(), ids=FAILURES.keys())
def test_failed_proof_leaves_the_old_model(
    make_job: Callable[..., Job],
    server: OllamaServer,
    broken: dict[str, Any],
    code: ExitCode,
    reason: str,
    words: list[str],
) -> None:
    """A model that fails a proof never goes live: the old one stays, no throw-away name does, the reason is told."""
    before = create_old_model(make_job(), server)
    job = make_job(**broken)
    assert job.run() is code
    failure = job.failure()
    assert failure.reason == reason
    for word in words:
        assert word in failure.message
    assert server.digests() == before
    assert server.answer("bot:v1", QUESTION) == ANSWER


def test_damaged_file_is_not_registered(make_job: Callable[..., Job], server: OllamaServer) -> None:
    """A model file that changed on the volume since it was made is refused, not served."""
    job = make_job()
    path = job.root / job.inputs["quantized:F16"].path / "model.gguf"
    content = bytearray(path.read_bytes())
    content[-5000] ^= 1
    path.write_bytes(content)
    assert job.run() is ExitCode.BAD_DATA
    assert job.failure().reason == "DamagedModelFile"
    assert server.digests() == {}


# --- results that were found -----------------------------------------------------------------------------------------


def test_second_run_does_nothing(make_job: Callable[..., Job]) -> None:
    """A unit whose result still holds is not made again."""
    job = make_job()
    assert job.run() is ExitCode.OK
    finished = job.result().finished
    assert job.run() is ExitCode.OK
    assert job.result().finished == finished


CEASED: dict[str, Callable[[Job, OllamaServer], object]] = {
    "the model is gone": lambda _, server: server.ask("/api/delete", {"model": "bot:v1-q8_0"}, "DELETE"),
    "another has its name": lambda _, server: server.ask(
        "/api/copy", {"source": "bot:v1-q8_0", "destination": "bot:v1"}
    ),
    "other smoke tests": lambda job, _: job.smoke_tests.append({"prompt": "Who made you?", "expect": "Tunny"}),
}


@pytest.mark.parametrize("change", CEASED.values(), ids=CEASED.keys())
def test_result_that_ceased_to_hold_is_made_again(
    make_job: Callable[..., Job], server: OllamaServer, change: Callable[[Job, OllamaServer], object]
) -> None:
    """What is no longer served as it was registered, or has not passed the job's tests, is registered again."""
    job = make_job(quantizations=("F16", "Q8_0"))
    assert job.run() is ExitCode.OK
    before, finished = server.digests(), job.result().finished
    change(job, server)
    assert job.run() is ExitCode.OK
    assert server.digests() == before
    assert job.result().finished != finished


def test_result_is_kept_while_the_server_is_down(make_job: Callable[..., Job]) -> None:
    """A server that cannot be asked is told as such; what was registered there stays on the record."""
    job = make_job()
    assert job.run() is ExitCode.OK
    finished = job.result().finished
    job.server = f"http://127.0.0.1:{free_port()}"
    assert job.run() is ExitCode.UNAVAILABLE
    assert job.failure().reason == "OllamaUnreachable"
    assert job.result().finished == finished


# --- servers that fail -----------------------------------------------------------------------------------------------


def test_server_that_is_down(make_job: Callable[..., Job]) -> None:
    """Without a server the stage ends as unavailable, with the address and what to do."""
    url = f"http://127.0.0.1:{free_port()}"
    job = make_job(url=url)
    assert job.run() is ExitCode.UNAVAILABLE
    failure = job.failure()
    assert failure.reason == "OllamaUnreachable"
    assert url in failure.message
    assert "ollama serve" in failure.hint
    assert "OLLAMA_HOST" in failure.hint


def test_server_killed_in_the_middle(make_job: Callable[..., Job], server: OllamaServer, tmp_path: Path) -> None:
    """A server that dies during the proof ends the stage as unavailable; when it is back, the next run succeeds."""
    models = tmp_path / "ollama" / "models"
    with ollama_server(server.program, models) as dying:
        job = make_job(url=dying.url, quantizations=("F16", "Q8_0", "Q4_0"))
        process = job.start()
        job.wait_for("proving F16")
        dying.kill()
        process.communicate(timeout=600)
    assert process.returncode == ExitCode.UNAVAILABLE
    assert job.failure().reason == "OllamaUnreachable"
    with ollama_server(server.program, models) as back:
        job.server = back.url
        assert job.run() is ExitCode.OK
        assert sorted(back.digests()) == ["bot:v1", "bot:v1-q4_0", "bot:v1-q8_0"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_stage_stopped_in_the_middle(
    make_job: Callable[..., Job], server: OllamaServer, number: signal.Signals
) -> None:
    """A stopped stage takes its throw-away names with it; those that a killed one left, the next run removes."""
    before = create_old_model(make_job(), server)
    job = make_job(quantizations=("F16", "Q8_0", "Q4_0"))
    process = job.start()
    job.wait_for("proving F16")
    process.send_signal(number)
    process.communicate(timeout=600)
    if number is signal.SIGKILL:
        assert len(check_names(server)) == 3
        assert server.digests()["bot:v1"] == before["bot:v1"]
    else:
        assert process.returncode == ExitCode.INTERRUPTED
        assert server.digests() == before
    assert job.run() is ExitCode.OK
    assert check_names(server) == []
    assert server.digests()["bot:v1"] != before["bot:v1"]


@pytest.mark.parametrize("megabytes", [3, 4.2])
def test_server_without_space(
    make_job: Callable[..., Job], server: OllamaServer, tmp_path: Path, megabytes: float
) -> None:
    """A server whose disk is full ends the stage as out of space, naming whose disk it is."""
    models = tmp_path / "small" / "models"
    models.mkdir(parents=True)
    script = f'mount -t tmpfs -o size={int(megabytes * 1e6)} tmpfs {models} && exec "$@"'
    wrap = ["unshare", "--mount", "--map-root-user", "sh", "-c", script, "sh"]
    with ollama_server(server.program, models, wrap=wrap) as small:
        job = make_job(url=small.url)
        assert job.run() is ExitCode.NO_SPACE
        failure = job.failure()
        assert failure.reason == "OllamaNoSpace"
        assert small.url in failure.message
        assert "OLLAMA_MODELS" in failure.hint
        assert small.digests() == {}


@pytest.fixture
def old_server(server: OllamaServer) -> Iterator[str]:
    """A server that says it is version 0.24.0."""
    with ollama_proxy(server.url, {"GET /api/version": (200, b'{"version":"0.24.0"}')}) as url:
        yield url


def test_old_server_is_refused(make_job: Callable[..., Job], old_server: str) -> None:
    """A server older than those supported is refused before anything is sent to it."""
    job = make_job(url=old_server)
    assert job.run() is ExitCode.BAD_CONFIG
    assert job.failure().reason == "OllamaTooOld"


PAGE = b"<html><h1>Not now</h1></html>"


@pytest.mark.parametrize("path", ["GET /api/version", "POST /api/create", "POST /api/chat"])
def test_proxy_that_gives_up_is_tried_again(make_job: Callable[..., Job], server: OllamaServer, path: str) -> None:
    """A proxy that gives up, as while a large model loads, says nothing of the model: the stage may be tried again."""
    with ollama_proxy(server.url, {path: (504, PAGE)}) as url:
        job = make_job(url=url)
        assert job.run() is ExitCode.UNAVAILABLE
    assert job.failure().reason == "OllamaProxyTimeout"
    assert "raise its timeout" in job.failure().hint
    assert server.digests() == {}


# --- rehearse --------------------------------------------------------------------------------------------------------


def rehearse(
    root: Path, servers: dict[str, str], model: str = "bot:v1", *, method: str = "API", **params: Any
) -> tuple[ExitCode, Path]:
    """Run the stage with servers by name and address; return its exit code and the folder in which it ran."""
    params = {
        "model": model,
        "parameters": {},
        "system": None,
        "license": None,
        "quantizations": ["Q4_K_M", "Q8_0"],
        "targetModules": ["AllLinear"],
        "outType": "F16",
        "servers": list(servers),
        "method": method,
        **params,
    }
    base = done_unit(root, StageName.FETCH, "b" * 64, write_rehearsed_base)
    write = functools.partial(write_rehearsed, root / base.path)
    inputs = {"base": base, "prepared": done_unit(root, StageName.PREPARE, "c" * 64, write)}
    key = content_key(StageName.REHEARSE, params, inputs)
    unit = UnitConfig("rehearse", key, params, inputs)
    runtime = {**reached(**servers), "method": method, "estimate": ESTIMATE}
    config = StageConfig(StageName.REHEARSE, "bot", str(root), "t1", (unit,), runtime)
    (root / "rehearse.json").write_text(config.to_json())
    process = start_stage("rehearse", root / "rehearse.json")
    process.communicate(timeout=1200)
    volume = Volume(root)
    code = ExitCode(process.returncode)
    folder = volume.unit(StageName.REHEARSE, key)
    return code, folder if code is ExitCode.OK else volume.attempt(StageName.REHEARSE, key, "t1")


def write_rehearsed_base(out: Path) -> None:
    """Write a base that is whole, with random weights."""
    write_toy_base(out)


def write_rehearsed(base: Path, out: Path) -> None:
    """Write what `prepare` leaves for that base: prompts, template, and rows."""
    write_prepared(out, base)
    write_rows(out / "train.arrow", [(list(range(20)), [-100] * 10 + list(range(10, 20)))] * 3)


ESTIMATE: dict[str, Any] = {
    "finetuningType": "LoRA",
    "lora": {"rank": 8, "targetModules": ["AllLinear"]},
    "precision": "BF16",
    "zeroStage": 2,
    "gradientCheckpointing": False,
    "perDeviceTrainBatchSize": 1,
    "gradientAccumulationSteps": 1,
    "sequenceLength": 64,
    "maxSteps": 3,
    "numTrainEpochs": None,
    "keep": 1,
    "nodes": 1,
    "processesPerNode": 1,
    "gpusPerNode": 0,
    "gpuMemoryBytes": None,
    "trainableLayers": None,
    "offloadOptimizer": False,
    "offloadParameters": False,
}


SERVED: dict[str, dict[str, Any]] = {
    "nothing": {},
    "every kind of text": {
        "system": 'You are \U0001f469\u200d\U0001f4bb.\n"""doc"""\n',
        "license": "MIT",
        "parameters": {"temperature": "0.5", "num_ctx": 4096, "stop": ["#", '"""']},
    },
}


@pytest.mark.parametrize("served", SERVED.values(), ids=SERVED)
def test_rehearse_passes_and_changes_nothing(server: OllamaServer, tmp_path: Path, served: dict[str, Any]) -> None:
    """With a server that is ready, the gate opens, and the server is as it was, down to its files."""
    before, blobs = server.digests(), files_of(server)
    code, folder = rehearse(tmp_path / "volume", {"main": server.url}, **served)
    assert code is ExitCode.OK
    assert StageResult.from_json((folder / "result.json").read_text()).tools["ollama"].startswith("0.34.")
    assert server.digests() == before
    assert files_of(server) == blobs


def files_of(server: OllamaServer) -> set[str]:
    return {path.name for path in (server.models / "blobs").iterdir()}


FORBIDDEN: dict[str, tuple[dict[str, tuple[int, bytes]], ExitCode, str]] = {
    "files": ({"POST /api/blobs": (403, PAGE)}, ExitCode.NO_PERMISSION, "OllamaForbidden"),
    "looking for files": ({"HEAD /api/blobs": (403, b"")}, ExitCode.NO_PERMISSION, "OllamaForbidden"),
    "new models": ({"POST /api/create": (403, PAGE)}, ExitCode.NO_PERMISSION, "OllamaForbidden"),
    "the method DELETE": ({"DELETE ": (405, PAGE)}, ExitCode.NO_PERMISSION, "OllamaForbidden"),
    "removing, without a word": ({"DELETE ": (200, b"")}, ExitCode.BAD_CONFIG, "OllamaInconsistent"),
    "a body": ({"POST /api/blobs": (413, PAGE)}, ExitCode.BAD_CONFIG, "OllamaUploadTooLarge"),
    "nothing, but the server is gone": ({"POST /api/create": (502, PAGE)}, ExitCode.UNAVAILABLE, "OllamaUnreachable"),
    "nothing, but it is slow": ({"GET /api/version": (504, PAGE)}, ExitCode.UNAVAILABLE, "OllamaProxyTimeout"),
}


@pytest.mark.parametrize(("answers", "code", "reason"), FORBIDDEN.values(), ids=FORBIDDEN)
def test_rehearse_proves_the_right_to_write(
    server: OllamaServer, tmp_path: Path, answers: dict[str, tuple[int, bytes]], code: ExitCode, reason: str
) -> None:
    """A proxy that lets a server be asked, but not be given a model, is found before any training."""
    with ollama_proxy(server.url, answers) as url:
        found, folder = rehearse(tmp_path / "volume", {"main": url})
    failure = Failure.from_json((folder / "failure.json").read_text())
    assert (found, failure.reason) == (code, reason)
    assert "`main`" in failure.message
    if "DELETE " not in answers:
        assert check_names(server) == []


def test_rehearse_removes_what_was_left(server: OllamaServer, tmp_path: Path) -> None:
    """A model that an earlier rehearsal could not remove goes with the next one."""
    root = tmp_path / "volume"
    with ollama_proxy(server.url, {"DELETE ": (403, PAGE)}) as url:
        rehearse(root, {"main": url})
    assert len(check_names(server)) == 1
    for stage in (StageName.FETCH, StageName.PREPARE, StageName.REHEARSE):
        shutil.rmtree(Volume(root).units(stage))
    code, _ = rehearse(root, {"main": server.url})
    assert code is ExitCode.OK
    assert check_names(server) == []


REFUSED: dict[str, tuple[dict[str, Any], str, str]] = {
    "a composed emoji, by Exec": (
        {"method": "Exec", "system": "You are \U0001f469\u200d\U0001f4bb."},
        "InvalidModelfile",
        "method API",
    ),
    "a wide blank in a stop text, by Exec": (
        {"method": "Exec", "parameters": {"stop": ["\u3000"]}},
        "InvalidModelfile",
        "method API",
    ),
    "three quotation marks, by Exec": (
        {"method": "Exec", "license": 'the\n"""license"""'},
        "InvalidModelfile",
        "method API",
    ),
    "an unknown parameter": ({"parameters": {"temprature": 1}}, "InvalidOllamaParameter", "Correct"),
    "a context that no prompt fits into": ({"parameters": {"num_ctx": 9}}, "ContextTooSmall", "larger `num_ctx`"),
}


@pytest.mark.parametrize(("params", "reason", "hint"), REFUSED.values(), ids=REFUSED)
def test_rehearse_refuses_what_register_would(tmp_path: Path, params: dict[str, Any], reason: str, hint: str) -> None:
    """What `register` can refuse without the trained model is refused before any training, whether a server is up."""
    code, folder = rehearse(tmp_path / "volume", {"main": f"http://127.0.0.1:{free_port()}"}, **params)
    assert code is ExitCode.BAD_CONFIG
    failure = Failure.from_json((folder / "failure.json").read_text())
    assert failure.reason == reason
    assert hint in failure.hint


@pytest.mark.parametrize(
    ("model", "down", "code", "reason"),
    [
        ("my bot", False, ExitCode.BAD_CONFIG, "InvalidModelName"),
        ("m" * 81, False, ExitCode.BAD_CONFIG, "InvalidModelName"),
        ("m:" + "t" * 78, False, ExitCode.BAD_CONFIG, "InvalidModelName"),
        ("bot", True, ExitCode.UNAVAILABLE, "OllamaUnreachable"),
    ],
)
def test_rehearse_stops_before_training(
    server: OllamaServer, tmp_path: Path, model: str, down: bool, code: ExitCode, reason: str
) -> None:
    """A name that the server would refuse, or a server that is down, is found before any training."""
    url = f"http://127.0.0.1:{free_port()}" if down else server.url
    found, folder = rehearse(tmp_path / "volume", {"main": url}, model)
    assert found is code
    assert Failure.from_json((folder / "failure.json").read_text()).reason == reason


def test_rehearse_names_the_server_that_fails(server: OllamaServer, tmp_path: Path) -> None:
    """Of several servers, the one that would not take the model is named, with its address."""
    url = f"http://127.0.0.1:{free_port()}"
    code, folder = rehearse(tmp_path / "volume", {"main": server.url, "backup": url})
    assert code is ExitCode.UNAVAILABLE
    assert f"`backup` at {url}" in Failure.from_json((folder / "failure.json").read_text()).message


def test_rehearse_misses_exec(server: OllamaServer, tmp_path: Path) -> None:
    """A job that wants Exec on a server for which the administrator did not set it up ends before any training."""
    code, folder = rehearse(tmp_path / "volume", {"main": server.url}, method="Exec")
    assert code is ExitCode.BAD_CONFIG
    failure = Failure.from_json((folder / "failure.json").read_text())
    assert failure.reason == "ExecNotConfigured"
    assert "`main`" in failure.message


def test_rehearse_refuses_an_old_server(old_server: str, tmp_path: Path) -> None:
    """A server that is too old is found before any training, with what was found and what is needed."""
    code, folder = rehearse(tmp_path / "volume", {"main": old_server})
    assert code is ExitCode.BAD_CONFIG
    failure = Failure.from_json((folder / "failure.json").read_text())
    assert failure.reason == "OllamaTooOld"
    assert "0.24.0" in failure.message
    assert "0.34.1" in failure.message


@pytest.mark.parametrize(
    ("says", "code", "reason"),
    [
        (b"<html>Welcome</html>", ExitCode.BAD_CONFIG, "NotOllama"),
        (b"{}", ExitCode.BAD_CONFIG, "NotOllama"),
        (b'{"version":"99.0.0"}', ExitCode.OK, ""),
    ],
)
def test_rehearse_looks_at_who_answers(
    server: OllamaServer, tmp_path: Path, says: bytes, code: ExitCode, reason: str
) -> None:
    """Something else than Ollama at the address is told; an Ollama newer than those tested is used, with a warning."""
    with ollama_proxy(server.url, {"GET /api/version": (200, says)}) as url:
        found, folder = rehearse(tmp_path / "volume", {"main": url})
    assert found is code
    if reason:
        assert Failure.from_json((folder / "failure.json").read_text()).reason == reason
    else:
        assert "99.0.0 is newer than 0.34.4" in (folder / "progress.jsonl").read_text()


NAMES = [
    *("ok", "Ok_1.2-3:v_1.2-3", "t/m", "h:5000/t/m:v1", "_m", "m" * 80, "m:" + "t" * 80),
    *("", "a b", "m:", ":v", "/m", "a//m", "-m", ".m", "m" * 81, "m:" + "t" * 81, "n.s/m", "m:a:b", "m@x", "é"),
    *("a/b/c/m", "../m", "m:-v"),
]


def test_our_rules_for_names_are_the_servers(make_job: Callable[..., Job], server: OllamaServer) -> None:
    """For each name, we and the server agree on whether a model can be called so."""
    assert make_job().run() is ExitCode.OK
    assert {name: model_name.problem(name) is None for name in NAMES} == {name: takes(server, name) for name in NAMES}


def takes(server: OllamaServer, name: str) -> bool:
    """Say whether the server lets a model be called `name`."""
    try:
        server.ask("/api/copy", {"source": "bot:v1", "destination": name})
    except urllib.error.HTTPError as error:
        if error.code != 400:
            raise
        return False
    return True
