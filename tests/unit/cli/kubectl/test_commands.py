"""The plugin's command line: what is refused before any cluster is asked."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from tunesmith.cli.kubectl.commands import app


def plugin(*arguments: str, **environ: str) -> Result:
    """Run the plugin where there is no cluster."""
    environ = {"KUBECONFIG": "/nowhere/config", "NO_COLOR": "1", "COLUMNS": "200", **environ}
    return CliRunner().invoke(app, list(arguments), env=environ)


WRONG: dict[str, tuple[list[str], str]] = {
    "no name": (["status"], "Missing argument 'NAME'"),
    "a name with a slash": (["status", "../secrets"], "lower-case letters, digits, '-' and '.', got '../secrets'"),
    "a name in capitals": (["watch", "Bot"], "got 'Bot'"),
    "an empty name": (["logs", ""], "got ''"),
    "a namespace with a slash": (["status", "bot", "-n", "a/b"], "got 'a/b'"),
    "a namespace before the verb": (["-n", "a/b", "status", "bot"], "got 'a/b'"),
    "an unknown format": (["status", "bot", "-o", "yaml"], "'yaml' is not one of"),
    "an unknown stage": (["logs", "bot", "--stage", "evaluate"], "'evaluate' is not one of"),
    "an attempt that leads elsewhere": (["logs", "bot", "--attempt", "../../x"], "a name as `--list` gives it"),
    "an attempt like an option": (["logs", "bot", "--attempt=--list"], "a name as `--list` gives it"),
    "no lines": (["logs", "bot", "--tail", "0"], "Invalid value for '--tail'"),
    "a list to be followed": (["logs", "bot", "--list", "-f"], "goes with `--stage` only"),
    "a list of an attempt": (["logs", "bot", "--list", "--attempt", "1"], "goes with `--stage` only"),
    "a page as text": (["report", "bot", "--text", "-o", "page.html"], "goes without `--text`"),
    "the tail of a list": (["logs", "bot", "--list", "--tail", "1"], "goes with `--stage` only"),
}


@pytest.mark.parametrize(("arguments", "said"), WRONG.values(), ids=WRONG)
def test_wrong_arguments(arguments: list[str], said: str) -> None:
    """What cannot be meant is refused with what is allowed."""
    done = plugin(*arguments)
    assert done.exit_code == 2
    assert said in done.stderr


CONFIGS: dict[str, tuple[str | None, list[str], str]] = {
    "no file": (None, [], "there is no kubeconfig"),
    "a file that is not there": (None, ["--kubeconfig", "/nowhere/else"], "/nowhere/else is not there"),
    "no context": ("{}", [], "has no current context; it knows: none"),
    "another context": (
        json.dumps({"contexts": [{"name": "a", "context": {}}], "current-context": "a"}),
        ["--context", "b"],
        "has no context 'b'; it knows: a",
    ),
    "not YAML": ("a: [", [], "cannot be read"),
    "a context without a cluster": (
        json.dumps({"contexts": [{"name": "a", "context": {"cluster": "x"}}], "current-context": "a"}),
        [],
        "the context 'a' of the kubeconfig cannot be used",
    ),
}


@pytest.mark.parametrize(("config", "options", "said"), CONFIGS.values(), ids=CONFIGS)
def test_no_cluster(config: str | None, options: list[str], said: str, tmp_path: Path) -> None:
    """Without a usable kubeconfig it is said what is wrong with it, and how to choose another one."""
    file = tmp_path / "config"
    if config is not None:
        file.write_text(config, encoding="utf-8")
    done = plugin("status", "bot", *options, KUBECONFIG=str(file))
    assert done.exit_code == 1
    assert said in done.stderr
    assert "--kubeconfig" in done.stderr


def test_cluster_that_is_away(tmp_path: Path) -> None:
    """A cluster that does not answer is named by its address."""
    config = {
        "current-context": "a",
        "contexts": [{"name": "a", "context": {"cluster": "a", "user": "a"}}],
        "clusters": [{"name": "a", "cluster": {"server": "http://127.0.0.1:9"}}],
        "users": [{"name": "a", "user": {}}],
    }
    (tmp_path / "config").write_text(json.dumps(config), encoding="utf-8")
    for command in ("status", "watch", "logs", "report"):
        done = plugin(command, "bot", KUBECONFIG=str(tmp_path / "config"))
        assert done.exit_code == 1
        assert "The cluster at http://127.0.0.1:9 does not answer" in done.stderr
