"""What the operator answers over HTTP: is it alive, is it ready, and its metrics."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from tunesmith.metrics import REGISTRY

Check = Callable[[], str | None]
"""Returns what is wrong, or None."""


@asynccontextmanager
async def serve(port: int, *, healthy: Check, ready: Check) -> AsyncIterator[None]:
    """Answer ``/healthz``, ``/readyz`` and ``/metrics`` on `port` as long as the block runs."""
    app = web.Application()

    def probe(check: Check) -> Callable[[web.Request], object]:
        async def answer(_request: web.Request) -> web.Response:
            trouble = check()
            return web.Response(status=503 if trouble else 200, text=f"{trouble or 'ok'}\n")

        return answer

    async def metrics(_request: web.Request) -> web.Response:
        return web.Response(body=generate_latest(REGISTRY), headers={"Content-Type": CONTENT_TYPE_LATEST})

    app.router.add_get("/healthz", probe(healthy))  # type: ignore[arg-type]
    app.router.add_get("/readyz", probe(ready))  # type: ignore[arg-type]
    app.router.add_get("/metrics", metrics)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, port=port).start()
        yield
    finally:
        await runner.cleanup()
