from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from support.builders import stage_config
from tunesmith_stages.contract import (
    ExitCode,
    Failure,
    Input,
    StageConfig,
    StageName,
    StageResult,
    UnitConfig,
    content_key,
)
from tunesmith_stages.program import Made, Progress, StageError, Work, carry_out, run
from tunesmith_stages.volume import UnsafePathError, Volume


def make(work: Work) -> Made:
    """Write one file."""
    (work.out / "model.bin").write_text(work.params.get("text", "made"))
    (work.logs / "tool.log").write_text("went well")
    return Made(outputs={"note": "größer"}, numbers={"loss": 0.5}, tools={"tool": "1"})


def unit_folder(config: StageConfig) -> Path:
    return Volume(Path(config.volume)).unit(config.stage, config.units[0].key)


def attempt_folder(config: StageConfig) -> Path:
    return Volume(Path(config.volume)).attempt(config.stage, config.units[0].key, config.attempt)


def left(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_finished_stage_is_published(tmp_path: Path) -> None:
    """What a stage function made lies under the unit's key, with a result that tells what, by whom and when."""
    config = stage_config(tmp_path, StageName.CONVERT, params={"text": "abc"})
    assert run(config, make) is ExitCode.OK
    result = Volume(tmp_path).result(StageName.CONVERT, config.units[0].key)
    assert result is not None
    assert [(entry.path, entry.size) for entry in result.files] == [("model.bin", 3)]
    assert result.path == unit_folder(config).relative_to(tmp_path).as_posix() + "/out"
    assert (result.outputs, result.tools) == ({"note": "größer"}, {"tool": "1"})
    assert result.numbers["loss"] == 0.5
    assert result.numbers["seconds"] >= 0
    assert result.started <= result.finished
    assert left(unit_folder(config)) == {"out", "logs", "stage.json", "result.json", "owner.json"}
    assert StageConfig.from_json((unit_folder(config) / "stage.json").read_text()) == config
    assert not attempt_folder(config).exists()


def test_digest_is_of_the_content_alone(tmp_path: Path) -> None:
    """Two runs on two machines that make the same have the same digest, whatever their logs and times."""
    digests = []
    for name in ("one", "two"):
        config = stage_config(tmp_path / name, StageName.CONVERT, attempt=name)
        assert run(config, make) is ExitCode.OK
        found = Volume(tmp_path / name).result(StageName.CONVERT, config.units[0].key)
        assert found is not None
        digests.append(found.digest)
    assert digests[0] == digests[1]


def test_a_finished_unit_is_not_made_again(tmp_path: Path) -> None:
    """A unit with a valid result costs a look and nothing else."""
    config = stage_config(tmp_path, StageName.CONVERT)
    assert run(config, make) is ExitCode.OK
    before = (unit_folder(config) / "result.json").read_bytes()

    def never(_work: Work) -> Made:
        raise AssertionError("it must not be called")

    again = stage_config(tmp_path, StageName.CONVERT, attempt="2")
    assert run(again, never) is ExitCode.OK
    assert (unit_folder(config) / "result.json").read_bytes() == before
    assert not attempt_folder(again).exists()


def test_a_damaged_unit_is_made_again(tmp_path: Path) -> None:
    """A published unit whose files are no longer whole is set aside and replaced."""
    config = stage_config(tmp_path, StageName.CONVERT)
    assert run(config, make) is ExitCode.OK
    (unit_folder(config) / "out" / "model.bin").write_text("")
    assert run(stage_config(tmp_path, StageName.CONVERT, attempt="2"), make) is ExitCode.OK
    assert (unit_folder(config) / "out" / "model.bin").read_text() == "made"


def test_a_gate_is_passed_each_time(tmp_path: Path) -> None:
    """`rehearse` is a gate: an earlier pass does not stand for a later one."""
    calls = []

    def gate(_work: Work) -> Made:
        calls.append(1)
        return Made()

    for attempt in ("1", "2"):
        assert run(stage_config(tmp_path, StageName.REHEARSE, attempt=attempt), gate) is ExitCode.OK
    assert len(calls) == 2


def test_result_that_holds_no_longer_is_made_again(tmp_path: Path) -> None:
    """Where a stage can tell that a result is outdated, it is asked; if so the unit is made anew, else left alone."""
    asked: list[str] = []

    def still_true(work: Work, result: StageResult) -> bool:
        asked.append((work.volume.root / result.path / "model.bin").read_text())
        work.progress.note("asking the server")
        return bool(asked[-1] == work.runtime["served"])

    for attempt, served, cached in (("1", "first", False), ("2", "made", True), ("3", "gone", False)):
        config = stage_config(tmp_path, StageName.REGISTER, attempt=attempt, runtime={"served": served})
        report = carry_out(config, make, still_true=still_true)
        assert [unit.cached for unit in report.units] == [cached]
        assert not attempt_folder(config).exists()
        assert (unit_folder(config) / "out" / "model.bin").read_text() == "made"
    assert asked == ["made", "made"]


def test_result_that_cannot_be_asked_about_stays(tmp_path: Path) -> None:
    """A server that is down fails the stage, and proves nothing against its earlier result."""
    config = stage_config(tmp_path, StageName.REGISTER)
    assert run(config, make) is ExitCode.OK

    def down(_work: Work, _result: StageResult) -> bool:
        raise StageError(ExitCode.UNAVAILABLE, "no answer")

    again = stage_config(tmp_path, StageName.REGISTER, attempt="2")
    failure = carry_out(again, make, still_true=down).failure
    assert failure is not None
    assert failure.code is ExitCode.UNAVAILABLE
    assert (attempt_folder(again) / "failure.json").is_file()
    assert Volume(tmp_path).result(StageName.REGISTER, config.units[0].key) is not None


def test_units_before_a_failure_stay_done(tmp_path: Path) -> None:
    """Of several units those that were finished are kept when a later one fails."""
    units = tuple(
        UnitConfig(name, content_key(StageName.QUANTIZE, {"type": name}, {}), {"type": name}) for name in ("A", "B")
    )
    config = StageConfig(StageName.QUANTIZE, "support-bot", str(tmp_path), "1", units)

    def second_fails(work: Work) -> Made:
        if work.unit.name == "B":
            raise StageError(ExitCode.BAD_DATA, "no")
        return make(work)

    assert run(config, second_fails) is ExitCode.BAD_DATA
    volume = Volume(tmp_path)
    assert [volume.result(StageName.QUANTIZE, unit.key) is not None for unit in units] == [True, False]


def test_scratch_goes_when_the_result_is_there(tmp_path: Path) -> None:
    """Checkpoints are removed once the training is published, and not when it fails."""
    scratch = tmp_path / "scratch"

    def train(work: Work) -> Made:
        scratch.mkdir(exist_ok=True)
        if not work.params["works"]:
            raise StageError(ExitCode.TEMPORARY, "not yet")
        return Made(scratch=scratch)

    assert run(stage_config(tmp_path, StageName.TRAIN, params={"works": False}), train) is ExitCode.TEMPORARY
    assert scratch.exists()
    assert run(stage_config(tmp_path, StageName.TRAIN, params={"works": True}), train) is ExitCode.OK
    assert not scratch.exists()


# --- failures --------------------------------------------------------------------------------------------------------

ERRORS: dict[str, tuple[BaseException, ExitCode, str, str]] = {
    "the stage says why": (
        StageError(ExitCode.BAD_DATA, "faq.json, row 3: no", reason="BadRow", hint="Mend it."),
        ExitCode.BAD_DATA,
        "BadRow",
        "faq.json, row 3: no",
    ),
    "the stage says why, briefly": (
        StageError(ExitCode.UNAVAILABLE, "no answer"),
        ExitCode.UNAVAILABLE,
        "Unavailable",
        "no answer",
    ),
    "the disk is full": (OSError(errno.ENOSPC, "No space left on device", "x"), ExitCode.NO_SPACE, "NoSpace", "x"),
    "the quota is used up": (OSError(errno.EDQUOT, "Disk quota exceeded"), ExitCode.NO_SPACE, "NoSpace", "quota"),
    "the disk is read-only": (
        OSError(errno.EROFS, "Read-only file system"),
        ExitCode.NO_SPACE,
        "VolumeReadOnly",
        "Read-only",
    ),
    "a library says that the disk is full": (
        RuntimeError("write failed: No space left on device"),
        ExitCode.NO_SPACE,
        "NoSpace",
        "write failed",
    ),
    "the network file system moved on": (
        OSError(errno.ESTALE, "Stale file handle"),
        ExitCode.TEMPORARY,
        "Temporary",
        "Stale",
    ),
    "access is refused": (
        PermissionError(errno.EACCES, "Permission denied", "/v/x"),
        ExitCode.NO_PERMISSION,
        "NoPermission",
        "/v/x",
    ),
    "memory runs out": (MemoryError(), ExitCode.OUT_OF_MEMORY, "OutOfMemory", "memory"),
    "a path leads out": (UnsafePathError("'..' no"), ExitCode.BAD_CONFIG, "UnsafePath", "'..' no"),
    "a bug": (KeyError("columns"), ExitCode.INTERNAL, "InternalError", "KeyError: 'columns'"),
}


@pytest.mark.parametrize("name", ERRORS)
def test_failures_are_told_by_class(tmp_path: Path, name: str, capfd: pytest.CaptureFixture[str]) -> None:
    """Whatever goes wrong ends as an exit code, failure.json and one line on stderr; nothing half-made stays."""
    error, code, reason, words = ERRORS[name]

    def fail(work: Work) -> Made:
        make(work)
        (work.folder / "incoming").mkdir()
        (work.folder / "incoming" / "large.bin").write_text("x")
        raise error

    config = stage_config(tmp_path, StageName.CONVERT)
    assert run(config, fail) is code
    failure = Failure.from_json((attempt_folder(config) / "failure.json").read_text())
    assert (failure.code, failure.reason) == (code, reason)
    assert words in failure.message
    assert failure.hint.endswith(".")
    assert left(attempt_folder(config)) == {"logs", "stage.json", "owner.json", "failure.json"}
    assert not unit_folder(config).exists()
    assert f"{reason}: " in capfd.readouterr().err


def test_a_bug_leaves_its_trace(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Only of an internal error is the traceback shown: it is for us, not for who wrote the job."""

    def fail(_work: Work) -> Made:
        raise ZeroDivisionError("division by zero")

    run(stage_config(tmp_path, StageName.CONVERT), fail)
    assert "Traceback" in capfd.readouterr().err


def test_missing_input_says_which(tmp_path: Path) -> None:
    """An input that vanished from the volume is named before the stage begins, and running again is the cure."""
    config = stage_config(tmp_path, StageName.CONVERT, inputs={"base": Input("store/models/gone", "a" * 64)})
    assert run(config, make) is ExitCode.MISSING_INPUT
    failure = Failure.from_json((attempt_folder(config) / "failure.json").read_text())
    assert failure.reason == "InputLost"
    assert "`base`" in failure.message
    assert "store/models/gone" in failure.message


def test_input_that_goes_meanwhile(tmp_path: Path) -> None:
    """An input that vanishes while the stage runs is told in the same way."""
    (tmp_path / "base").mkdir()
    config = stage_config(tmp_path, StageName.CONVERT, inputs={"base": Input("base", "a" * 64)})

    def read(work: Work) -> Made:
        (tmp_path / "base").rmdir()
        work.input("base")
        return Made()

    assert run(config, read) is ExitCode.MISSING_INPUT
    assert Failure.from_json((attempt_folder(config) / "failure.json").read_text()).reason == "InputLost"


def test_inputs_of_a_finished_unit_are_not_looked_at(tmp_path: Path) -> None:
    """What was made stays made, though what it was made of is gone."""
    (tmp_path / "base").mkdir()
    for attempt in ("1", "2"):
        config = stage_config(tmp_path, StageName.CONVERT, inputs={"base": Input("base", "a" * 64)}, attempt=attempt)
        assert run(config, make) is ExitCode.OK
        shutil.rmtree(tmp_path / "base", ignore_errors=True)


def test_message_that_is_no_text_hides_nothing(tmp_path: Path) -> None:
    """A failure whose words hold a file's name that is not UTF-8 keeps its class, though it cannot be left."""

    def fail(_work: Work) -> Made:
        raise StageError(ExitCode.BAD_DATA, "the file \udcca is bad")

    config = stage_config(tmp_path, StageName.CONVERT)
    assert run(config, fail) is ExitCode.BAD_DATA
    assert not list(attempt_folder(config).glob("*failure*"))


def test_exit_code_tells_when_nothing_can_be_written(tmp_path: Path) -> None:
    """If not even the attempt's folder can be made, for failure.json to lie in, there is still the exit code."""
    (tmp_path / "stages").mkdir()
    (tmp_path / "stages" / "convert").write_text("in the way")
    assert run(stage_config(tmp_path, StageName.CONVERT), make) is ExitCode.INTERNAL


# --- real processes --------------------------------------------------------------------------------------------------

PROGRAM = """
import sys, time
from pathlib import Path
from tunesmith_stages.contract import StageName
from tunesmith_stages.program import Made, main

def make(work):
    (work.out / "model.bin").write_text("half")
    (work.logs / "tool.log").write_text("going on")
    (work.folder / "merged").mkdir()
    print("here", flush=True)
    if work.params["waits"]:
        time.sleep(60)
    return Made()

main(StageName.CONVERT, make)
"""


def start(tmp_path: Path, config: StageConfig) -> subprocess.Popen[str]:
    """Start the program and wait until it is in the middle of its stage."""
    (tmp_path / "program.py").write_text(PROGRAM)
    (tmp_path / "stage.json").write_text(config.to_json())
    process = subprocess.Popen(
        [sys.executable, str(tmp_path / "program.py"), "--config", str(tmp_path / "stage.json")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "here\n"
    return process


STOPS = {
    "asked by SIGTERM": signal.SIGTERM,
    "asked by Ctrl-C": signal.SIGINT,
}


@pytest.mark.parametrize("name", STOPS)
def test_a_stage_that_is_asked_to_stop_says_so(tmp_path: Path, name: str) -> None:
    """SIGTERM and Ctrl-C end a stage in order: its own exit code, a reason, nothing half-made."""
    config = stage_config(tmp_path, StageName.CONVERT, params={"waits": True})
    process = start(tmp_path, config)
    process.send_signal(STOPS[name])
    _, said = process.communicate(timeout=10)
    assert process.returncode == ExitCode.INTERRUPTED
    assert f"Interrupted: stopped by {STOPS[name].name}" in said
    assert left(attempt_folder(config)) == {"logs", "stage.json", "owner.json", "failure.json"}


def test_after_kill_9_the_next_attempt_clears_up_and_succeeds(tmp_path: Path) -> None:
    """A killed attempt leaves its logs; what it half-made is gone once the next attempt has begun."""
    params = {"waits": True}
    first = stage_config(tmp_path, StageName.CONVERT, params=params, attempt="1")
    process = start(tmp_path, first)
    process.kill()
    process.communicate()
    assert left(attempt_folder(first)) == {"out", "logs", "merged", "stage.json", "owner.json"}

    second = stage_config(tmp_path, StageName.CONVERT, params=params, attempt="2")
    assert run(second, make) is ExitCode.OK
    assert left(attempt_folder(first)) == {"logs", "stage.json", "owner.json"}
    assert (unit_folder(second) / "out" / "model.bin").read_text() == "made"


POD = "support-bot-convert-0a1b2c3d"
LEFT_BY_OTHERS: dict[str, tuple[str, str, bool]] = {  # who left it, who comes next, whether what was made goes
    "an earlier pod of the same child": (f"{POD}-1-x7k2p", f"{POD}-2-9hw4z", True),
    "a pod that its Job replaced": (f"{POD}-1-x7k2p", f"{POD}-1-9hw4z", True),
    "a pod of an Indexed Job": (f"{POD}-1-0-x7k2p", f"{POD}-12-0-9hw4z", True),
    "pods that worked together": (f"{POD}-1", f"{POD}-2", True),
    "pods that worked together, and went on": (f"{POD}-1-2", f"{POD}-3", True),
    "a pod of a job of the same name, which was deleted": (
        "support-bot-convert-0a1b2c3e-1-x7k2p",
        f"{POD}-1-9hw4z",
        False,
    ),
    "a pod of another job": ("other-bot-convert-0a1b2c3d-1-x7k2p", f"{POD}-1-9hw4z", False),
    "a job named like a child": (f"{POD}-1-convert-ffffffff-1-x7k2p", f"{POD}-1-9hw4z", False),
    "`tunesmith run` elsewhere, seen by a pod": ("20260101T120000000000-77", f"{POD}-1-9hw4z", False),
    "a pod, seen by `tunesmith run`": (f"{POD}-1-x7k2p", "20260101T120000000000-77", False),
    "`tunesmith run` on two machines": ("20260101T120000000000-77", "20260101T120000000001-77", False),
    "a name given by hand": (POD, f"{POD}-1-9hw4z", False),
}


@pytest.mark.parametrize("name", LEFT_BY_OTHERS)
def test_what_killed_attempts_on_other_hosts_left(tmp_path: Path, name: str) -> None:
    """A pod clears up behind the pods that were killed at the same work before it, and behind nobody who may live."""
    before, now, goes = LEFT_BY_OTHERS[name]
    dead = stage_config(tmp_path, StageName.CONVERT, attempt=before)
    folder = attempt_folder(dead)
    for part in ("out", "merged", "logs"):
        (folder / part).mkdir(parents=True)
    (folder / "out" / "model.gguf").write_text("15 GB")
    (folder / "owner.json").write_text(json.dumps({"host": "another-host", "pid": 1, "started": "1"}))
    assert run(stage_config(tmp_path, StageName.CONVERT, attempt=now), make) is ExitCode.OK
    assert left(folder) == {"logs", "owner.json"} | (set() if goes else {"out", "merged"})


def test_pods_that_are_killed_again_and_again_fill_no_volume(tmp_path: Path) -> None:
    """Of any number of killed pods there is what one of them made; a host's name is its pod's, as in a cluster."""
    for number in (1, 2, 3):
        config = stage_config(tmp_path, StageName.CONVERT, params={"waits": True}, attempt=f"{POD}-{number}-x7k2p")
        process = start(tmp_path, config)
        process.kill()
        process.communicate()
        owner = json.loads((attempt_folder(config) / "owner.json").read_text())
        (attempt_folder(config) / "owner.json").write_text(json.dumps({**owner, "host": config.attempt}))
    assert [path.parts[-3][-7:] for path in tmp_path.rglob("model.bin")] == ["3-x7k2p"]


def test_an_attempt_that_lives_is_left_alone(tmp_path: Path) -> None:
    """Two attempts at the same unit do not harm each other; the second to finish uses the first one's."""
    params = {"waits": True}
    living = stage_config(tmp_path, StageName.CONVERT, params=params, attempt="1")
    process = start(tmp_path, living)
    assert run(stage_config(tmp_path, StageName.CONVERT, params=params, attempt="2"), make) is ExitCode.OK
    assert {"out", "merged"} <= left(attempt_folder(living))
    process.kill()
    process.communicate()


def test_a_stage_ends_with_who_started_it(tmp_path: Path) -> None:
    """Nothing is left running alone when the process that started a stage is killed."""
    config = stage_config(tmp_path, StageName.CONVERT, params={"waits": True})
    starter = (
        "import subprocess, sys, time\n"
        f"subprocess.Popen([sys.executable, {str(tmp_path / 'program.py')!r}, '--config', "
        f"{str(tmp_path / 'stage.json')!r}])\n"
        "time.sleep(60)\n"
    )
    (tmp_path / "program.py").write_text(PROGRAM)
    (tmp_path / "stage.json").write_text(config.to_json())
    process = subprocess.Popen([sys.executable, "-c", starter], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "here\n"
    process.kill()
    process.wait()
    deadline = time.monotonic() + 10
    while not (attempt_folder(config) / "failure.json").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    failure = Failure.from_json((attempt_folder(config) / "failure.json").read_text())
    assert failure.code is ExitCode.INTERRUPTED
    process.stdout.close()


BAD_CONFIGS = {
    "not there": None,
    "not JSON": "{",
    "a list": "[]",
    "of another version": json.dumps({"version": 99}),
    "with fields missing": json.dumps({"version": 1}),
}


@pytest.mark.parametrize("name", BAD_CONFIGS)
def test_unreadable_stage_json(tmp_path: Path, name: str) -> None:
    """A stage.json that cannot be read ends in BAD_CONFIG with the file's name, before anything is touched."""
    (tmp_path / "program.py").write_text(PROGRAM)
    text = BAD_CONFIGS[name]
    if text is not None:
        (tmp_path / "stage.json").write_text(text)
    argv = [sys.executable, str(tmp_path / "program.py"), "--config", str(tmp_path / "stage.json")]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == ExitCode.BAD_CONFIG
    assert "stage.json: " in done.stderr
    assert "Traceback" not in done.stderr


# --- progress --------------------------------------------------------------------------------------------------------


def told(
    tmp_path: Path, say: Callable[[Progress], object], capsys: pytest.CaptureFixture[str]
) -> list[dict[str, object]]:
    say(Progress(StageName.PREPARE, "prepare", tmp_path))
    printed = capsys.readouterr().out
    assert (tmp_path / "progress.jsonl").read_text() == printed
    return [json.loads(line) for line in printed.splitlines()]


def test_progress_is_a_line_of_json_per_event(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Stdout and progress.jsonl get the same lines: when, which stage, and what."""

    def say(progress: Progress) -> None:
        progress.note("reading größer")
        progress.count(4, 4, "rows")

    note, count = told(tmp_path, say, capsys)
    assert note["note"] == "reading größer"
    assert {name: count[name] for name in ("stage", "unit", "done", "total", "of")} == {
        "stage": "prepare",
        "unit": "prepare",
        "done": 4,
        "total": 4,
        "of": "rows",
    }
    assert str(note["time"]).endswith("Z")


def test_progress_with_half_a_character_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A lone surrogate, as JSON from somebody's data can hold it, ends nothing."""
    (line,) = told(tmp_path, lambda progress: progress.note("row \ud83d"), capsys)
    assert line["note"] == "row \ud83d"


def test_progress_is_not_chatty(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of many counts in a moment the first and the last are told; those with metrics always are."""

    def say(progress: Progress) -> None:
        for done in range(1, 1001):
            progress.count(done, 1000, "rows")
        progress.count(1, 2, "steps", {"loss": 1.0})

    events = told(tmp_path, say, capsys)
    assert len(events) < 20
    assert events[-2]["done"] == 1000
    assert events[-1]["metrics"] == {"loss": 1.0}


def test_a_count_may_say_what_is_done_beside(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An evaluation within a training has words of its own, on the line that says how far the training is."""

    def say(progress: Progress) -> None:
        progress.count(1, 2, "steps", {"loss": 1.0}, "evaluating: 3 of 40 batches")
        progress.count(2, 2, "steps", {"loss": 1.0})

    first, second = told(tmp_path, say, capsys)
    assert (first["done"], first["note"]) == (1, "evaluating: 3 of 40 batches")
    assert "note" not in second


def test_counter_adds_up(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Increments are summed, as copies and hashes tell them."""

    def say(progress: Progress) -> None:
        advance = progress.counter(10, "bytes")
        advance(4)
        advance(6)

    assert told(tmp_path, say, capsys)[-1]["done"] == 10
