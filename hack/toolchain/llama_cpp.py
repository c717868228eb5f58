"""Builds the pinned llama.cpp: the programs and the converter that ``tunesmith_stages.tools`` looks for.

    python hack/toolchain/llama_cpp.py
    python hack/toolchain/llama_cpp.py --into FOLDER [--requirement FILE]

The source is the sdist of llama-cpp-python (``llama_cpp.txt`` holds its hash), which carries a whole llama.cpp with
tools and converter of one commit. Where TUNESMITH_LLAMA_CPP names a folder, that one is used and nothing is built.
The second form is for images: it builds into a folder of its own, also another release than the pinned one.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import re
import shutil
import sys
import tarfile
from functools import partial
from pathlib import Path

from making import cores, is_whole, make_once, run_main, tell
from tied import tied

from tunesmith_stages.contract import ExitCode
from tunesmith_stages.program import StageError
from tunesmith_stages.tools import LlamaCpp, llama_cpp, llama_cpp_folder, run_tool

REQUIREMENT = Path(__file__).with_suffix(".txt")
PROGRAMS = ("llama-imatrix", "llama-quantize", "llama-server")
"""Which of its programs are built. With others raise ``LLAMA_CPP_BUILD`` in ``tunesmith_stages.tools``."""
_CPU_SECONDS = 480


def ensure() -> LlamaCpp:
    """Return the llama.cpp to use, built first if need be.

    Raises:
        StageError: no compiler, no source, the build failed, or TUNESMITH_LLAMA_CPP names a folder without it.
    """
    folder = llama_cpp_folder()
    if not os.environ.get("TUNESMITH_LLAMA_CPP") and not is_whole(folder):
        build(folder, REQUIREMENT)
    return llama_cpp()


def build(folder: Path, requirement: Path) -> LlamaCpp:
    """Build the release that a requirements file pins into `folder`, unless that is whole.

    Raises:
        StageError: no compiler, no source, the file pins no llama-cpp-python, or the build failed.
    """
    check_compilers("llama.cpp")
    version = pinned_in(requirement)
    minutes = 1 + _CPU_SECONDS / cores() / 60
    make = partial(_make, requirement=requirement, version=version)
    make_once(folder, version, f"about {minutes:.0f} minutes on {cores()} cores", make)
    return LlamaCpp(folder, version)


def pinned_in(requirement: Path) -> str:
    """Return the release of llama-cpp-python that a requirements file pins.

    Raises:
        StageError: it pins none.
    """
    found = re.search(
        r"^llama-cpp-python==([0-9][0-9a-z.]*)(?=\s)", requirement.read_text(encoding="utf-8"), re.MULTILINE
    )
    if found:
        return found[1]
    raise StageError(
        ExitCode.BAD_CONFIG,
        f"{requirement} pins no release of llama-cpp-python",
        reason="PinMissing",
        hint="A line must say `llama-cpp-python==RELEASE --hash=sha256:...`, with the hash of the release's sdist.",
    )


def check_compilers(what: str) -> None:
    """Refuse to start a build that would end for want of a compiler.

    Raises:
        StageError: there is no C or no C++ compiler.
    """
    for language, variable, names in (("C", "CC", ("cc", "gcc", "clang")), ("C++", "CXX", ("c++", "g++", "clang++"))):
        given = os.environ.get(variable)
        # A compiler variable may hold arguments too: "ccache g++".
        if not any(shutil.which(name) for name in ([given.split()[0]] if given else names)):
            raise StageError(
                ExitCode.MISSING_INPUT,
                f"{what} cannot be built: there is no {language} compiler ({given or ', '.join(names)}) on PATH",
                reason="CompilerMissing",
                hint="Install one (Debian, Ubuntu: apt-get install g++; Fedora: dnf install gcc-c++).",
            )


def _make(work: Path, prefix: Path, log: Path, *, requirement: Path, version: str) -> None:
    source = work / "source"
    if not source.is_dir():
        _fetch_source(work, source, log, requirement=requirement, version=version)
    _compile(source, work / "build", log, version=version)
    (prefix / "bin").mkdir()
    for program in PROGRAMS:
        shutil.copy2(work / "build" / "bin" / program, prefix / "bin" / program)
    for part in ("conversion", "gguf-py/gguf"):
        shutil.copytree(source / part, prefix / "convert" / part)
    shutil.copy2(source / "convert_hf_to_gguf.py", prefix / "convert")
    shutil.copy2(source / "LICENSE", prefix)


def _fetch_source(work: Path, source: Path, log: Path, *, requirement: Path, version: str) -> None:
    """Download the sdist, whose hash pip checks, and unpack the llama.cpp in it; `source` appears by a rename."""
    download = [*_pip(), "download", "--disable-pip-version-check", "--no-input", "--progress-bar=off", "--no-deps"]
    download += ["--require-hashes", "--no-binary=llama-cpp-python", f"--requirement={requirement}", f"--dest={work}"]
    run_tool(tied(download), log, what="downloading llama.cpp's source (77 MB)")
    sdist = f"llama_cpp_python-{version}"
    unpacked, inside = work / "unpacked", f"{sdist}/vendor/llama.cpp/"
    shutil.rmtree(unpacked, ignore_errors=True)
    with tarfile.open(work / f"{sdist}.tar.gz") as archive:
        archive.extraction_filter = getattr(tarfile, "data_filter", None)  # it came with 3.11.4
        archive.extractall(unpacked, [entry for entry in archive if entry.name.startswith(inside)])  # noqa: S202
    (unpacked / inside).rename(source)
    shutil.rmtree(unpacked)


def _pip() -> list[str]:
    if importlib.util.find_spec("pip"):
        return [sys.executable, "-m", "pip"]
    if shutil.which("pip"):
        return ["pip"]
    raise StageError(
        ExitCode.MISSING_INPUT,
        "llama.cpp's source cannot be downloaded: there is no pip, neither in this Python nor on PATH",
        reason="PipMissing",
        hint=f"Install it (`uv pip install --python {sys.executable} pip`).",
    )


def _compile(source: Path, build: Path, log: Path, *, version: str) -> None:
    # Assertions carry their file's path: without the map, the place of the build would be in the programs.
    flags = f"-ffile-prefix-map={source}=llama.cpp"
    options = {
        "CMAKE_BUILD_TYPE": "Release",
        "CMAKE_C_FLAGS": flags,
        "CMAKE_CXX_FLAGS": flags,
        "CMAKE_MAKE_PROGRAM": str(_tool("ninja")),
        "BUILD_SHARED_LIBS": "OFF",
        "GGML_NATIVE": "OFF",  # programs that run on other machines too: containers copy them
        "LLAMA_BUILD_TESTS": "OFF",
        "LLAMA_BUILD_EXAMPLES": "OFF",
        "LLAMA_BUILD_APP": "OFF",
        "LLAMA_BUILD_UI": "OFF",
        "LLAMA_USE_PREBUILT_UI": "OFF",  # it would be downloaded
        "LLAMA_OPENSSL": "OFF",
        "LLAMA_BUILD_NUMBER": "1",  # both are read from git otherwise, and here is none
        "LLAMA_BUILD_COMMIT": f"llama-cpp-python-{version}",
    }
    configure: list[str | Path] = [_tool("cmake"), "-G", "Ninja", "-S", source, "-B", build]
    configure += [f"-D{name}={value}" for name, value in options.items()]
    run_tool(tied(configure), log, what="configuring llama.cpp")
    # ninja itself and not `cmake --build`: what is tied to this process must be what ends the compilers.
    run_tool(tied([_tool("ninja"), "-C", build, f"-j{cores()}", *PROGRAMS]), log, what="compiling llama.cpp")


def _tool(name: str) -> Path:
    """Find a build tool on PATH or beside this Python, where the development requirements put it."""
    found = shutil.which(name) or shutil.which(name, path=str(Path(sys.executable).parent))
    if not found:
        raise StageError(
            ExitCode.MISSING_INPUT,
            f"llama.cpp cannot be built: there is no {name}, neither on PATH nor beside {sys.executable}",
            reason="BuildToolMissing",
            hint=f"Install it (`uv pip install --python {sys.executable} {name}`).",
        )
    return Path(found)


def main() -> int:
    """Have llama.cpp built and say where it is."""
    parser = argparse.ArgumentParser(description="Build llama.cpp from pinned source.")
    parser.add_argument("--into", type=Path, metavar="FOLDER", help="build here, not in the cache")
    parser.add_argument(
        "--requirement", type=Path, metavar="FILE", help="with --into: what to build (default: the pin)"
    )
    arguments = parser.parse_args()
    if arguments.requirement and not arguments.into:
        parser.error("--requirement goes with --into: the cache holds the pinned release only")
    found = build(arguments.into, arguments.requirement or REQUIREMENT) if arguments.into else ensure()
    tell(f"llama.cpp {found.version}: {found.folder}")
    return 0


if __name__ == "__main__":
    run_main(main)
