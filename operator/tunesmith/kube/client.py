"""The real cluster, by the asyncio client of the `kubernetes` package.

Objects stay plain JSON: the client's typed models would cost several times the CPU time of the request.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import quote, urlencode, urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
from kubernetes.aio import config
from kubernetes.aio.client import ApiClient, Configuration
from kubernetes.aio.client.exceptions import ApiException
from kubernetes.aio.client.rest import RESTResponse

from tunesmith.api.keys import FIELD_MANAGER
from tunesmith.core.manifests.child import STAGE_CONTAINER
from tunesmith.kube.cluster import BY_KIND, PODS, ApiError, Listing, Object, Resource, T, to_version

_TIMEOUT = 30.0
_PAGE = 500
_WATCH_SECONDS = 60


@asynccontextmanager
async def connect() -> AsyncIterator[KubeCluster]:
    """Connect with the Pod's own credentials, or with a kubeconfig outside of a cluster.

    Raises:
        kubernetes.config.ConfigException: there are neither.
    """
    configuration = Configuration()
    try:
        config.load_incluster_config(configuration)  # type: ignore[no-untyped-call]
    except config.ConfigException:
        await config.load_kube_config(client_configuration=configuration)  # type: ignore[no-untyped-call]
    look_for_a_proxy_once(configuration)
    # Its `retries` stays None: what is tried again is for the work queue to say. 0 would mean: server errors, for ever.
    async with ApiClient(configuration) as client:
        yield KubeCluster(client)


def look_for_a_proxy_once(configuration: Configuration) -> None:
    """Take the proxy that the environment names now: the client would look for it, and for a .netrc, at each request.

    That costs it two threads each time, which is more than the request itself.
    """
    url = urlsplit(configuration.host)
    if configuration.proxy is None and not proxy_bypass(url.netloc):
        configuration.proxy = getproxies().get(url.scheme)
    configuration.client_session_kwargs = {"trust_env": False}


class KubeCluster:
    """Implements :class:`tunesmith.kube.cluster.Cluster`."""

    def __init__(self, client: ApiClient) -> None:
        self.client = client

    async def get(self, resource: Resource, namespace: str, name: str) -> Object | None:
        """Return an object, or None if it is not there."""
        try:
            return await self._object("GET", _path(resource, namespace, name))
        except ApiError as error:
            if error.status == 404:
                return None
            raise

    async def find(
        self, resource: Resource, namespace: str | None, *, labels: str = "", fields: str = ""
    ) -> list[Object]:
        """Return the objects of one namespace, or of all, that match the selectors."""
        selectors = {"labelSelector": labels, "fieldSelector": fields}
        return (await self._list(resource, namespace, selectors, lambda item: item)).items

    async def list_all(
        self, resource: Resource, namespace: str | None, read: Callable[[Object], T], *, labels: str = ""
    ) -> Listing[T]:
        """Return what is to be `read` of each of them, with the moment of which they tell."""
        return await self._list(resource, namespace, {"labelSelector": labels}, read)

    async def _list(
        self, resource: Resource, namespace: str | None, selectors: dict[str, str], read: Callable[[Object], T]
    ) -> Listing[T]:
        """Read page after page; all of them tell of the same moment, or the server says that it has forgotten it."""
        items: list[T] = []
        query = {**selectors, "limit": str(_PAGE), "continue": ""}
        while True:
            page = await self._object("GET", _path(resource, namespace), {k: v for k, v in query.items() if v})
            items += map(read, page.get("items") or ())
            query["continue"] = page["metadata"].get("continue") or ""
            if not query["continue"]:
                return Listing(items, to_version(page["metadata"].get("resourceVersion")))

    async def create(self, item: Object) -> Object:
        """Create an object and return it as the server made it."""
        resource = BY_KIND[item["kind"]]
        query = {"fieldManager": FIELD_MANAGER}
        return await self._object("POST", _path(resource, item["metadata"]["namespace"]), query, item)

    async def delete(self, resource: Resource, namespace: str, name: str, *, foreground: bool = False) -> None:
        """Delete an object, if it is there."""
        policy = "Foreground" if foreground else "Background"
        try:
            await self._object("DELETE", _path(resource, namespace, name), {"propagationPolicy": policy})
        except ApiError as error:
            if error.status != 404:
                raise

    async def replace(self, item: Object) -> Object:
        """Write an object that was read before; refused if it has changed since."""
        return await self._replace(item, "")

    async def replace_status(self, item: Object) -> Object:
        """Write the status of an object that was read before; refused if it has changed since."""
        return await self._replace(item, "/status")

    async def _replace(self, item: Object, part: str) -> Object:
        meta = item["metadata"]
        path = _path(BY_KIND[item["kind"]], meta["namespace"], meta["name"]) + part
        return await self._object("PUT", path, {"fieldManager": FIELD_MANAGER}, item)

    async def set_finalizers(self, item: Object, finalizers: list[str]) -> Object:
        """Write the finalizers of an object that was read before, nothing else; refused if it has changed since.

        A merge patch (RFC 7386) that names the object's uid and resource version is refused with a conflict if either
        is another one by now, so nobody else's finalizer is lost that came or went meanwhile.
        """
        meta = item["metadata"]
        patch = {"uid": meta["uid"], "resourceVersion": meta["resourceVersion"], "finalizers": finalizers}
        path = _path(BY_KIND[item["kind"]], meta["namespace"], meta["name"])
        return await self._object("PATCH", path, {"fieldManager": FIELD_MANAGER}, {"metadata": patch})

    async def pod_log(self, namespace: str, pod: str, *, lines: int) -> str:
        """Return the last lines that our container in a Pod wrote."""
        query = {"container": STAGE_CONTAINER, "tailLines": str(lines), "limitBytes": "65536"}
        return (await self._request("GET", _path(PODS, namespace, pod) + "/log", query)).decode("utf-8", "replace")

    async def stream_log(self, namespace: str, pod: str, query: dict[str, str]) -> AsyncGenerator[bytes]:
        """Yield what a container of a Pod writes, in pieces as they come, until the server ends it.

        Args:
            namespace: the Pod's.
            pod: its name.
            query: of the API's log endpoint, such as ``container`` and ``follow``.

        Raises:
            ApiError: it cannot be read, or not any further; status 0 also after minutes of silence, when nobody can
                tell a quiet program from a line that is dead.
        """
        async for piece in self._stream(_path(PODS, namespace, pod) + "/log", query, silence=5 * 60):
            yield piece

    async def watch(self, resource: Resource, namespace: str, name: str) -> AsyncGenerator[tuple[str, Object]]:
        """Yield what happens to one object from now on: ``ADDED``, ``MODIFIED`` or ``DELETED``, and it.

        If it is there it comes at once, as if it had just been added. It ends after a minute; whoever wants to know
        more begins anew.

        Raises:
            ApiError: it cannot be watched, or not any further.
        """
        query = {
            "watch": "true",
            "fieldSelector": f"metadata.name={name}",
            "timeoutSeconds": str(_WATCH_SECONDS),
        }
        rest = b""
        async for piece in self._stream(_path(resource, namespace), query, silence=_WATCH_SECONDS + _TIMEOUT):
            *lines, rest = (rest + piece).split(b"\n")
            for line in filter(None, lines):
                event = json.loads(line)
                if event["type"] == "ERROR":
                    said = event["object"]
                    raise ApiError(int(said.get("code", 0)), str(said.get("reason", "")), str(said.get("message", "")))
                yield event["type"], event["object"]

    async def _stream(self, path: str, query: dict[str, str], *, silence: float) -> AsyncGenerator[bytes]:
        limits = aiohttp.ClientTimeout(total=None, sock_connect=_TIMEOUT, sock_read=silence)
        answer = await self._ask("GET", path, query, limits=limits)
        try:
            async for piece in answer.response.content.iter_any():
                yield piece
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise ApiError(0, type(error).__name__, str(error)) from error
        finally:
            answer.response.close()

    async def _object(
        self, method: str, path: str, query: dict[str, str] | None = None, body: Object | None = None
    ) -> Object:
        made: Object = json.loads(await self._request(method, path, query, body))
        return made

    async def _request(
        self, method: str, path: str, query: dict[str, str] | None = None, body: Object | None = None
    ) -> bytes:
        answer = await self._ask(method, path, query, body)
        try:
            data: bytes = await answer.read()  # type: ignore[no-untyped-call]
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise ApiError(0, type(error).__name__, str(error)) from error
        return data

    async def _ask(
        self,
        method: str,
        path: str,
        query: dict[str, str] | None = None,
        body: Object | None = None,
        limits: aiohttp.ClientTimeout | float = _TIMEOUT,
    ) -> RESTResponse:
        """Return the server's answer, of which the body is still to be read.

        Raises:
            ApiError: there is none, or it is a refusal.
        """
        url = f"{self.client.configuration.host}{path}" + (f"?{urlencode(query)}" if query else "")
        content = "application/merge-patch+json" if method == "PATCH" else "application/json"
        headers = {"Accept": "application/json", "Content-Type": content}
        await self.client.update_params_for_auth(headers, [], ["BearerToken"], path, method, body)
        try:
            answer = await self.client.call_api(method, url, headers, body, _request_timeout=limits)
            refusal: bytes = b"" if 200 <= answer.status < 300 else await answer.read()  # type: ignore[no-untyped-call]
        except ApiException as error:
            raise _refused(error.status or 0, error.body, str(error.reason)) from None
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise ApiError(0, type(error).__name__, str(error)) from error
        if not 200 <= answer.status < 300:
            raise _refused(answer.status, refusal, str(answer.reason))
        return answer


def _refused(status: int, body: Any, reason: str) -> ApiError:
    try:
        said = json.loads(body)
        return ApiError(status, str(said.get("reason", reason)), str(said.get("message", "")))
    except (ValueError, TypeError, AttributeError):
        return ApiError(status, reason, str(body)[:200])


def _path(resource: Resource, namespace: str | None, name: str | None = None) -> str:
    parts = [resource.base]
    if namespace:
        parts += ["namespaces", quote(namespace, safe="")]
    parts.append(resource.plural)
    if name:
        parts.append(quote(name, safe=""))
        parts += [resource.part] if resource.part else []
    return "/".join(parts)
