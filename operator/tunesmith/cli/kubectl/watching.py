"""`kubectl tunesmith watch`: a FineTuneJob as it is and as it becomes, also when the API server is away for a while."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from datetime import datetime

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from tunesmith.cli.kubectl.errors import is_passing
from tunesmith.cli.kubectl.finding import find, look_again, same
from tunesmith.cli.kubectl.page import Page, page_of
from tunesmith.cli.kubectl.rendering import as_line, as_text
from tunesmith.core.times import to_text
from tunesmith.kube.client import KubeCluster
from tunesmith.kube.cluster import FINETUNEJOBS, ApiError, Object

_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 10.0
_TOO_OLD = 410
_REFRESHES_PER_SECOND = 2


async def watch(cluster: KubeCluster, namespace: str, name: str, console: Console, now: Callable[[], datetime]) -> bool:
    """Show a FineTuneJob until it is done or does not go on; tell whether it is done.

    Raises:
        SaidError: it is not there, or was deleted meanwhile.
        ApiError: the API server refuses, or does not answer the first time.
    """
    item = await find(cluster, namespace, name)
    view = _LiveView(console, item, now) if console.is_terminal else _Lines(console, now)
    with view:
        async with aclosing(states(cluster, item, view.note)) as found:
            async for item in found:
                page = page_of(item, now())
                view.show(item, page)
                if page.ready or page.stalled:
                    return page.ready
    raise AssertionError("states end with an error only")


async def states(cluster: KubeCluster, item: Object, note: Callable[[str], None]) -> AsyncGenerator[Object]:
    """Yield a FineTuneJob as it is, and again whenever it changes.

    Args:
        cluster: the cluster.
        item: the FineTuneJob as it was read first.
        note: is told that the API server is away, and with an empty text that it is there again.

    Raises:
        SaidError: the FineTuneJob is gone.
        ApiError: the API server refuses.
    """
    yield item
    version, pause = item["metadata"]["resourceVersion"], _FIRST_PAUSE
    while True:
        try:
            async with aclosing(_from_now_on(cluster, item)) as found:
                async for seen in found:
                    pause = _FIRST_PAUSE
                    note("")
                    if seen["metadata"]["resourceVersion"] != version:
                        version = seen["metadata"]["resourceVersion"]
                        yield seen
        except ApiError as error:
            if is_passing(error):
                note(f"the API server is away ({error.message or error.reason}); it is asked again")
            elif error.status != _TOO_OLD:
                raise
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)


async def _from_now_on(cluster: KubeCluster, item: Object) -> AsyncGenerator[Object]:
    """Yield a FineTuneJob as it is now, and whenever it changes for as long as one request lasts."""
    meta = item["metadata"]
    yield await look_again(cluster, item)
    async with aclosing(cluster.watch(FINETUNEJOBS, meta["namespace"], meta["name"])) as events:
        async for kind, seen in events:
            yield same(None if kind == "DELETED" else seen, item)


class _Lines:
    """For what is no terminal: a line for each change."""

    def __init__(self, console: Console, now: Callable[[], datetime]) -> None:
        self._console = console
        self._now = now
        self._last = ""

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        pass

    def show(self, _: Object, page: Page) -> None:
        self._print(as_line(page))

    def note(self, text: str) -> None:
        if text:
            self._print(text)

    def _print(self, line: str) -> None:
        if line != self._last:
            self._console.print(Text(f"{to_text(self._now())} {line}"), soft_wrap=True)
            self._last = line


class _LiveView:
    """For a terminal: the whole page, with clocks that run."""

    def __init__(self, console: Console, item: Object, now: Callable[[], datetime]) -> None:
        self._item = item
        self._now = now
        self._note = ""
        self._live = Live(
            console=console, get_renderable=self._render, refresh_per_second=_REFRESHES_PER_SECOND, transient=False
        )

    def __enter__(self) -> None:
        self._live.start()

    def __exit__(self, *_: object) -> None:
        self._live.refresh()
        self._live.stop()

    def show(self, item: Object, _: Page) -> None:
        self._item = item

    def note(self, text: str) -> None:
        self._note = text

    def _render(self) -> RenderableType:
        page = as_text(page_of(self._item, self._now()))
        return Group(page, Text(self._note, style="yellow")) if self._note else page
