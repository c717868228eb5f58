"""Finds llama.cpp's programs and converter, and runs tools with their output kept in a log.

``TUNESMITH_LLAMA_CPP`` names the folder; without it, it is where ``make toolchain`` puts it, below the user's cache
folder. The folder holds ``bin/`` (llama-imatrix, llama-quantize, llama-server), ``convert/`` (convert_hf_to_gguf.py
with the packages ``conversion`` and ``gguf-py`` of the same commit) and ``VERSION`` (one line).
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tunesmith_stages.contract import ExitCode
from tunesmith_stages.program import StageError, die_with_parent
from tunesmith_stages.reasons import recognised
from tunesmith_stages.reasons.row import Where

LLAMA_CPP_VERSION = "0.3.36"
"""Release of llama-cpp-python whose vendored llama.cpp is built by ``hack/toolchain``."""

LLAMA_CPP_BUILD = 2
"""Raised when other programs are built from that release, or the same ones otherwise: each has a folder of its own."""

_TAIL_LINES = 15
_WATCH_SECONDS = 0.25


@dataclass(frozen=True)
class LlamaCpp:
    """One llama.cpp: its programs and its converter, all from the same commit."""

    folder: Path
    version: str

    @property
    def quantize(self) -> Path:
        """The program llama-quantize."""
        return self.folder / "bin" / "llama-quantize"

    @property
    def imatrix(self) -> Path:
        """The program llama-imatrix."""
        return self.folder / "bin" / "llama-imatrix"

    @property
    def server(self) -> Path:
        """The program llama-server."""
        return self.folder / "bin" / "llama-server"

    @property
    def converter(self) -> Path:
        """Folder with convert_hf_to_gguf.py."""
        return self.folder / "convert"


def toolchain_folder(environ: Mapping[str, str] | None = None) -> Path:
    """Return the folder below the user's cache in which ``hack/toolchain`` keeps what it builds."""
    environ = os.environ if environ is None else environ
    cache = Path(environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "tunesmith" / "toolchain"


def llama_cpp_folder(environ: Mapping[str, str] | None = None) -> Path:
    """Return the folder below the user's cache where ``hack/toolchain`` puts the pinned llama.cpp."""
    return toolchain_folder(environ) / f"llama.cpp-{LLAMA_CPP_VERSION}-{LLAMA_CPP_BUILD}"


def llama_cpp(environ: Mapping[str, str] | None = None) -> LlamaCpp:
    """Return the llama.cpp to use.

    Raises:
        StageError: it is not there, or not whole.
    """
    environ = os.environ if environ is None else environ
    given = environ.get("TUNESMITH_LLAMA_CPP")
    folder = Path(given) if given else llama_cpp_folder(environ)
    try:
        version = (folder / "VERSION").read_text(encoding="utf-8").strip()
    except OSError as error:
        raise StageError(
            ExitCode.MISSING_INPUT,
            f"llama.cpp's tools are not in {folder} ({error.strerror})",
            reason="ToolchainMissing",
            hint="Run `make toolchain`, or set TUNESMITH_LLAMA_CPP to a folder with bin/, convert/ and VERSION.",
        ) from error
    return LlamaCpp(folder, version)


def run_tool(
    argv: Sequence[str | Path],
    log_file: Path,
    *,
    what: str,
    environ: Mapping[str, str] | None = None,
    folder: Path | None = None,
    watch: Callable[[], None] | None = None,
) -> None:
    """Run a tool to its end, its output appended to `log_file`; it ends when this process does.

    It runs in `folder`, if one is given. `watch` is called a few times a second meanwhile: it looks at the log or at a
    growing file and tells the progress.

    Raises:
        StageError: it failed; the message holds `what` was being done and the last lines that the tool wrote.
    """
    with log_file.open("ab") as output:
        output.write(f"$ {' '.join(str(part) for part in argv)}\n".encode())
        output.flush()
        status = _wait_for(
            subprocess.Popen(
                argv,
                stdout=output,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env=environ,
                cwd=folder,
                preexec_fn=die_with_parent,  # noqa: PLW1509 - a stage program starts no threads of its own
            ),
            watch,
        )
    require_success(status, log_file, what)


def require_success(status: int, log_file: Path, what: str) -> None:
    """Look how a tool ended.

    Args:
        status: its exit status; a signal's number below nought.
        log_file: whose last lines tell why it failed.
        what: was being done.

    Raises:
        StageError: it failed.
    """
    if status == 0:
        return
    tail = "\n".join(log_file.read_text(encoding="utf-8", errors="replace").splitlines()[-_TAIL_LINES:])
    said = f"{what} failed (exit code {status}):\n{tail}"
    if status == -signal.SIGKILL:
        raise StageError(ExitCode.OUT_OF_MEMORY, said)
    known = recognised(Where.EXIT_CODE, str(128 - status)) if status < 0 else recognised(Where.LOG, text=tail)
    if known is None or known.code is ExitCode.INTERNAL:
        raise StageError(ExitCode.INTERNAL, said, reason="ToolFailed")
    raise StageError(known.code, said, reason=known.name, hint=known.hint)


def _wait_for(process: subprocess.Popen[bytes], watch: Callable[[], None] | None) -> int:
    """Return the exit status of `process`; if the wait is interrupted, end it first."""
    try:
        while watch is not None:
            try:
                return process.wait(_WATCH_SECONDS)
            except subprocess.TimeoutExpired:
                watch()
        return process.wait()
    except BaseException:
        process.kill()
        process.wait()
        raise
