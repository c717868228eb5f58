"""Environments of Python programs that tests and releases use; the content of each is pinned by hashes."""

from __future__ import annotations

import re
import sys
import venv
from dataclasses import dataclass
from pathlib import Path

from making import is_whole, make_once

from tunesmith_stages.tools import run_tool, toolchain_folder


@dataclass(frozen=True)
class Environment:
    """What is installed, and where.

    Attributes:
        name: of its folder, and for people.
        requirements: the file with the version and hash of everything in it.
        package: the one whose version is the environment's.
        expect: how long installing it takes, for people.
    """

    name: str
    requirements: Path
    package: str
    expect: str = "some seconds"

    @property
    def version(self) -> str:
        """The pinned version."""
        text = self.requirements.read_text(encoding="utf-8")
        found = re.search(rf"^{re.escape(self.package)}==([0-9.]+)", text, re.MULTILINE)
        if not found:
            raise ValueError(f"{self.requirements} does not pin {self.package}")
        return found[1]

    @property
    def folder(self) -> Path:
        """Where it is, installed or not."""
        return toolchain_folder() / f"{self.name}-{self.version}"

    @property
    def python(self) -> Path:
        """Its interpreter, installed or not."""
        return self.folder / "bin" / "python"

    def ensure(self) -> Path:
        """Return its interpreter, installed first if need be.

        Raises:
            StageError: it cannot be installed.
        """
        if not is_whole(self.folder):
            make_once(self.folder, self.version, f"{self.expect} the first time", self._make)
        return self.python

    def _make(self, _work: Path, prefix: Path, log: Path) -> None:
        venv.create(prefix)
        pip = [sys.executable, "-m", "pip", "--python", str(prefix / "bin" / "python"), "install", "--quiet"]
        what = f"to install {self.name}"
        run_tool([*pip, "--require-hashes", "--requirement", str(self.requirements)], log, what=what)
