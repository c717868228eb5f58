"""`tunesmith operator`: what the operator's container runs."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Annotated

import typer

from tunesmith.api.settings import InvalidSettingsError, parse_settings


def operator(
    settings: Annotated[
        Path, typer.Option("--settings", help="YAML file with the operator's settings (made by the Helm chart).")
    ],
    port: Annotated[int, typer.Option("--port", help="Port of /healthz, /readyz and /metrics.")] = 8080,
    log_level: Annotated[str, typer.Option("--log-level", help="debug, info, warning or error.")] = "info",
) -> None:
    """Run the operator: watch FineTuneJobs and carry them out as Kubernetes Jobs."""
    from tunesmith.operator import LeaseLostError, run_operator, set_up_logging  # noqa: PLC0415 - kopf is for this command alone

    set_up_logging(log_level)
    try:
        read = parse_settings(settings.read_text(encoding="utf-8"))
    except OSError as error:
        raise SystemExit(f"error: {settings}: {error.strerror}") from None
    except InvalidSettingsError as error:
        print("\n".join(f"error: {settings}: {problem}" for problem in error.problems), file=sys.stderr)
        raise SystemExit(78) from None
    try:
        asyncio.run(run_operator(read, port=port))
    except LeaseLostError as error:
        raise SystemExit(f"error: {error}") from None
