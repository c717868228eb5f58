"""What NetworkPolicies let through: who may reach whom, computed from their selectors as Kubernetes defines them.

Tests use it where no network enforces policies. Sources: the reference of NetworkPolicy (networking.k8s.io/v1): a pod
that no policy of a direction selects is open in that direction; one that some select may do what any of them allows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

Manifest = Mapping[str, Any]


@dataclass(frozen=True)
class Peer:
    """A pod by its namespace and labels, or something outside of the cluster (`namespace` is empty)."""

    namespace: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Port:
    """Where a connection goes to."""

    number: int
    protocol: str = "TCP"
    name: str = ""


def may_go(policies: Iterable[Manifest], pod: Peer, to: Peer, port: Port) -> bool:
    """Tell whether a pod is let out to a peer."""
    return _passes(policies, "Egress", pod, to, port)


def may_come(policies: Iterable[Manifest], pod: Peer, source: Peer, port: Port) -> bool:
    """Tell whether a peer is let in to a pod."""
    return _passes(policies, "Ingress", pod, source, port)


def _passes(policies: Iterable[Manifest], direction: str, pod: Peer, other: Peer, port: Port) -> bool:
    chosen = list(_of_pod(policies, direction, pod))
    if not chosen:
        return True
    side = "to" if direction == "Egress" else "from"
    rules = (rule for policy in chosen for rule in policy["spec"].get(direction.lower()) or ())
    return any(
        _peers_hold(rule.get(side), policy_namespace=pod.namespace, other=other) and _ports_hold(rule, port)
        for rule in rules
    )


def _of_pod(policies: Iterable[Manifest], direction: str, pod: Peer) -> Iterator[Manifest]:
    for policy in policies:
        spec = policy["spec"]
        own = policy["metadata"]["namespace"] == pod.namespace
        if own and direction in spec["policyTypes"] and _selects(spec["podSelector"], pod.labels):
            yield policy


def _ports_hold(rule: Manifest, port: Port) -> bool:
    ports = rule.get("ports")
    return not ports or any(
        item.get("protocol", "TCP") == port.protocol and item["port"] in (port.number, port.name) for item in ports
    )


def _peers_hold(peers: list[Manifest] | None, *, policy_namespace: str, other: Peer) -> bool:
    return not peers or any(_is(peer, policy_namespace, other) for peer in peers)


def _is(peer: Manifest, policy_namespace: str, other: Peer) -> bool:
    unknown = peer.keys() - {"podSelector", "namespaceSelector"}
    assert not unknown, f"not computed here: {unknown}"
    if not other.namespace:
        return False
    if "namespaceSelector" in peer:
        where = _selects(peer["namespaceSelector"], {"kubernetes.io/metadata.name": other.namespace})
    else:
        where = other.namespace == policy_namespace
    return where and _selects(peer.get("podSelector", {}), other.labels)


def _selects(selector: Manifest, labels: Mapping[str, str]) -> bool:
    assert not selector.keys() - {"matchLabels", "matchExpressions"}, selector
    wanted = (selector.get("matchLabels") or {}).items()
    return wanted <= labels.items() and all(_holds(item, labels) for item in selector.get("matchExpressions") or ())


def _holds(expression: Manifest, labels: Mapping[str, str]) -> bool:
    value = labels.get(expression["key"])
    match expression["operator"]:
        case "In":
            return value in expression["values"]
        case "NotIn":
            return value not in expression["values"]
        case "Exists":
            return value is not None
        case "DoesNotExist":
            return value is None
    raise AssertionError(f"no such operator: {expression['operator']}")
