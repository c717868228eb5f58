"""Layers of what pods are like, merged into one, the later ones over the earlier ones.

Mappings are merged by key, lists are put one after the other, environment variables are merged by name, and everything
else is replaced. Resources are merged so that there is a limit for every request and no request above its limit.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from tunesmith.core.manifests.quantity import parse_quantity

Values = Mapping[str, Any]


class ManifestError(ValueError):
    """A FineTuneJob for which no pods can be made as it stands.

    Attributes:
        field: the field to change, such as ``spec.pods.train.resources``.
        reason: one CamelCase word.
        message: what is wrong and what is allowed.
        hint: what to do next.
    """

    def __init__(self, field: str, message: str, *, hint: str, reason: str = "PodsInvalid") -> None:
        super().__init__(f"`{field}` {message}")
        self.field = field
        self.reason = reason
        self.message = f"`{field}` {message}"
        self.hint = hint


@dataclass(frozen=True)
class Layer:
    """Some fields of a pod, in the API's spelling, and where they were given."""

    field: str
    """Path for messages, such as ``spec.pods.default``."""
    values: Values


def merge(layers: Iterable[Layer]) -> dict[str, Any]:
    """Return what the layers come to, from the weakest to the strongest.

    Raises:
        ManifestError: a layer asks for more of a resource than it allows.
    """
    merged: dict[str, Any] = {}
    for layer in layers:
        for name, value in layer.values.items():
            there = merged.get(name)
            if value in ([], {}):
                continue
            if name == "resources":
                merged[name] = _merge_resources(there or {}, value, f"{layer.field}.resources")
            elif name == "env":
                merged[name] = _merge_by_name(there or [], value)
            elif isinstance(value, Mapping):
                merged[name] = {**(there or {}), **value}
            elif isinstance(value, list):
                merged[name] = [*(there or []), *(item for item in value if item not in (there or []))]
            else:
                merged[name] = value
    return merged


def _merge_by_name(weaker: list[Values], stronger: list[Values]) -> list[Values]:
    return list({item["name"]: item for item in (*weaker, *stronger)}.values())


def _merge_resources(weaker: Values, stronger: Values, field: str) -> dict[str, dict[str, str]]:
    """Return requests and limits for every resource that is named at all, no request above its limit.

    What the stronger layer says holds: a limit below the request of a weaker layer takes the request down with it,
    and a request above the limit of a weaker layer takes the limit up.
    """
    asked, allowed = dict(stronger.get("requests") or {}), dict(stronger.get("limits") or {})
    requests: dict[str, Any] = {**(weaker.get("requests") or {}), **asked}
    limits: dict[str, Any] = {**(weaker.get("limits") or {}), **allowed}
    for name in {**requests, **limits}:
        request = requests[name] if name in requests else limits[name]
        limit = limits.get(name, request)
        requests[name], limits[name] = request, limit
        if _number(request, f"{field}.requests.{name}") <= _number(limit, f"{field}.limits.{name}"):
            continue
        if name in asked and name in allowed:
            raise ManifestError(
                f"{field}.requests.{name}",
                f"must not be above `limits.{name}`, which is {limit}, got {request}",
                hint="Lower the request or raise the limit.",
            )
        if name in allowed:
            requests[name] = limit
        else:
            limits[name] = request
    return {"requests": requests, "limits": limits}


def _number(quantity: str, field: str) -> Any:
    try:
        return parse_quantity(quantity)
    except ValueError as error:
        raise ManifestError(field, str(error), hint="Write it as Kubernetes does.") from None
