"""`kubectl tunesmith report`: the report on a FineTuneJob, made by a pod that sees the volume."""

from __future__ import annotations

import io
from collections.abc import Callable

from tunesmith.cli.kubectl.finding import find
from tunesmith.cli.kubectl.log_reader import read_from_volume
from tunesmith.core.manifests import REPORT_PROGRAM
from tunesmith.kube.client import KubeCluster


async def read_report(
    cluster: KubeCluster, namespace: str, name: str, *, as_text: bool, tell: Callable[[str], None]
) -> bytes:
    """Return the report on a FineTuneJob: a page of HTML, or text.

    Args:
        cluster: the cluster.
        namespace: the FineTuneJob's.
        name: the FineTuneJob's.
        as_text: whether it is wanted as text.
        tell: is told what is waited for.

    Raises:
        SaidError: there is no such job, nothing of it is on the volume, or no pod can read it.
        ApiError: the API server refuses, or does not answer.
    """
    made = io.BytesIO()
    item = await find(cluster, namespace, name)
    await read_from_volume(cluster, item, ["--text"] if as_text else [], made, tell, REPORT_PROGRAM)
    return made.getvalue()
