"""What the programs have in common that print what is on a volume: how names are given to them, and how they end."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable

from tunesmith_stages.contract import ExitCode
from tunesmith_stages.failures import StageError, classify
from tunesmith_stages.path_name import is_name


def name(text: str) -> str:
    """Return the name of a job or an attempt, as it was given.

    Raises:
        argparse.ArgumentTypeError: it is none.
    """
    if not is_name(text):
        raise argparse.ArgumentTypeError(f"{text!r} must consist of letters, digits, '.', '_' and '-'")
    return text


def printed(write: Callable[[], None]) -> int:
    """Let `write` print to stdout, and return the exit code; why it cannot is told on stderr."""
    try:
        write()
        sys.stdout.flush()
    except BrokenPipeError:  # whoever reads has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (OSError, StageError, ValueError) as error:
        failure = classify(error)
        print(f"{failure.reason}: {failure.message}\n{failure.hint}", file=sys.stderr)
        return failure.code
    return ExitCode.OK
