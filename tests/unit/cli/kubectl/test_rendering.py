"""What a page looks like: for people, on one line, and as JSON."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest

from tunesmith.cli.kubectl.page import page_of
from tunesmith.cli.kubectl.rendering import as_json, as_line, as_text, output, printable, progress_in_words
from unit.cli.kubectl.items import DIGEST, NOW, item, ready, stage

TRAINING: dict[str, Any] = {
    **ready("Training", "train runs in Job x"),
    "stages": [
        stage("fetch", "Succeeded", 1, startTime="2026-05-04T11:00:00Z", completionTime="2026-05-04T11:01:05Z"),
        stage("prepare", "Succeeded", cached=True),
        stage("train", "Running", 2, startTime="2026-05-04T10:30:00Z"),
        stage("register", "Waiting", 1, reason="Unavailable", nextAttemptTime="2026-05-04T12:05:00Z"),
    ],
    "progress": {
        "stage": "train",
        "text": "37 %",
        "done": 1110,
        "total": 3000,
        "of": "steps",
        "loss": "1.204",
        "evalLoss": "1.3",
        "learningRate": "0.0002",
        "gradNorm": "0.8",
        "tokensPerSecond": "5120",
        "gpuMemoryBytes": 41_000_000_000,
        "peakGpuMemoryBytes": 61_200_000_000,
        "eta": "1h12m",
    },
    "sources": [{"name": "base", "version": "a" * 64, "spec": DIGEST}],
    "artifacts": [{"name": "Q8_0", "path": "stages/q/out", "digest": DIGEST, "bytes": 1_500_000_000, "model": "m:v1"}],
    "ollama": [{"server": "main", "models": ["m:v1"]}],
}


def shown(data: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> str:
    """Return what is printed where there is no terminal."""
    output().print(as_text(page_of(data, NOW)))
    return capsys.readouterr().out


def test_page_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    """Headline, stages, progress, artifacts, servers and sources are there, each in a table of its own."""
    lines = [line.split() for line in shown(item(TRAINING), capsys).splitlines()]
    assert lines[0] == ["support-bot", "in", "namespace", "team-a:", "Training"]
    assert ["STAGE", "STATE", "ATTEMPT", "DURATION", "CACHED", "REASON"] in lines
    assert ["fetch", "Succeeded", "1", "1m05s"] in lines
    assert ["prepare", "Succeeded", "yes"] in lines
    assert ["train", "Running", "2", "1h30m"] in lines
    assert ["register", "Waiting", "1", "Unavailable,", "next", "try", "at", "2026-05-04T12:05:00Z"] in lines
    assert ["Q8_0", "1.5", "GB", "m:v1", "stages/q/out"] in lines
    assert ["main", "m:v1"] in lines
    assert ["base", "volume", "models/base", "a" * 12] in lines


def test_page_of_a_new_job(capsys: pytest.CaptureFixture[str]) -> None:
    """A job that nobody has looked at has a headline, what to check, and its sources."""
    lines = shown(item(), capsys).splitlines()
    assert lines[0].endswith("Unseen")
    assert lines[2].startswith("  → If this lasts: does the operator run")
    assert not [line for line in lines if line.startswith(("STAGE", "PROGRESS", "TYPE", "SERVER"))]


def test_long_lines_are_not_broken(capsys: pytest.CaptureFixture[str]) -> None:
    """Where there is no terminal a sentence stays on its line, however long: people grep for it."""
    message = "the field is wrong " * 200
    assert f"  {message.strip()}" in [
        line.rstrip() for line in shown(item(ready("InvalidSpec", message)), capsys).splitlines()
    ]


def test_what_others_wrote_does_not_control_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """Escape sequences in messages, names and figures do not reach the terminal; brackets are no markup."""
    said = "\x1b[2Jgone [red]x[/red] \x9b31m"
    status = {
        **ready("Training", said),
        "stages": [stage("train", "Running", 1, reason=said)],
        "progress": {"stage": "train", "text": said},
        "artifacts": [{"name": said, "path": said, "digest": DIGEST, "model": said}],
    }
    page = item(status)
    for text in (shown(page, capsys), as_line(page_of(page, NOW))):
        assert not [letter for letter in text if letter in "\x1b\x9b"]
        assert "[red]x[/red]" in text


LINES: dict[str, tuple[dict[str, Any], str]] = {
    "how far it is": (
        TRAINING,
        (
            "Training: train 37 %  (1,110/3,000 steps)  loss 1.204  eval loss 1.3  grad norm 0.8  "
            "lr 0.0002  5120 tok/s  41 GB, at most 61.2 GB on the GPU  ETA 1h12m"
        ),
    ),
    "why it waits": (ready("Unschedulable", "no node\nhas a GPU"), "Unschedulable: no node has a GPU"),
    "the end": (
        {**ready("Succeeded", "it answers", done=True), "progress": {"stage": "register", "text": "100 %"}},
        "Succeeded: it answers",
    ),
    "a failure": (
        {
            **ready("OutOfMemory", "no memory.", stalled=True),
            "stages": [stage("train", "Failed", 1, reason="OutOfMemory", hint="Use less.")],
            "progress": {"stage": "train", "text": "37 %"},
        },
        "OutOfMemory: no memory. → Use less.",
    ),
}


def test_the_last_lines_of_a_failed_stage(capsys: pytest.CaptureFixture[str]) -> None:
    """They stand below the stages, without what would control the terminal, also in the JSON."""
    failed = stage("train", "Failed", 1, reason="OutOfMemory", logTail="allocating\n\x1b[31mboom")
    job = item({**ready("OutOfMemory", "no memory.", stalled=True), "stages": [failed]})
    assert "LAST LINES OF train's LOG\n  allocating\n  \ufffd[31mboom" in shown(job, capsys)
    assert json.loads(as_json(page_of(job, NOW)))["stages"][0]["logTail"].startswith("allocating")


@pytest.mark.parametrize(("status", "wanted"), LINES.values(), ids=LINES)
def test_line(status: dict[str, Any], wanted: str) -> None:
    """One line tells the progress while a program runs, and the sentence when it does not."""
    assert as_line(page_of(item(status), NOW)) == wanted


PROGRESS: dict[str, tuple[dict[str, Any], str]] = {
    "nothing": ({}, ""),
    "the stage alone": ({"stage": "train"}, ""),
    "a word": ({"text": "loads the model"}, "loads the model"),
    "a count of nothing in particular": ({"text": "50 %", "done": 1, "total": 2}, "50 %  (1/2)"),
    "at the beginning": ({"text": "0 %", "total": 9, "of": "rows"}, "0 %  (0/9 rows)"),
}


@pytest.mark.parametrize(("progress", "wanted"), PROGRESS.values(), ids=PROGRESS)
def test_progress(progress: dict[str, Any], wanted: str) -> None:
    """Only what is known is told of the progress."""
    assert progress_in_words(progress) == wanted


def test_json() -> None:
    """JSON has the fields of the page, named as Kubernetes names fields, and text as it is."""
    status = {**TRAINING, **ready("Training", "größer \x1b[2J \x9b31m \U000e0001")}
    text = as_json(page_of(item(status), NOW))
    assert "größer" in text
    data = json.loads(text)
    assert (data["name"], data["namespace"], data["ready"], data["stalled"]) == ("support-bot", "team-a", False, False)
    assert data["message"] == "größer \x1b[2J \x9b31m \U000e0001"
    assert not [letter for letter in text if letter in "\x1b\x9b\U000e0001"]
    assert data["stages"][3] == {
        "name": "register",
        "state": "Waiting",
        "attempt": 1,
        "seconds": None,
        "cached": False,
        "reason": "Unavailable",
        "nextAttempt": "2026-05-04T12:05:00Z",
        "logTail": "",
    }
    assert data["progress"] == TRAINING["progress"]
    assert data["sources"][0] == {"name": "base", "place": "volume models/base", "version": "a" * 64, "bytes": None}
    assert data["servers"] == [{"name": "main", "models": ["m:v1"]}]


def test_nobody_reads() -> None:
    """That the reader of a pipe is gone is told to who prints, for the exit code is not rich's to choose."""

    class Closed(io.StringIO):
        def write(self, _: str) -> int:
            raise BrokenPipeError

    console = output()
    console.file = Closed()
    with pytest.raises(BrokenPipeError):
        console.print("x")


PRINTABLE = {
    "plain": ("a b", "a b"),
    "lines": ("a\nb", "a\nb"),
    "escape": ("\x1b[0m", "\ufffd[0m"),
    "tab": ("a\tb", "a\ufffdb"),
}


@pytest.mark.parametrize(("text", "wanted"), PRINTABLE.values(), ids=PRINTABLE)
def test_printable(text: str, wanted: str) -> None:
    """Letters and line ends are kept; whatever else is replaced, so that nothing is hidden."""
    assert printable(text) == wanted
