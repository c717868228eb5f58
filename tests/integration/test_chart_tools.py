"""The pinned tools of the chart are built from exactly what was pinned (``hack/toolchain/charts.py``)."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[2] / "hack" / "toolchain"))  # scripts, not a package that is installed

import charts

from tunesmith_stages.program import StageError

_MODULE, _VERSION = "tool.example/hello", "v1.2.3"
_PROGRAM = 'package main\n\nimport "fmt"\n\nvar version string\n\nfunc main() { fmt.Println("hello", version) }\n'


@pytest.fixture
def module_hash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Serve a small Go module from a folder, with caches of its own; return the module's hash."""
    versions = tmp_path / "proxy" / _MODULE / "@v"
    versions.mkdir(parents=True)
    go_mod = f"module {_MODULE}\n\ngo 1.21\n"
    files = {"go.mod": go_mod, "LICENSE": "free\n", "cmd/hello/main.go": _PROGRAM}
    with zipfile.ZipFile(versions / f"{_VERSION}.zip", "w") as archive:
        for name, text in files.items():
            archive.writestr(f"{_MODULE}@{_VERSION}/{name}", text)
    (versions / f"{_VERSION}.mod").write_text(go_mod)
    (versions / f"{_VERSION}.info").write_text(json.dumps({"Version": _VERSION}))
    monkeypatch.setenv("GOPROXY", f"file://{tmp_path / 'proxy'}")
    monkeypatch.setenv("GONOSUMDB", "*")
    monkeypatch.setenv("GOMODCACHE", str(tmp_path / "modules"))
    monkeypatch.setenv("GOFLAGS", "-modcacherw")  # or pytest could not remove the folder as a user
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    command = ["go", "mod", "download", "-json", f"{_MODULE}@{_VERSION}"]
    told = subprocess.run(command, check=True, capture_output=True, text=True, cwd="/").stdout
    return str(json.loads(told)["Sum"])


def pin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module_hash: str) -> None:
    """Make the small module the pinned kubeconform."""
    pins = tmp_path / "pins.txt"
    pins.write_text(f"# name\nkubeconform {_VERSION[1:]} {_MODULE} {module_hash} cmd/hello\n")
    monkeypatch.setattr(charts, "PINS", pins)


def test_built_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module_hash: str) -> None:
    """What has the pinned hash is built, knows its version, and is there from then on."""
    pin(tmp_path, monkeypatch, module_hash)
    program = charts.ensure("kubeconform")
    assert subprocess.run([program], check=True, capture_output=True, text=True).stdout == "hello v1.2.3\n"
    assert (program.parents[1] / "LICENSE").read_text() == "free\n"
    monkeypatch.setenv("PATH", "/nowhere")
    assert charts.ensure("kubeconform") == program, "nothing is needed to find it again"


def test_another_hash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module_hash: str) -> None:
    """What has not the pinned hash is not built, whoever serves it."""
    pin(tmp_path, monkeypatch, module_hash.replace(module_hash[3:8], "AAAAA"))
    with pytest.raises(StageError, match="has the hash") as refused:
        charts.ensure("kubeconform")
    assert refused.value.reason == "HashDiffers"
    assert not (tmp_path / "cache" / "tunesmith" / "toolchain" / "kubeconform-1.2.3").exists()


def test_refusals(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A tool that is not pinned and a machine without Go are told with what to do."""
    with pytest.raises(StageError, match="must be one of: helm4, helm3"):
        charts.ensure("helm5")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(StageError, match="there is no `go` on PATH"):
        charts.ensure("helm4")
