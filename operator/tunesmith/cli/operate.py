"""`tunesmith operator`: what the operator's container runs."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from tunesmith.api.settings import InvalidSettingsError, parse_settings

_CREDENTIALS = (
    "In a pod, the token of its ServiceAccount must be mounted (`automountServiceAccountToken`); elsewhere, set "
    "KUBECONFIG to a kubeconfig with a current context."
)


def operator(
    settings: Annotated[
        Path, typer.Option("--settings", help="YAML file with the operator's settings (made by the Helm chart).")
    ],
    port: Annotated[int, typer.Option("--port", help="Port of /healthz, /readyz and /metrics.")] = 8080,
    log_level: Annotated[str, typer.Option("--log-level", help="debug, info, warning or error.")] = "info",
) -> None:
    """Run the operator: watch FineTuneJobs and carry them out as Kubernetes Jobs."""
    # The clients of Kubernetes are for this command alone.
    from kubernetes.aio.config import ConfigException  # noqa: PLC0415

    from tunesmith.kube.kubeconfig import KubeconfigError, find_context  # noqa: PLC0415
    from tunesmith.operator import LeaseLostError, run_operator, set_up_logging  # noqa: PLC0415

    set_up_logging(log_level)
    try:
        read = parse_settings(settings.read_text(encoding="utf-8"))
    except OSError as error:
        raise SystemExit(f"error: {settings}: {error.strerror}") from None
    except InvalidSettingsError as error:
        print("\n".join(f"error: {settings}: {problem}" for problem in error.problems), file=sys.stderr)
        raise SystemExit(78) from None
    in_pod = "KUBERNETES_SERVICE_HOST" in os.environ
    try:
        if not in_pod:  # it says better than the client what is wrong with a kubeconfig
            find_context(None, None, os.environ)
        asyncio.run(run_operator(read, port=port))
    except (KubeconfigError, ConfigException) as error:
        why = error.__context__ if in_pod and error.__context__ else error  # the client looks for a kubeconfig last
        print(f"error: there are no credentials of a cluster: {why}\n{_CREDENTIALS}", file=sys.stderr)
        raise SystemExit(78) from None
    except LeaseLostError as error:
        raise SystemExit(f"error: {error}") from None
