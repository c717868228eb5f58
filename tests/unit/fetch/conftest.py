"""What the tests of both hubs share."""

from __future__ import annotations

from pathlib import Path

import pytest

from unit.fetch.hubs import SERVERS


@pytest.fixture(params=SERVERS)
def form(request: pytest.FixtureRequest) -> str:
    """Return the form of a source: which hub it is."""
    return str(request.param)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return an empty volume."""
    folder = tmp_path / "volume"
    folder.mkdir()
    return folder
