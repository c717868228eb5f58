"""Builds the pinned Ollamas, and says which Ollama is to be used on this machine.

    python hack/toolchain/ollama.py [VERSION ...]   builds these (default: the newest pinned one)
    python hack/toolchain/ollama.py --which         prints the server or program that the demo uses

A version is pinned by ``ollama/<version>/{go.mod,go.sum}``, which hold the hash of everything that enters its program.
Since 0.30 Ollama runs models with llama.cpp's llama-server; the pinned llama.cpp's is put beside it.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import llama_cpp
from making import check_go, is_whole, make_once, run_main, tell
from tied import tied

from tunesmith.local.served import ollama_url
from tunesmith_stages.contract import ExitCode
from tunesmith_stages.ollama_gate import OLDEST
from tunesmith_stages.program import StageError
from tunesmith_stages.tools import run_tool, toolchain_folder

PINS = Path(__file__).parent / "ollama"
_MODULE = "github.com/ollama/ollama"
_ASK_SECONDS = 5.0


@dataclass(frozen=True)
class Running:
    """A server that somebody else started."""

    url: str
    version: str


@dataclass(frozen=True)
class Program:
    """An Ollama that can be started."""

    path: Path
    version: str


# --- the pinned ones -------------------------------------------------------------------------------------------------


def pinned_versions() -> list[str]:
    """Return the versions that can be built here, newest first."""
    return sorted((folder.name for folder in PINS.iterdir()), key=numbers_of, reverse=True)


def pinned(version: str) -> Program:
    """Return the pinned Ollama of a version, built or not."""
    return Program(_folder(version) / "bin" / "ollama", version)


def ensure(version: str) -> Program:
    """Return the pinned Ollama of a version, built first if need be.

    Raises:
        StageError: the version is not pinned, Go or a compiler is missing, or the build failed.
    """
    if version not in pinned_versions():
        raise StageError(
            ExitCode.BAD_CONFIG,
            f"Ollama {version} is not pinned; it must be one of: {', '.join(pinned_versions())}",
            reason="VersionNotPinned",
            hint="To pin another: see hack/toolchain/README.md.",
        )
    if not is_whole(_folder(version)):
        served = (
            f"Install Ollama itself ({_dotted(OLDEST)} or newer, see ollama.com), or set OLLAMA_HOST to a server that"
        )
        check_go(f"Ollama {version}", f"{served} runs: then none is built.")
        llama_cpp.check_compilers(f"Ollama {version}")
        server = llama_cpp.ensure().server
        make_once(
            _folder(version),
            version,
            "2 to 4 minutes the first time",
            lambda _work, prefix, log: _make(version, server, prefix, log),
        )
    return pinned(version)


def _folder(version: str) -> Path:
    return toolchain_folder() / f"ollama-{version}"


def _make(version: str, server: Path, prefix: Path, log: Path) -> None:
    stamp = f"-X={_MODULE}/version.Version={version} -X={_MODULE}/server.mode=release"
    build: list[str | Path] = ["go", "build", "-C", PINS / version, "-mod=readonly", "-trimpath", "-buildvcs=false"]
    build += [f"-ldflags=-s -w {stamp}", "-o", prefix / "bin" / "ollama", _MODULE]
    environ = {**os.environ, "GOFLAGS": "", "GOWORK": "off", "CGO_ENABLED": "1"}
    run_tool(tied(build), log, what=f"compiling Ollama {version}", environ=environ)
    beside = prefix / "lib" / "ollama"
    beside.mkdir(parents=True)
    shutil.copy2(server, beside / "llama-server")


# --- which one to use ------------------------------------------------------------------------------------------------


def which(environ: Mapping[str, str] | None = None) -> Running | Program:
    """Return the Ollama to use: the server at OLLAMA_HOST, else the program on PATH, else the newest pinned one.

    Whatever is passed over, and why, is told on stderr.

    Raises:
        StageError: none of them is there, and the pinned one cannot be built.
    """
    environ = os.environ if environ is None else environ
    if environ.get("OLLAMA_HOST"):
        url = ollama_url(environ)
        if version := version_at(url):
            return Running(url, version)
        tell(f"OLLAMA_HOST is set, but no Ollama answers at {url}; not using it")
    if found := shutil.which("ollama", path=environ.get("PATH")):
        version = _version_of(Path(found), environ)
        if numbers_of(version) >= OLDEST:
            return Program(Path(found), version)
        known = f"Ollama {version}" if version else "of unknown version"
        tell(f"{found} is {known}; not using it, because {_dotted(OLDEST)} or newer is needed")
    return ensure(pinned_versions()[0])


def version_at(url: str) -> str:
    """Return the version of the Ollama that answers at `url`, or nothing if none does."""
    parts = urlsplit(url)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = kind(parts.hostname or "", parts.port, timeout=_ASK_SECONDS)
    try:
        connection.request("GET", f"{parts.path}/api/version")
        answer = json.loads(connection.getresponse().read())
        return str(answer["version"])
    except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError):
        return ""
    finally:
        connection.close()


def _version_of(program: Path, environ: Mapping[str, str]) -> str:
    # With a server at hand it would tell that one's version; at port 1 there is none, so it tells its own.
    alone = {**environ, "OLLAMA_HOST": "127.0.0.1:1"}
    try:
        told = subprocess.run([program, "--version"], check=True, capture_output=True, text=True, timeout=30, env=alone)
    except (OSError, subprocess.SubprocessError):
        return ""
    found = re.search(r"version is v?(\S+)", told.stdout + told.stderr)
    return found[1] if found else ""


def numbers_of(version: str) -> tuple[int, ...]:
    """Return the numbers of a version, for comparing: ``v0.34.1-rc2`` is (0, 34, 1); what has none is ()."""
    found = re.match(r"v?(\d+)\.(\d+)\.(\d+)", version)
    return tuple(int(number) for number in found.groups()) if found else ()


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))


def main() -> int:
    """Build what the arguments name, or tell which Ollama is used."""
    parser = argparse.ArgumentParser(description="Build pinned Ollamas, or say which Ollama is used on this machine.")
    parser.add_argument("versions", nargs="*", metavar="VERSION", help=f"any of {', '.join(pinned_versions())}")
    parser.add_argument("--which", action="store_true", help="print the server or program that the demo uses")
    arguments = parser.parse_args()
    if arguments.which:
        chosen = which()
        place = chosen.url if isinstance(chosen, Running) else chosen.path
        print(f"{'server' if isinstance(chosen, Running) else 'program'} {place} {chosen.version}")
        return 0
    for version in arguments.versions or pinned_versions()[:1]:
        program = ensure(version)
        tell(f"Ollama {version}: {program.path}")
    return 0


if __name__ == "__main__":
    run_main(main)
