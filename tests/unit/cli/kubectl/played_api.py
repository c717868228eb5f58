"""As much of an API server as logs are read from, on loopback: a FineTuneJob, pods, and answers to requests for logs.

What only a node can do is played so; everything else is asked of a real API server.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from aiohttp import web

from tunesmith.kube.client import KubeCluster
from tunesmith.kube.kubeconfig import connect_to, find_context


@dataclass(frozen=True)
class Answer:
    """What one request for a log gets."""

    text: bytes = b""
    status: int = 200
    breaks: bool = False
    """The connection is lost after the text, in the middle of it."""
    then: Callable[[], object] = lambda: None
    """What happens in the cluster before the answer ends."""


@dataclass
class PlayedApi:
    """Pods and the answers to requests for their logs, in order; the last answer goes on for ever."""

    job: dict[str, Any] = field(default_factory=dict)
    """The FineTuneJob."""
    pods: dict[str, dict[str, Any]] = field(default_factory=dict)
    logs: dict[str, list[Answer]] = field(default_factory=dict)
    queries: list[dict[str, str]] = field(default_factory=list)
    """Of the requests for logs."""
    reader: tuple[Mapping[str, Any], Answer] = ({}, Answer(status=404))
    """The status that a pod gets which is created, and its log."""
    created: list[dict[str, Any]] = field(default_factory=list)
    refusals: dict[str, int] = field(default_factory=dict)
    """HTTP status by method: requests for pods that are refused."""

    def put(self, pod: dict[str, Any], *answers: Answer) -> str:
        """Have a pod with these answers; return its name."""
        name = str(pod["metadata"]["name"])
        self.pods[name], self.logs[name] = pod, list(answers)
        return name

    # --- what it answers

    async def get_job(self, _: web.Request) -> web.StreamResponse:
        return web.json_response(self.job) if self.job else _refusal(404)

    async def find_pods(self, _: web.Request) -> web.StreamResponse:
        return web.json_response({"metadata": {}, "items": list(self.pods.values())})

    async def get_pod(self, request: web.Request) -> web.StreamResponse:
        pod = self.pods.get(request.match_info["name"])
        return _refusal(404) if pod is None else web.json_response(pod)

    async def create_pod(self, request: web.Request) -> web.StreamResponse:
        pod = await request.json()
        self.created.append(pod)
        if "POST" in self.refusals:
            return _refusal(self.refusals["POST"])
        status, log = self.reader
        self.put({**pod, "metadata": {**pod["metadata"], "uid": "9"}, "status": status}, log)
        return web.json_response(pod)

    async def delete_pod(self, request: web.Request) -> web.StreamResponse:
        if "DELETE" in self.refusals:
            return _refusal(self.refusals["DELETE"])
        return web.json_response({}) if self.pods.pop(request.match_info["name"], None) else _refusal(404)

    async def log(self, request: web.Request) -> web.StreamResponse:
        self.queries.append(dict(request.query))
        answers = self.logs[request.match_info["name"]]
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if answer.status != 200:
            return _refusal(answer.status)
        response = web.StreamResponse()
        response.enable_chunked_encoding()
        await response.prepare(request)
        await response.write(answer.text)
        answer.then()
        if answer.breaks:
            await asyncio.sleep(0.05)  # what was written is on its way
            assert request.transport is not None
            request.transport.abort()
        return response


@asynccontextmanager
async def serving(api: PlayedApi) -> AsyncIterator[KubeCluster]:
    """Serve `api` until the block ends, and give the real client of it."""
    app = web.Application()
    pods = "/api/v1/namespaces/{namespace}/pods"
    app.router.add_get("/apis/tunesmith.dev/v1alpha1/namespaces/{namespace}/finetunejobs/{name}", api.get_job)
    app.router.add_get(pods, api.find_pods)
    app.router.add_post(pods, api.create_pod)
    app.router.add_get(pods + "/{name}", api.get_pod)
    app.router.add_delete(pods + "/{name}", api.delete_pod)
    app.router.add_get(pods + "/{name}/log", api.log)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    addresses: Sequence[Any] = runner.addresses
    try:
        with TemporaryDirectory() as folder:
            file = Path(folder) / "config"
            file.write_text(_kubeconfig(f"http://127.0.0.1:{addresses[0][1]}"), encoding="utf-8")
            async with connect_to(find_context(file, None, {})) as cluster:
                yield cluster
    finally:
        await runner.cleanup()


def _kubeconfig(url: str) -> str:
    return json.dumps(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "played",
            "contexts": [{"name": "played", "context": {"cluster": "played", "user": "anybody"}}],
            "clusters": [{"name": "played", "cluster": {"server": url}}],
            "users": [{"name": "anybody", "user": {}}],
        }
    )


def _refusal(status: int) -> web.Response:
    return web.json_response({"kind": "Status", "reason": f"Reason{status}", "message": "no"}, status=status)
