"""Which FineTuneJob serves its model under which name: at most one for each name of a server.

The servers are the whole cluster's, so the jobs of all namespaces count.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from enum import IntEnum
from typing import Any, NamedTuple

from tunesmith.api.keys import FINALIZER
from tunesmith.kube.items import Key, ready_reason
from tunesmith_stages.model_name import canonical, live_names

_STANDS_BACK = frozenset({"ModelNameTaken", "ServerNotAllowed", "ModelNameNotAllowed", "ExecNotConfigured"})
"""Reasons of a job that may not use a server or a name as it is written (``core.policy``)."""


class Claim(NamedTuple):
    """A model's name on a server, in the form by which the server tells names apart."""

    server: str
    model: str


class Rank(IntEnum):
    """Who goes before whom, if two want the same name; of the same rank the older one does."""

    SERVES = 0
    """It serves its model under that name."""
    GOES_ON = 1
    WAITS = 2
    """It stands back already. So it does not take the name of one that serves it and is just being made anew, and
    nobody can keep a name from others on a server that they may not use."""


def claims(item: Mapping[str, Any]) -> dict[Claim, Rank]:
    """Return the names that a FineTuneJob wants, one for each server and quantization.

    None if it is being deleted, unless its models are still being removed: who took a name then could lose his own.
    """
    if item["metadata"].get("deletionTimestamp") and FINALIZER not in (item["metadata"].get("finalizers") or ()):
        return {}
    spec = item.get("spec") or {}
    ollama, export = spec.get("ollama") or {}, spec.get("export") or {}
    names = live_names(str(ollama.get("model", "")), export.get("quantizations") or [""])
    wanted = [Claim(str(server), canonical(name)) for server in ollama.get("servers") or () for name in names.values()]
    served, otherwise = _served(item), Rank.WAITS if ready_reason(item) in _STANDS_BACK else Rank.GOES_ON
    return {claim: Rank.SERVES if claim in served else otherwise for claim in wanted}


def _served(item: Mapping[str, Any]) -> set[Claim]:
    said = (item.get("status") or {}).get("ollama") or ()
    return {Claim(str(one.get("server", "")), canonical(name)) for one in said for name in one.get("models") or ()}


class Claims:
    """The claims of all FineTuneJobs."""

    def __init__(self) -> None:
        self._by_claim: dict[Claim, dict[Key, Rank]] = defaultdict(dict)
        self._by_key: dict[Key, dict[Claim, Rank]] = {}

    def put(self, key: Key, now: Mapping[Claim, Rank]) -> set[Key]:
        """Take over what a FineTuneJob claims now; return the others that want some of what changed."""
        before = self._by_key.pop(key, {})
        changed = {claim for claim in {*before, *now} if before.get(claim) != now.get(claim)}
        concerned = {other for claim in changed for other in self._by_claim.get(claim, ()) if other != key}
        for claim in before:
            self._by_claim[claim].pop(key, None)
            if not self._by_claim[claim]:
                del self._by_claim[claim]
        for claim, rank in now.items():
            self._by_claim[claim][key] = rank
        if now:
            self._by_key[key] = dict(now)
        return concerned

    def of(self, key: Key) -> Mapping[Claim, Rank]:
        """Return what a FineTuneJob claims."""
        return self._by_key.get(key, {})

    def others(self, key: Key, claim: Claim) -> Iterable[tuple[Key, Rank]]:
        """Return who else claims that."""
        return [(other, rank) for other, rank in self._by_claim.get(claim, {}).items() if other != key]
