from __future__ import annotations

import pytest

from tunesmith_stages.contract import ExitCode
from tunesmith_stages.ollama import Ollama
from tunesmith_stages.ollama_pod import OllamaPod, failure, said
from tunesmith_stages.pod_exec import Ended, Pod

POD = Pod("ai", "ollama-0", "ollama")
COMMAND = ["ollama", "create", "bot:v1", "-f", "/volume/Modelfile"]

# As Ollama 0.34.4 writes it where there is no terminal.
CREATED = (
    "\x1b[?2026h\x1b[?25l\x1b[1G\x1b[?25h\x1b[?2026l"
    "\x1b[?2026h\x1b[?25l\x1b[1Ggathering model components \x1b[K\x1b[?25h\x1b[?2026l"
    "\x1b[?2026h\x1b[?25l\x1b[A\x1b[1Ggathering model components \x1b[K\ncopying file sha256:35f0 100% \x1b[K\n"
    "parsing GGUF \x1b[K\nusing autodetected template chatml \x1b[K\nwriting manifest \x1b[K\nsuccess \x1b[K\x1b[?25h"
    "\x1b[?2026l\n"
)


def refused(text: str) -> str:
    return f"\x1b[?2026h\x1b[?25l\x1b[1Ggathering model components \x1b[K\x1b[?25h\x1b[?2026l\nError: {text}\n"


def test_what_was_said_without_its_colours() -> None:
    """Control characters and repeated lines are gone; the lines stand in their order."""
    assert said(CREATED) == [
        "gathering model components",
        "copying file sha256:35f0 100%",
        "parsing GGUF",
        "using autodetected template chatml",
        "writing manifest",
        "success",
    ]


@pytest.mark.parametrize(
    ("mount", "path"),
    [
        ("/volume", "/volume/stages/register/k.1/out/Modelfile.Q4_K_M"),
        ("/volume/", "/volume/stages/register/k.1/out/Modelfile.Q4_K_M"),
        ("/mnt/nfs/team a", "/mnt/nfs/team a/stages/register/k.1/out/Modelfile.Q4_K_M"),
        ("/", "/stages/register/k.1/out/Modelfile.Q4_K_M"),
    ],
)
def test_command_names_the_file_as_the_pod_sees_it(mount: str, path: str) -> None:
    """The command is the one that the cluster's policy lets through, with the path below the pod's own mount."""
    settings = {"namespace": "ai", "pod": "ollama-0", "container": "ollama", "volumeMountPath": mount}
    with Ollama("http://127.0.0.1:1") as server:
        pod = OllamaPod(server, settings)
        assert pod.command("bot:v1", "stages/register/k.1/out/Modelfile.Q4_K_M") == [
            *("ollama", "create", "bot:v1", "-f", path)
        ]


FAILURES: dict[str, tuple[Ended, ExitCode, str, str]] = {
    "the Modelfile is not there": (
        Ended(1, refused("no Modelfile or safetensors files found")),
        ExitCode.BAD_CONFIG,
        "VolumeNotInOllamaPod",
        "servers[].exec.volumeMountPath",
    ),
    "the model's file is not there": (
        Ended(1, refused("400 Bad Request: invalid model name")),
        ExitCode.BAD_CONFIG,
        "VolumeNotInOllamaPod",
        "servers[].exec.volumeMountPath",
    ),
    "a file may not be read": (
        Ended(1, refused("open /volume/Modelfile: permission denied")),
        ExitCode.NO_PERMISSION,
        "VolumeNotReadableInOllamaPod",
        "readable for its user",
    ),
    "the name is none": (Ended(1, refused("invalid model name: a b")), ExitCode.BAD_CONFIG, "InvalidModelName", "tag"),
    "the server's disk is full": (
        Ended(1, refused("write /models/blobs/x: no space left on device")),
        ExitCode.NO_SPACE,
        "OllamaNoSpace",
        "OLLAMA_MODELS",
    ),
    "the server in the pod is down": (
        Ended(1, refused("could not connect to ollama server, run 'ollama serve' to start it")),
        ExitCode.UNAVAILABLE,
        "OllamaUnreachable",
        "log of the Ollama pod",
    ),
    "another complaint": (Ended(1, refused("no FROM line")), ExitCode.GATE_FAILED, "OllamaRefused", "log"),
    "no word at all": (Ended(2, ""), ExitCode.GATE_FAILED, "OllamaRefused", "log"),
    "there is no such program": (
        Ended(None, "", 'exec: "ollama": executable file not found in $PATH'),
        ExitCode.BAD_CONFIG,
        "OllamaNotInContainer",
        "servers[].exec",
    ),
    "the connection was lost": (
        Ended(None, "", "the connection broke off"),
        ExitCode.UNAVAILABLE,
        "ExecLost",
        "kubectl describe pod",
    ),
    "the container ended": (Ended(137, "gathering"), ExitCode.UNAVAILABLE, "ExecLost", "kubectl describe pod"),
}


@pytest.mark.parametrize(("result", "code", "reason", "hint"), FAILURES.values(), ids=FAILURES.keys())
def test_failures_are_told_apart(result: Ended, code: ExitCode, reason: str, hint: str) -> None:
    """What the administrator must mend, what passes, and what is wrong with the model have reasons of their own."""
    error = failure(POD, COMMAND, result)
    assert (error.code, error.reason) == (code, reason)
    assert hint in error.hint
    assert "ai/ollama-0" in error.message
