"""Brings Prometheus and promtool for the tests of metrics, dashboard and alerts: this machine's own, else Debian's.

    python hack/toolchain/prometheus.py

Debian's package is unpacked into a folder of the toolchain, not installed: there is no service and no user. The version
is the one that apt offers when it is first asked, its hash proven by apt. Tunesmith itself needs none of it.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

from making import is_whole, make_once, run_main, tell

from tunesmith_stages.contract import ExitCode
from tunesmith_stages.program import StageError
from tunesmith_stages.tools import run_tool, toolchain_folder

PACKAGE = "prometheus"
PROGRAMS = ("prometheus", "promtool")
_HINT = "Put `prometheus` and `promtool` on PATH."


def ensure() -> Path:
    """Return the folder with `prometheus` and `promtool`, unpacked first if need be.

    Raises:
        StageError: they are not on PATH, and this is no Debian or Ubuntu, or apt cannot bring them.
    """
    own = shutil.which(PROGRAMS[0])
    if own and all((Path(own).parent / program).exists() for program in PROGRAMS):
        return Path(own).parent
    folders = [folder for folder in toolchain_folder().glob(f"{PACKAGE}-*") if is_whole(folder)]
    if folders:
        return max(folders, key=lambda folder: (folder / "VERSION").stat().st_mtime) / "bin"
    if not shutil.which("apt-get"):
        raise StageError(
            ExitCode.MISSING_INPUT,
            "Prometheus is not on PATH, and there is no apt-get here to bring it",
            reason="PackagesMissing",
            hint=_HINT,
        )
    try:
        return _unpack()
    except StageError as error:  # lists may be missing or old: asked for anew only if it does not work with them
        tell(f"{PACKAGE}: {error.message.splitlines()[0]}; asking apt for its lists anew")
        subprocess.run(["apt-get", "update", "--quiet"], check=False, capture_output=True)
        return _unpack()


def _unpack() -> Path:
    version = _offered()
    folder = toolchain_folder() / f"{PACKAGE}-{version.replace(':', '_')}"
    make_once(folder, version, "some seconds", lambda work, prefix, log: _make(version, work, prefix, log))
    return folder / "bin"


def _offered() -> str:
    """Return the version that apt would install."""
    environ = {**os.environ, "LC_ALL": "C"}
    done = subprocess.run(["apt-cache", "policy", PACKAGE], check=False, capture_output=True, text=True, env=environ)
    found = re.search(r"^  Candidate: (\S*\d\S*)$", done.stdout, re.MULTILINE)
    if found is None:
        raise StageError(
            ExitCode.MISSING_INPUT, f"apt offers no package {PACKAGE}", reason="PackagesMissing", hint=_HINT
        )
    return found[1]


def _make(version: str, work: Path, prefix: Path, log: Path) -> None:
    for left in work.glob("*.deb"):
        left.unlink()
    run_tool(["apt-get", "download", f"{PACKAGE}={version}"], log, what=f"to download {PACKAGE}", folder=work)
    (package,) = work.glob(f"{PACKAGE}_*.deb")
    run_tool(["dpkg-deb", "--extract", package, work / "files"], log, what=f"to unpack {PACKAGE}")
    (prefix / "bin").mkdir()
    for program in PROGRAMS:
        shutil.copy(work / "files" / "usr" / "bin" / program, prefix / "bin" / program)
    shutil.copy(work / "files" / "usr" / "share" / "doc" / PACKAGE / "copyright", prefix / "copyright")


def main() -> int:
    """Bring them and print where they are."""
    print(ensure())
    return 0


if __name__ == "__main__":
    run_main(main)
