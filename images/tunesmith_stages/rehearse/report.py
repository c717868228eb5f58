"""What a rehearsal found: ``logs/report.json``, written at the end, also if a check fails."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tunesmith_stages.program import StageError, Work
from tunesmith_stages.volume import write_whole


@dataclass
class Check:
    """A check and what came of it."""

    name: str
    passed: bool | None
    """None: it could not be made."""
    sentence: str
    """What was found, or why it failed or was not made."""


@dataclass(frozen=True)
class Passed:
    """Checks that have passed."""

    when: str
    """RFC 3339, UTC."""
    checks: tuple[Check, ...]


class Report:
    """Collects what each check found, and tells it as it comes.

    The file holds ``checks`` (a list of ``name``, ``passed`` and ``sentence``, in the order in which they ran; the
    last one may have failed), ``estimates`` (:mod:`~tunesmith_stages.rehearse.estimates`) and ``servers`` (name to
    version).
    """

    def __init__(self, work: Work) -> None:
        self._work = work
        self.checks: list[Check] = []
        self.estimates: dict[str, Any] = {}
        self.servers: dict[str, str] = {}

    @property
    def passed(self) -> int:
        """How many checks have passed."""
        return sum(check.passed is True for check in self.checks)

    def check(self, name: str, ask: Callable[[], str]) -> None:
        """Run a check; `ask` returns the sentence that says what was found.

        Raises:
            StageError: it failed; the report says so, too.
        """
        check = Check(name, False, "")
        self.checks.append(check)
        try:
            check.sentence, check.passed = ask(), True
        except StageError as error:
            check.sentence = error.message
            raise
        self._work.progress.note(f"{name}: {check.sentence}")

    def passed_before(self, passed: Passed) -> None:
        """Take over checks that have passed at another time, with the same."""
        for check in passed.checks:
            sentence = f"{check.sentence} (passed before, on {passed.when[:10]} at {passed.when[11:16]} UTC)"
            self.checks.append(Check(check.name, True, sentence))
            self._work.progress.note(f"{check.name}: {sentence}")

    def not_made(self, name: str, why: str) -> None:
        """Say that a check cannot be made, which is no failure."""
        self.checks.append(Check(name, None, why))
        self._work.progress.note(f"{name}: not made: {why}")

    def write(self) -> None:
        """Write the file."""
        checks = [dataclasses.asdict(check) for check in self.checks]
        content = {"checks": checks, "estimates": self.estimates, "servers": self.servers}
        write_whole(self._work.logs / "report.json", json.dumps(content, indent=2, ensure_ascii=False) + "\n")
