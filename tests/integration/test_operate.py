"""`tunesmith operator`: what it says when it cannot begin."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from tunesmith_stages.contract import ExitCode

UNREADABLE = """
current-context: test
contexts: [{name: test, context: {cluster: test, user: test}}]
clusters: [{name: test, cluster: {server: "https://127.0.0.1:1"}}]
users: [{name: test, user: {client-certificate: /not/there, client-key: /not/there}}]
"""
NO_CLUSTER: Mapping[str, tuple[str | None, Mapping[str, str], str]] = {
    "no kubeconfig": (None, {}, "there is no kubeconfig: "),
    "an empty kubeconfig": ("", {}, " holds no configuration"),
    "a kubeconfig that is no YAML": ("{", {}, " cannot be read: "),
    "no current context": ("contexts: []", {}, " has no current context"),
    "a certificate that is not there": (UNREADABLE, {}, "/not/there"),
    "a pod without its token": (None, {"KUBERNETES_SERVICE_HOST": "::1", "KUBERNETES_SERVICE_PORT": "443"}, " token "),
}


def operate(settings: str, folder: Path, kubeconfig: str | None, environ: Mapping[str, str]) -> tuple[int, str]:
    """Run the operator as its image does; return its exit code and what it says."""
    (folder / "settings.yaml").write_text(settings)
    if kubeconfig is not None:
        (folder / "kubeconfig").write_text(kubeconfig)
    own = {"PATH": os.environ["PATH"], "HOME": str(folder), "KUBECONFIG": str(folder / "kubeconfig")}
    command = [sys.executable, "-m", "tunesmith", "operator", f"--settings={folder}/settings.yaml", "--port=0"]
    done = subprocess.run(command, check=False, capture_output=True, text=True, env={**own, **environ}, timeout=300)
    return done.returncode, done.stderr


@pytest.mark.parametrize(("kubeconfig", "environ", "told"), NO_CLUSTER.values(), ids=NO_CLUSTER)
def test_no_cluster(tmp_path: Path, kubeconfig: str | None, environ: Mapping[str, str], told: str) -> None:
    """Without credentials of a cluster it says so, and what to do; it is no traceback."""
    code, said = operate("stageImage: stages:1", tmp_path, kubeconfig, environ)
    assert code == ExitCode.BAD_CONFIG, said
    sentence, hint = said.partition("error: there are no credentials of a cluster: ")[2].split("\nIn a pod, ")
    assert told in sentence
    assert "`automountServiceAccountToken`" in hint
    assert "KUBECONFIG" in hint
    assert "Traceback" not in said


def test_bad_settings(tmp_path: Path) -> None:
    """Each problem of the settings is a line with file, line and field."""
    code, said = operate("stageImages: stages:1", tmp_path, None, {})
    assert code == ExitCode.BAD_CONFIG
    assert said.startswith(f"error: {tmp_path}/settings.yaml: line 1: ")
    assert "did you mean `stageImage`?" in said
