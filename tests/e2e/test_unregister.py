"""The program that removes a deleted FineTuneJob's models, against a real Ollama."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from support.bigram_model import CHATML, write_gguf
from support.ollama_proxy import ollama_proxy
from support.ollama_server import OllamaServer, ollama_programs, ollama_server
from support.ports import free_port
from tunesmith_stages import model_name
from tunesmith_stages.chat_template import guarded
from tunesmith_stages.contract import ExitCode, Report, StageConfig, StageName, StageResult, manifest_digest
from tunesmith_stages.live_record import note_live
from tunesmith_stages.ollama import Ollama
from tunesmith_stages.volume import Volume, sha256_of

pytestmark = pytest.mark.e2e

KEY = "a" * 64
NAMES = ("bot:v1", "bot:v1-q8_0")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OllamaServer]:
    """Yield a running server with the file of a model."""
    folder = tmp_path_factory.mktemp("ollama")
    with ollama_server(ollama_programs()[-1], folder / "models") as running:
        write_gguf(folder / "model.gguf", guarded(CHATML))
        with Ollama(running.url) as client:
            client.upload(sha256_of(folder / "model.gguf"), folder / "model.gguf", lambda _bytes: None)
        (folder / "models" / "digest").write_text(sha256_of(folder / "model.gguf"))
        yield running


@pytest.fixture
def volume(tmp_path: Path) -> Volume:
    """Return a volume on which `register` has worked."""
    made = Volume(tmp_path / "volume")
    made.units(StageName.REGISTER).mkdir(parents=True)
    made.identity()
    return made


def serve(server: OllamaServer, *names: str, num_ctx: int = 64) -> dict[str, str]:
    """Create models; return their digests by name. Another `num_ctx` makes another model."""
    blob = (server.models / "digest").read_text()
    with Ollama(server.url) as client:
        for name in names:
            client.create(name, {"files": {"model.gguf": f"sha256:{blob}"}, "parameters": {"num_ctx": num_ctx}})
    return {name: digest for name, digest in server.digests().items() if name in names}


def note(volume: Volume, digests: Mapping[str, str], attempt: str = "") -> None:
    folder = volume.attempt(StageName.REGISTER, KEY, attempt) if attempt else volume.unit(StageName.REGISTER, KEY)
    (folder / "logs").mkdir(parents=True)
    note_live(folder / "logs", "main", digests)


def start(
    volume: Volume, url: str, *, seconds: int = 1, names: Sequence[str] = NAMES, served: Sequence[str] = NAMES
) -> subprocess.Popen[str]:
    runtime: dict[str, Any] = {
        "servers": {"main": {"url": url, "caBundle": "", "exec": None}},
        "names": {"main": list(names)},
        "served": {"main": list(served)},
        "keys": [KEY],
        "seconds": seconds,
    }
    config = StageConfig(StageName.REGISTER, "bot", str(volume.root), "", (), runtime)
    (volume.root / "stage.json").write_text(config.to_json())
    where = ["--config", str(volume.root / "stage.json"), "--report", str(volume.root / "report.json")]
    argv = [sys.executable, "-m", "tunesmith_stages.unregister", *where]
    return subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def run(volume: Volume, url: str, **more: Any) -> tuple[Report, str]:
    process = start(volume, url, **more)
    said, _ = process.communicate(timeout=300)
    report = Report.from_json((volume.root / "report.json").read_text())
    assert process.returncode == (report.failure.code if report.failure else 0), said
    return report, said


def test_what_was_registered_is_removed_and_nothing_else(server: OllamaServer, volume: Volume) -> None:
    """Every name goes whose model a note tells of; other models stay, also those made of the same file."""
    note(volume, serve(server, *NAMES))
    serve(server, "others:v1")
    report, _ = run(volume, server.url)
    assert (report.failure, report.numbers) == (None, {"removed": 2, "gone": 0, "replaced": 0, "unknown": 0})
    assert not set(NAMES) & server.digests().keys()
    assert "others:v1" in server.digests()


def test_a_result_without_a_note_counts(server: OllamaServer, volume: Volume) -> None:
    """What was registered before notes were written is known by the stage's result."""
    (digest,) = serve(server, "bot:v1").values()
    folder = volume.unit(StageName.REGISTER, KEY)
    (folder / "out").mkdir(parents=True)
    outputs = {"models": {"bot:v1": {"digest": digest, "quantization": "F16", "size": 1}}}
    path = volume.relative(folder / "out")
    made = StageResult(StageName.REGISTER, "main", KEY, 1, manifest_digest([]), path, (), outputs)
    (folder / "result.json").write_text(made.to_json())
    report, _ = run(volume, server.url, names=("bot:v1",))
    assert report.numbers["removed"] == 1
    assert "bot:v1" not in server.digests()


def test_a_model_that_took_the_name_stays(server: OllamaServer, volume: Volume) -> None:
    """Somebody made another model under the name since: it is not ours to remove."""
    note(volume, serve(server, *NAMES))
    theirs = serve(server, "bot:v1", num_ctx=128)
    report, said = run(volume, server.url)
    assert report.numbers == {"removed": 1, "gone": 0, "replaced": 1, "unknown": 0}
    assert server.digests()["bot:v1"] == theirs["bot:v1"]
    assert "bot:v1 on `main`" in said
    assert "is another one by now and stays" in said


def test_a_model_that_nothing_tells_of_stays(server: OllamaServer, volume: Volume) -> None:
    """Without a note on the volume nobody knows whose it is."""
    serve(server, "bot:v1")
    report, _ = run(volume, server.url, names=("bot:v1", "gone:v1"))
    assert (report.failure, report.numbers["unknown"], report.numbers["gone"]) == (None, 1, 1)
    report, _ = run(volume, server.url, names=("bot:v1", "gone:v1"), served=())
    assert (report.failure, report.numbers["unknown"]) == (None, 0), "it was never said to be this job's"
    assert "bot:v1" in server.digests()


def test_what_killed_attempts_left_goes_too(server: OllamaServer, volume: Volume) -> None:
    """What an attempt had begun to let go live, and the name under which it tried, are removed; others' trials stay."""
    tried = model_name.check_name(KEY, volume.identity(), "bot-register-1-1-x", "F16")
    foreign = model_name.check_name("b" * 64, volume.identity(), "other", "F16")
    serve(server, tried, foreign)
    note(volume, serve(server, "bot:v1"), attempt="bot-register-1-1-x")
    report, _ = run(volume, server.url, names=("bot:v1",))
    assert report.numbers["removed"] == 1
    assert {tried, "bot:v1"} & server.digests().keys() == set()
    assert foreign in server.digests()


def test_a_server_that_comes_back_in_time(server: OllamaServer, volume: Volume) -> None:
    """A server that cannot be reached is asked again until it can."""
    note(volume, serve(server, *NAMES))
    answers = {"": (503, b"no server")}
    with ollama_proxy(server.url, answers) as url:
        process = start(volume, url, seconds=120)
        assert process.stdout is not None
        while "no server" not in (line := process.stdout.readline()):
            assert line, "it ended"
        answers.clear()
        said, _ = process.communicate(timeout=300)
    assert process.returncode == 0, said
    assert not set(NAMES) & server.digests().keys()


def test_a_server_that_never_answers(volume: Volume) -> None:
    """The time is kept, and the report says what is left and why: the operator tells it in an Event."""
    note(volume, {"bot:v1": "0" * 64})
    began = time.monotonic()
    report, _ = run(volume, f"http://127.0.0.1:{free_port()}", seconds=6)
    assert time.monotonic() - began < 60
    assert report.failure is not None
    assert (report.failure.code, report.failure.reason) == (ExitCode.UNAVAILABLE, "OllamaUnreachable")
    assert "bot:v1, bot:v1-q8_0 on `main`" in report.failure.message


@pytest.mark.parametrize("text", ["{", "[]", '{"server": "main"}', '{"server": "main", "models": []}'])
def test_a_damaged_note_says_nothing(server: OllamaServer, volume: Volume, text: str) -> None:
    """A note that cannot be read removes nothing, and does not keep the others from being read."""
    logs = volume.attempt(StageName.REGISTER, KEY, "damaged") / "logs"
    logs.mkdir(parents=True)
    (logs / "live.json").write_text(text)
    note(volume, serve(server, "bot:v1"))
    report, _ = run(volume, server.url, names=("bot:v1",))
    assert report.numbers["removed"] == 1


def test_without_the_volume_it_says_so(server: OllamaServer, tmp_path: Path) -> None:
    """Nothing is removed by a program that cannot see what was registered."""
    serve(server, "bot:v1")
    (tmp_path / "elsewhere").mkdir()
    here = Volume(tmp_path / "elsewhere")
    config = StageConfig(
        StageName.REGISTER,
        "bot",
        str(tmp_path / "not-there"),
        "",
        (),
        {"names": {}, "served": {}, "keys": [], "seconds": 1},
    )
    (here.root / "stage.json").write_text(config.to_json())
    report = here.root / "report.json"
    argv = ["--config", str(here.root / "stage.json"), "--report", str(report)]
    done = subprocess.run(
        [sys.executable, "-m", "tunesmith_stages.unregister", *argv],
        check=False,
        capture_output=True,
        env={**os.environ, "NO_COLOR": "1"},
        timeout=120,
    )
    assert done.returncode == ExitCode.BAD_CONFIG
    assert json.loads(report.read_text())["f"]["r"] == "VolumeNotFound"
    assert "bot:v1" in server.digests()
