"""What the pages and the quickstart show an administrator is taken: values by the chart, objects by the API server."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from support.chart import Helm, add_namespaces, wait_until
from support.cluster import ApiServer, api_server
from support.generator import ROOT
from support.pages import PAGES, Means, documents

CLUSTER = ROOT / "examples" / "01-quickstart" / "cluster"
SHOWN = [(page, document) for page in PAGES for document in documents(page)]
VALUES = {f"{page}-{i}": item.data for i, (page, item) in enumerate(SHOWN) if item.means is Means.VALUES}
KUEUES_OWN = "kueue.x-k8s.io/"
"""Objects of this group need Kueue: tests/e2e/cluster/test_kueue.py works with those of the page."""
OBJECTS = {
    f"{page}-{item.data['kind']}": item.data
    for page, item in SHOWN
    if item.means is Means.OBJECT and not item.data["apiVersion"].startswith(KUEUES_OWN)
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    """Yield an API server with the team's namespace."""
    with api_server(tmp_path_factory.mktemp("api") / "server") as running:
        add_namespaces(running, "team-a")
        wait_until("a service account", lambda: running.get("serviceaccounts", "--namespace=team-a")["items"])
        yield running


@pytest.mark.parametrize("name", VALUES)
def test_values_on_a_page(name: str, tmp_path: Path) -> None:
    """The chart takes the values on a page; a part of them, together with the one value that must be given."""
    shown: Mapping[str, Any] = VALUES[name]
    assert Helm("helm4", tmp_path).render({"image": {"registry": "registry.example.com"}, **shown})


@pytest.mark.parametrize("name", OBJECTS)
def test_objects_on_a_page(name: str, server: ApiServer) -> None:
    """The API server takes an object on a page: every field is known, and the namespace's Pod Security lets it in."""
    server.kubectl("apply", "--dry-run=server", "--validate=strict", "--filename=-", objects=OBJECTS[name])


def test_the_quickstart_on_a_cluster(server: ApiServer, tmp_path: Path) -> None:
    """The quickstart's values install, and its team gets a volume that is bound."""
    values = yaml.safe_load((CLUSTER / "values.yaml").read_text(encoding="utf-8"))
    rendered = Helm("helm4", tmp_path).render(values)
    assert {"Deployment", "StatefulSet"} <= {item["kind"] for item in rendered}
    server.kubectl("apply", f"--filename={CLUSTER / 'team.yaml'}")
    wait_until("the claim is bound", lambda: phase_of_claim(server) == "Bound")


def phase_of_claim(server: ApiServer) -> str:
    return str(server.get("pvc", "tunesmith", "--namespace=quickstart")["status"]["phase"])


def test_something_is_shown() -> None:
    """The search for values and objects sees those of the installation."""
    kinds = {item["kind"] for item in OBJECTS.values()}
    assert {"PersistentVolumeClaim", "Role", "Pod"} <= kinds
    assert len(VALUES) > 3
