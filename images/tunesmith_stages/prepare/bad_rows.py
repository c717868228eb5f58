"""Keeps count of the rows that cannot be used, where the job does not want to end at the first of them."""

from __future__ import annotations

from tunesmith_stages.contract import ExitCode
from tunesmith_stages.prepare.row import BadRow
from tunesmith_stages.program import StageError

_EXAMPLES = 20


class BadRows:
    """The bad rows of one dataset.

    Attributes:
        number: how many there are.
        examples: sentences about the first of them, at most 20.
    """

    def __init__(self, dataset: str, policy: str) -> None:
        """Begin with none; `policy` is ``Fail`` or ``Skip``."""
        self._dataset = dataset
        self._policy = policy
        self.number = 0
        self.examples: list[str] = []

    def add(self, bad: BadRow) -> None:
        """Count a bad row.

        Raises:
            StageError: the first one ends the stage.
        """
        if self._policy != "Skip":
            error = bad.error()
            message = f"dataset `{self._dataset}`, {error.message}"
            raise StageError(error.code, message, reason=error.reason, hint=error.hint)
        self.number += 1
        if len(self.examples) < _EXAMPLES:
            self.examples.append(bad.message)

    def check(self, rows: int) -> None:
        """Refuse a dataset all of whose `rows` were bad.

        Raises:
            StageError: so it was.
        """
        if rows and self.number >= rows:
            raise StageError(
                ExitCode.BAD_DATA,
                f"dataset `{self._dataset}`: none of its {rows} rows can be used; the first: {self.examples[0]}",
                reason="NoUsableRows",
                hint="Look at `format` and `columns` of the dataset: the rows are not of the format that was found.",
            )
