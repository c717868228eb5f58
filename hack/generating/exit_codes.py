"""The table of exit codes, from the contract."""

from __future__ import annotations

from generating.sections import with_section

from tunesmith_stages.contract import FAILURE_CLASSES, ExitCode


def with_table_of_exit_codes(page: str) -> str:
    """Return `page` with the table of exit codes."""
    lines = ["| exit code | class | meaning | what to do | tried again |", "|---|---|---|---|---|"]
    lines.append(f"| {ExitCode.OK:d} | - | Everything asked for is there. | - | - |")
    for code, kind in FAILURE_CLASSES.items():
        lines.append(f"| {code:d} | {kind.name} | {kind.means} | {kind.hint} | {code.retry.words} |")
    return with_section(page, "exit codes", "\n".join(lines))
