"""The Ollama server dies at the worst moments."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from support.bigram_model import ANSWER, CHATML, write_gguf
from support.cluster import NodeCluster
from support.daemons import inside, servers, stage_programs
from support.installed import RELEASE, SERVER_POD, Installed, Team, own, until

JOB = "crashes"


def test_killed_in_an_upload_and_in_a_proof(faults: Team, installed: Installed) -> None:
    """Each time it goes on when the server is back; until all is proven, the old model keeps its name."""
    write_gguf(faults.volume / "models" / "bigram.gguf", template=CHATML)
    own(faults.volume / "models")
    faults.apply(job("Q8_0"))
    faults.wait_for(JOB, "Succeeded")
    old = served(installed)[f"{JOB}:v1"]
    faults.apply(job("Q4_0"))
    until(lambda: stage_programs(faults.cluster, JOB, "register"), 900, lambda: state(faults), 0.02)
    with uploads_stuck(faults.cluster):
        server = until(lambda: servers(faults.cluster), 60, lambda: "no server runs")[0]
        until(lambda: half_sent(server), 300, lambda: f"nothing was sent: {state(faults)}", 0.02)
        server.kill()
        faults.wait_for(JOB, "OllamaUnreachable", timeout=300)
    until(lambda: "proving Q4_0" in newest_log(faults), 600, lambda: state(faults), 0.02)
    servers(faults.cluster)[0].kill()
    faults.wait_for(JOB, "OllamaUnreachable", timeout=300)
    until(lambda: old in served(installed).values(), 300, lambda: "the server did not come back")
    assert served(installed)[f"{JOB}:v1"] == old
    faults.wait_for(JOB, "Succeeded")
    now = served(installed)
    assert now[f"{JOB}:v1"] != old
    assert not [name for name in now if name.startswith("tunesmith-check")]
    assert ANSWER in installed.ask(f"{JOB}:v1", "Who are you?")


def job(quantization: str) -> dict[str, Any]:
    """Return a job that serves a model as it is, without any training."""
    return {
        "apiVersion": "tunesmith.dev/v1alpha1",
        "kind": "FineTuneJob",
        "metadata": {"name": JOB},
        "spec": {
            "model": {"gguf": {"path": "models/bigram.gguf"}},
            "export": {"quantizations": [quantization]},
            "ollama": {"model": f"{JOB}:v1"},
        },
    }


def state(team: Team) -> str:
    """Return how the job stands."""
    return str(team.ready(JOB))


@contextmanager
def uploads_stuck(cluster: NodeCluster) -> Iterator[None]:
    """Let nothing more of a connection reach the Ollama server once it has taken 100 kB, until the block ends."""
    chosen = "--protocol tcp --dport 11434 --match connbytes --connbytes 100000: --connbytes-dir original"
    rule = ["FORWARD", *chosen.split(), "--connbytes-mode", "bytes", "--jump", "DROP"]
    subprocess.run([*inside(cluster), "iptables", "--wait", "--insert", *rule], check=True)
    try:
        yield
    finally:
        subprocess.run([*inside(cluster), "iptables", "--wait", "--delete", *rule], check=True)


def half_sent(server: psutil.Process) -> bool:
    """Tell whether a file is on its way: Ollama gives it its whole name only at the end."""
    environ = server.environ()
    models = environ.get("OLLAMA_MODELS") or f"{environ['HOME']}/.ollama/models"
    blobs = Path(f"/proc/{server.pid}/root{models}/blobs")
    return any(path.stat().st_size > 0 for path in blobs.glob("sha256-*") if len(path.name) < len("sha256-") + 64)


def served(installed: Installed) -> dict[str, str]:
    """Return the beginnings of the digests of the models that Ollama has, by name; nothing while it does not answer."""
    try:
        listed = installed.cluster.kubectl("exec", "--namespace", RELEASE, SERVER_POD, "--", "ollama", "list")
    except subprocess.CalledProcessError:
        return {}
    return {line.split()[0]: line.split()[1] for line in listed.splitlines()[1:] if line.strip()}


def newest_log(team: Team) -> str:
    """Return what the newest attempt at registering has printed so far."""
    logs = sorted((team.volume / "runs" / JOB / "logs").glob("register.*.log"), key=lambda path: path.stat().st_mtime)
    return logs[-1].read_text() if logs else ""
