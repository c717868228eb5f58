"""Finding llama.cpp, and running tools with their output in a log."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tunesmith_stages.contract import ExitCode
from tunesmith_stages.program import StageError
from tunesmith_stages.tools import LLAMA_CPP_VERSION, llama_cpp, llama_cpp_folder, run_tool, toolchain_folder

REQUIREMENT = Path(__file__).parents[2] / "hack" / "toolchain" / "llama_cpp.txt"


def place(folder: Path, version: str = LLAMA_CPP_VERSION) -> Path:
    folder.mkdir(parents=True)
    (folder / "VERSION").write_text(f"{version}\n")
    return folder


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        pytest.param({"XDG_CACHE_HOME": "{tmp}/xdg"}, "xdg", id="the cache folder of the environment"),
        pytest.param({"HOME": "{tmp}"}, ".cache", id="without one, .cache below the home"),
        pytest.param({"HOME": "{tmp}", "XDG_CACHE_HOME": ""}, ".cache", id="an empty one counts as none"),
    ],
)
def test_toolchain_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, environ: dict[str, str], expected: str
) -> None:
    """What is built is kept below the user's cache folder, wherever that is."""
    environ = {name: value.format(tmp=tmp_path) for name, value in environ.items()}
    monkeypatch.setenv("HOME", environ.get("HOME", "/nowhere"))
    assert toolchain_folder(environ) == tmp_path / expected / "tunesmith" / "toolchain"


def test_built_llama_cpp_is_found(tmp_path: Path) -> None:
    """Without a setting, the pinned version in the cache folder is used, with its programs and converter."""
    environ = {"XDG_CACHE_HOME": str(tmp_path)}
    folder = place(llama_cpp_folder(environ))
    found = llama_cpp(environ)
    assert found.version == LLAMA_CPP_VERSION
    assert folder.parent == toolchain_folder(environ)
    assert found.imatrix == folder / "bin" / "llama-imatrix"
    assert found.quantize == folder / "bin" / "llama-quantize"
    assert found.server == folder / "bin" / "llama-server"
    assert found.converter == folder / "convert"


def test_given_llama_cpp_goes_first(tmp_path: Path) -> None:
    """TUNESMITH_LLAMA_CPP is used even where a built one is, and its own version is told."""
    environ = {"XDG_CACHE_HOME": str(tmp_path), "TUNESMITH_LLAMA_CPP": str(tmp_path / "mine")}
    place(llama_cpp_folder(environ))
    place(tmp_path / "mine", "b9999")
    assert llama_cpp(environ).folder == tmp_path / "mine"
    assert llama_cpp(environ).version == "b9999"


@pytest.mark.parametrize("given", [pytest.param(True, id="given"), pytest.param(False, id="in the cache folder")])
def test_llama_cpp_without_version_is_not_whole(tmp_path: Path, given: bool) -> None:
    """A folder without VERSION, which is written last, is refused with the folder and what to do."""
    environ = {"XDG_CACHE_HOME": str(tmp_path)}
    folder = llama_cpp_folder(environ)
    if given:
        folder = tmp_path / "mine"
        environ["TUNESMITH_LLAMA_CPP"] = str(folder)
    (folder / "bin").mkdir(parents=True)
    with pytest.raises(StageError) as caught:
        llama_cpp(environ)
    assert caught.value.code is ExitCode.MISSING_INPUT
    assert caught.value.reason == "ToolchainMissing"
    assert str(folder) in caught.value.message
    assert "make toolchain" in caught.value.hint


def test_the_source_is_of_the_version_that_is_looked_for() -> None:
    """The requirement that the build downloads, with its hash, is the version that the stages look for."""
    (requirement,) = [line for line in REQUIREMENT.read_text().splitlines() if not line.startswith("#")]
    assert requirement.startswith(f"llama-cpp-python=={LLAMA_CPP_VERSION} --hash=sha256:")


def python(*lines: str) -> list[str]:
    return [sys.executable, "-c", "\n".join(("import os, sys", *lines))]


def test_output_is_appended_to_the_log(tmp_path: Path) -> None:
    """Everything that tools write, on either stream, is kept in order, after the command that wrote it."""
    log = tmp_path / "tool.log"
    run_tool(python("print('first')"), log, what="the first")
    run_tool(python("sys.stderr.write('second')"), log, what="the second", environ={"PATH": ""})
    text = log.read_text()
    assert text.index("$ ") < text.index("first\n") < text.index("second")
    assert text.count(f"$ {sys.executable} -c") == 2


def test_environment_is_the_one_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tool sees the environment that it is given, else the caller's."""
    monkeypatch.setenv("TONE", "ours")
    run_tool(python("print(os.environ.get('TONE'))"), tmp_path / "log", what="x")
    run_tool(python("print(os.environ.get('TONE'))"), tmp_path / "log", what="x", environ={"TONE": "theirs"})
    assert [line for line in (tmp_path / "log").read_text().splitlines() if line in ("ours", "theirs")] == [
        "ours",
        "theirs",
    ]


@pytest.mark.parametrize(
    ("lines", "code", "reason"),
    [
        pytest.param(["print('why')", "sys.exit(3)"], ExitCode.INTERNAL, "ToolFailed", id="any failure"),
        pytest.param(
            ["print('why: No space left on device')", "sys.exit(1)"], ExitCode.NO_SPACE, "NoSpace", id="a full disk"
        ),
        pytest.param(
            ["print('why', flush=True)", "os.kill(os.getpid(), 9)"],
            ExitCode.OUT_OF_MEMORY,
            "OutOfMemory",
            id="killed, as the kernel does when memory runs out",
        ),
    ],
)
def test_failure_has_its_class_and_the_last_lines(
    tmp_path: Path, lines: list[str], code: ExitCode, reason: str
) -> None:
    """A tool that fails is told with what was being done, its class, and the end of what it wrote, not all of it."""
    noise = "print('noise\\n' * 100)"
    with pytest.raises(StageError) as caught:
        run_tool(python(noise, *lines), tmp_path / "log", what="kneading the dough")
    assert caught.value.code is code
    assert caught.value.reason == reason
    assert caught.value.message.startswith("kneading the dough failed")
    assert "why" in caught.value.message
    assert caught.value.message.count("noise\n") < 20
