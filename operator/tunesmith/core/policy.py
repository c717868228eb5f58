"""What the administrator allows: checked before anything is started, because a user of the API chooses the names."""

from __future__ import annotations

from tunesmith.api.finetunejob import FineTuneJob, RegisterMethod
from tunesmith.api.settings import Server, Settings

Obstacle = tuple[str, str]
"""Reason and sentence."""


def obstacle(job: FineTuneJob, namespace: str, settings: Settings) -> Obstacle | None:
    """Return why a job must not go on under these settings, or None."""
    servers = {server.name: server for server in settings.servers}
    for name in job.spec.ollama.servers:
        if name not in servers or not allows(servers[name], namespace):
            known = ", ".join(sorted(s.name for s in settings.servers if allows(s, namespace))) or "none"
            what = "does not exist" if name not in servers else f"is not for namespace {namespace}"
            return "ServerNotAllowed", (
                f"`spec.ollama.servers` names {name!r}, which {what}; servers for this namespace: {known}. "
                "Choose one of them, or ask the administrator of Tunesmith to define it."
            )
        found = _name_obstacle(job, namespace, servers[name])
        if found is not None:
            return found
        if job.spec.ollama.method is RegisterMethod.EXEC and servers[name].exec is None:
            return "ExecNotConfigured", (
                f"`spec.ollama.method` is Exec, but the administrator has configured no Pod for server {name!r}. "
                "Use `method: API`."
            )
    return None


def allows(server: Server, namespace: str) -> bool:
    """Tell whether the FineTuneJobs of a namespace may use a server."""
    return not server.allowed_namespaces or namespace in server.allowed_namespaces


def _name_obstacle(job: FineTuneJob, namespace: str, server: Server) -> Obstacle | None:
    prefix = prefix_of(server, namespace)
    if job.spec.ollama.model.startswith(prefix):
        return None
    return "ModelNameNotAllowed", (
        f"`spec.ollama.model` is {job.spec.ollama.model!r}; on server {server.name!r} names must begin with {prefix!r}."
    )


def prefix_of(server: Server, namespace: str) -> str:
    """Return what the names of a namespace's models must begin with on a server."""
    return server.model_name_prefix.replace("{namespace}", namespace)
