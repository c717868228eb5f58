"""What a rehearsal found: ``logs/report.json``, written at the end, also if a check fails."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from tunesmith_stages.program import StageError, Work
from tunesmith_stages.volume import write_whole


class Report:
    """Collects what each check found, and tells it as it comes.

    The file holds ``checks`` (a list of ``name``, ``passed`` and ``sentence``, in the order in which they ran; the
    last one may have failed), ``estimates`` (:mod:`~tunesmith_stages.rehearse.estimates`) and ``servers`` (name to
    version).
    """

    def __init__(self, work: Work) -> None:
        self._work = work
        self._checks: list[dict[str, Any]] = []
        self.estimates: dict[str, Any] = {}
        self.servers: dict[str, str] = {}

    @property
    def passed(self) -> int:
        """How many checks have passed."""
        return sum(check["passed"] for check in self._checks)

    def check(self, name: str, ask: Callable[[], str]) -> None:
        """Run a check; `ask` returns the sentence that says what was found.

        Raises:
            StageError: it failed; the report says so, too.
        """
        entry = {"name": name, "passed": False, "sentence": ""}
        self._checks.append(entry)
        try:
            entry |= {"sentence": ask(), "passed": True}
        except StageError as error:
            entry["sentence"] = error.message
            raise
        self._work.progress.note(f"{name}: {entry['sentence']}")

    def write(self) -> None:
        """Write the file."""
        content = {"checks": self._checks, "estimates": self.estimates, "servers": self.servers}
        write_whole(self._work.logs / "report.json", json.dumps(content, indent=2, ensure_ascii=False) + "\n")
