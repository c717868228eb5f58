"""Where the tests take Prometheus from (``hack/toolchain/prometheus.py``)."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[2] / "hack" / "toolchain"))  # scripts, not a package that is installed

import prometheus

from tunesmith_stages.program import StageError

APT = """#!/bin/sh
case "$0 $1" in
  *apt-cache*) echo "prometheus:"; echo "  Candidate: 1:2.3+ds-1" ;;
  *download*) mkdir -p usr/bin usr/share/doc/prometheus
    echo free > usr/share/doc/prometheus/copyright
    for program in prometheus promtool; do echo "$2" > usr/bin/$program; done
    tar -cf prometheus_2.3.deb usr ;;
  *dpkg-deb*) mkdir -p "$3" && tar -xf "$2" -C "$3" ;;
esac
"""
"""What apt does here, by the names of its programs."""


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of tools, which is empty; there are no programs on PATH but those that a test adds."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    (tmp_path / "bin").mkdir()
    return tmp_path / "cache" / "tunesmith" / "toolchain"


def add_program(name: str, text: str = "#!/bin/sh\n") -> None:
    """Put a program on PATH."""
    path = Path(os.environ["PATH"].split(os.pathsep)[0]) / name
    path.write_text(text)
    path.chmod(0o755)


def test_this_machines_own_goes_first(cache: Path, tmp_path: Path) -> None:
    """Both programs on PATH are taken as they are; one alone is not enough."""
    add_program("prometheus")
    with pytest.raises(StageError, match="not on PATH"):
        prometheus.ensure()
    add_program("promtool")
    assert prometheus.ensure() == tmp_path / "bin"
    assert not cache.exists()


def test_debians_is_unpacked_once(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The version that apt offers is unpacked, nothing is installed, and apt is not asked again."""
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}/usr/bin{os.pathsep}/bin")
    for name in ("apt-get", "apt-cache", "dpkg-deb"):
        add_program(name, APT)
    folder = prometheus.ensure()
    assert folder == cache / "prometheus-1_2.3+ds-1" / "bin"
    assert {(folder / name).read_text() for name in prometheus.PROGRAMS} == {"prometheus=1:2.3+ds-1\n"}
    assert (folder.parent / "copyright").read_text() == "free\n"
    monkeypatch.setenv("PATH", "/nowhere")
    assert prometheus.ensure() == folder


def test_without_apt_it_is_said_what_to_do(cache: Path) -> None:
    """Where there is no apt, or it has no such package, the error names the way out."""
    with pytest.raises(StageError, match="no apt-get") as refused:
        prometheus.ensure()
    assert "on PATH" in refused.value.hint
    add_program("apt-get", "#!/bin/sh\nexit 1\n")
    add_program("apt-cache", "#!/bin/sh\necho '  Candidate: (none)'\n")
    with pytest.raises(StageError, match="apt offers no package") as refused:
        prometheus.ensure()
    assert "on PATH" in refused.value.hint
    assert not list(cache.glob("prometheus-*"))
