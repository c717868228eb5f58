"""How the commands read the files that people give them, and how they end when one cannot be used."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import NoReturn

from rich.console import Console
from rich.markup import escape

from tunesmith.api.finetunejob import FineTuneJob
from tunesmith.api.parse import parse_job
from tunesmith.api.problems import InvalidFileError
from tunesmith.api.settings import Settings, parse_settings
from tunesmith_stages.contract import ExitCode


def read_job(file: Path) -> tuple[FineTuneJob, str]:
    """Return the FineTuneJob in a file, `-` for standard input, and its text. Exit with what is wrong with it."""
    text = _read(file, "a FineTuneJob's YAML file")
    try:
        return parse_job(text), text
    except InvalidFileError as error:
        _show_problems(file, error)


def read_settings(file: Path) -> Settings:
    """Return the operator's settings in a file. Exit with what is wrong with them."""
    text = _read(file, "the operator's settings file")
    try:
        return parse_settings(text)
    except InvalidFileError as error:
        _show_problems(file, error)


def fail(what: str, hint: str, code: ExitCode) -> NoReturn:
    """Say what is wrong and what to do next, and exit."""
    _console().print(f"[red]✗[/] {escape(what)}\n  → {escape(hint)}", soft_wrap=True, highlight=False)
    sys.exit(code)


def _read(file: Path, wanted: str) -> str:
    try:
        return sys.stdin.read() if str(file) == "-" else file.read_text(encoding="utf-8")
    except OSError as error:
        fail(f"{file}: {error.strerror}.", f"Give the path of {wanted}.", ExitCode.MISSING_INPUT)
    except UnicodeDecodeError:
        fail(f"{file} is not UTF-8.", "Save it as UTF-8.", ExitCode.BAD_CONFIG)


def _show_problems(file: Path, error: InvalidFileError) -> NoReturn:
    for problem in error.problems:
        _console().print(f"[red]✗[/] {escape(f'{file}: {problem}')}", soft_wrap=True, highlight=False)
    sys.exit(ExitCode.BAD_CONFIG)


def _console() -> Console:
    return Console(stderr=True, emoji=False)
