"""How the API server is asked: over which proxy, and for lists page by page."""

from __future__ import annotations

import asyncio

import pytest
from aiohttp import web
from kubernetes.aio.client import ApiClient, Configuration

from tunesmith.kube.client import KubeCluster, look_for_a_proxy_once
from tunesmith.kube.cluster import JOBS, Listing, Object

PAGES = {
    "": {"metadata": {"resourceVersion": "71", "continue": "more"}, "items": [{"metadata": {"name": "a"}}]},
    "more": {"metadata": {"resourceVersion": "71"}, "items": [{"metadata": {"name": "b"}}]},
}


def name_of(item: Object) -> str:
    return str(item["metadata"]["name"])


def test_a_list_tells_of_which_moment_it_is() -> None:
    """All pages are read, and the list's own version is returned: none of its objects need have it."""
    asked: list[dict[str, str]] = []

    async def answer(request: web.Request) -> web.Response:
        asked.append(dict(request.query))
        return web.json_response(PAGES[request.query.get("continue", "")])

    async def ask() -> Listing[str]:
        app = web.Application()
        app.router.add_get("/apis/batch/v1/jobs", answer)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        try:
            configuration = Configuration()
            configuration.host = f"http://127.0.0.1:{runner.addresses[0][1]}"
            async with ApiClient(configuration) as client:
                return await KubeCluster(client).list_all(JOBS, None, name_of, labels="tunesmith.dev/job-uid")
        finally:
            await runner.cleanup()

    listing = asyncio.run(ask())
    assert listing.items == ["a", "b"]
    assert listing.version == 71
    assert [query["labelSelector"] for query in asked] == ["tunesmith.dev/job-uid"] * 2


PROXIES: dict[str, tuple[dict[str, str], str | None, str | None]] = {
    "none": ({}, None, None),
    "for everything": ({"HTTPS_PROXY": "http://proxy:3128"}, None, "http://proxy:3128"),
    "for other protocols": ({"HTTP_PROXY": "http://proxy:3128"}, None, None),
    "not for this server": ({"HTTPS_PROXY": "http://proxy:3128", "NO_PROXY": "10.96.0.1"}, None, None),
    "another one in the kubeconfig": ({"HTTPS_PROXY": "http://proxy:3128"}, "http://own:1", "http://own:1"),
}


@pytest.mark.parametrize("case", PROXIES)
def test_the_proxy_of_the_environment_is_found_once(monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    """The proxy is as the environment and the kubeconfig say; no request looks at the environment or a .netrc again."""
    environ, given, expected = PROXIES[case]
    for name in ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)

    async def session_trusts_environment(configuration: Configuration) -> bool:
        async with ApiClient(configuration) as client:
            session = client.rest_client._create_pool_manager()
            await session.close()
            return bool(session.trust_env)

    configuration = Configuration()
    configuration.host, configuration.proxy = "https://10.96.0.1:443", given
    look_for_a_proxy_once(configuration)
    assert configuration.proxy == expected
    assert asyncio.run(session_trusts_environment(configuration)) is False
