"""What the tests on a real cluster share: Tunesmith, installed by its chart, with a team for each group of tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from support.cluster import NodeCluster, cluster_with_nodes
from support.installed import Installed, Team, install, uninstall

TEAMS = ("team-quickstart", "team-faults", "team-inputs", "team-quota", "team-queue", "team-gitops", "team-gc")


@pytest.fixture(scope="session")
def node_cluster() -> Iterator[NodeCluster]:
    """Yield the cluster; no other run uses it meanwhile."""
    found = cluster_with_nodes()
    with found.used():
        yield found


@pytest.fixture(scope="session")
def installed(
    node_cluster: NodeCluster, tmp_path_factory: pytest.TempPathFactory, toy_base: Path
) -> Iterator[Installed]:
    """Yield the release; it and everything that belongs to it is removed afterwards."""
    made = install(node_cluster, tmp_path_factory.mktemp("cluster"), toy_base, TEAMS)
    yield made
    uninstall(made)


@pytest.fixture
def quickstart(installed: Installed) -> Team:
    """Return the team that runs the quickstart."""
    return installed.teams["team-quickstart"]


@pytest.fixture
def faults(installed: Installed) -> Team:
    """Return the team whose jobs are disturbed."""
    return installed.teams["team-faults"]


@pytest.fixture
def inputs(installed: Installed) -> Team:
    """Return the team whose jobs cannot work."""
    return installed.teams["team-inputs"]


@pytest.fixture
def quota(installed: Installed) -> Team:
    """Return the team that has a quota."""
    return installed.teams["team-quota"]


@pytest.fixture(scope="session")
def queued(installed: Installed) -> Team:
    """Return the team whose jobs wait for others."""
    return installed.teams["team-queue"]


@pytest.fixture
def collected(installed: Installed) -> Team:
    """Return the team whose volume is cleaned up."""
    return installed.teams["team-gc"]
