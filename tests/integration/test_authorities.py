"""Whom a stage program trusts for https, tried with a real server and the libraries that the stages use."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.builders import stage_config
from support.https_server import Https, https_server
from tunesmith_stages.contract import ExitCode, Report, StageName

PROGRAM = """
import json, os, ssl, subprocess, sys
import certifi, httpx, requests
from tunesmith_stages.contract import StageName
from tunesmith_stages.program import Made, main

def speaks(ask):
    try:
        return bool(ask())
    except (OSError, httpx.TransportError):
        return False

def authorities(context):
    return set(context.get_ca_certs(binary_form=True))

def make(work):
    url = work.params["url"]
    child = [sys.executable, "-c", "import sys, urllib.request as u; u.urlopen(sys.argv[1])", url]
    public = authorities(ssl.create_default_context(cafile=certifi.where()))
    of_requests = ssl.create_default_context(cafile=os.environ.get("REQUESTS_CA_BUNDLE", certifi.where()))
    print(json.dumps({
        "httpx": speaks(lambda: httpx.get(url)),
        "requests": speaks(lambda: requests.get(url)),
        "a child": speaks(lambda: subprocess.run(child, capture_output=True).returncode == 0),
        "public ones": public <= authorities(httpx.create_ssl_context()) and public <= authorities(of_requests),
    }))
    return Made()

main(StageName.CONVERT, make)
"""


@pytest.fixture
def https(tmp_path: Path) -> Iterator[Https]:
    """Run a server with a certificate of an authority that is not public."""
    with https_server(tmp_path) as running:
        yield running


def run(root: Path, url: str, given: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run a stage program that asks `url` for something, in an environment without other certificates and proxies."""
    (root / "program.py").write_text(PROGRAM)
    (root / "volume").mkdir()
    config = stage_config(root / "volume", StageName.CONVERT, params={"url": url})
    (root / "stage.json").write_text(config.to_json())
    kept = {name: value for name, value in os.environ.items() if not name.endswith(("_CA_BUNDLE", "_PROXY", "_proxy"))}
    kept = {name: value for name, value in kept.items() if not name.startswith("SSL_CERT_")}
    more = {"TUNESMITH_CA_FILE": str(given)} if given else {}
    environ = {**kept, **more, "PYTHONPATH": os.pathsep.join(sys.path), "TMPDIR": str(root)}
    argv: list[str | Path] = [sys.executable, root / "program.py"]
    argv += ["--config", root / "stage.json", "--report", root / "report"]
    return subprocess.run(argv, capture_output=True, text=True, check=False, timeout=300, env=environ)


def test_given_authorities_are_trusted_besides_the_public_ones(https: Https, tmp_path: Path) -> None:
    """Every library and every child of a stage trusts the administrator's authority, and still the public ones."""
    done = run(tmp_path, https.url, tmp_path / "cert.pem")
    assert done.returncode == ExitCode.OK, done.stderr
    trusted = {"httpx": True, "requests": True, "a child": True, "public ones": True}
    assert json.loads(done.stdout.splitlines()[0]) == trusted


def test_without_given_authorities(https: Https, tmp_path: Path) -> None:
    """Nobody is trusted but the public authorities if the administrator gives no other."""
    done = run(tmp_path, https.url)
    assert done.returncode == ExitCode.OK, done.stderr
    trusted = {"httpx": False, "requests": False, "a child": False, "public ones": True}
    assert json.loads(done.stdout.splitlines()[0]) == trusted


@pytest.mark.parametrize("text", ["nonsense", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"])
def test_authorities_that_are_none(tmp_path: Path, text: str) -> None:
    """Certificates that cannot be read stop the stage, and the administrator is told where they were given."""
    (tmp_path / "ca.crt").write_text(text)
    assert run(tmp_path, "https://127.0.0.1:1", tmp_path / "ca.crt").returncode == ExitCode.BAD_CONFIG
    failure = Report.from_json((tmp_path / "report").read_text()).failure
    assert failure is not None
    assert failure.reason == "InvalidCaBundle"
    assert "network.caBundle" in failure.hint
