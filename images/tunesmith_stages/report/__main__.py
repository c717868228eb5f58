"""Prints the report on a job: ``python -m tunesmith_stages.report --volume V --job NAME [--text]``. Writes nothing."""

from __future__ import annotations

if __name__ == "__main__":  # before what takes its time
    from tunesmith_stages.early_stop import stop_at_once

    stop_at_once()

import argparse
import sys
from pathlib import Path

from tunesmith_stages.contract import ExitCode
from tunesmith_stages.failures import StageError
from tunesmith_stages.preconditions import require_volume
from tunesmith_stages.printing import name, printed
from tunesmith_stages.report import Facts, gather, page_of, text_of
from tunesmith_stages.volume import Volume


def main() -> int:
    """Print the page, or the text; return the exit code."""
    parser = argparse.ArgumentParser(prog="tunesmith_stages.report", description="Prints the report on a job.")
    parser.add_argument("--volume", required=True, type=Path, help="the volume's root")
    parser.add_argument("--job", required=True, type=name, help="name of the FineTuneJob")
    parser.add_argument("--text", action="store_true", help="as plain text, not as a page of HTML")
    arguments = parser.parse_args()

    def write() -> None:
        facts = _facts(Volume(arguments.volume), arguments.job)
        sys.stdout.buffer.write((text_of(facts) if arguments.text else page_of(facts)).encode())

    return printed(write)


def _facts(volume: Volume, job: str) -> Facts:
    """Return what is known of a job.

    Raises:
        StageError: the volume is not there, or knows nothing of the job.
    """
    require_volume(volume)
    facts = gather(volume, job)
    if facts is None:
        raise StageError(
            ExitCode.MISSING_INPUT,
            f"nothing of a job {job!r} is on the volume ({volume.run(job)})",
            reason="JobNotFound",
            hint="A job has a report once its first stage has begun; see `kubectl tunesmith status`.",
        )
    return facts


if __name__ == "__main__":
    sys.exit(main())
