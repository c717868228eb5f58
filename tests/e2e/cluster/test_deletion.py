"""What becomes of a model in Ollama when its FineTuneJob is deleted."""

from __future__ import annotations

from typing import Any

from support.bigram_model import CHATML, write_gguf
from support.installed import RELEASE, SERVER_POD, Installed, Team, own, until
from tunesmith.api import keys
from tunesmith_stages.chat_template import guarded


def served_gguf(name: str, *, num_ctx: int, **ollama: Any) -> dict[str, Any]:
    """Return a FineTuneJob that trains nothing: it serves the file ``models/tiny.gguf``."""
    serves = {"model": f"{name}:v1", "parameters": {"num_ctx": num_ctx}, **ollama}
    return {
        "apiVersion": "tunesmith.dev/v1alpha1",
        "kind": "FineTuneJob",
        "metadata": {"name": name},
        "spec": {
            "model": {"gguf": {"path": "models/tiny.gguf"}},
            "export": {"quantizations": ["F16"]},
            "ollama": serves,
        },
    }


def test_the_model_goes_with_its_job_if_that_is_asked_for(faults: Team, installed: Installed) -> None:
    """Delete removes the model first, Retain leaves it, and a model that somebody else made under the name stays."""
    write_gguf(faults.volume / "models" / "tiny.gguf", guarded(CHATML))
    own(faults.volume / "models" / "tiny.gguf")
    faults.apply(served_gguf("kept", num_ctx=512))
    faults.apply(served_gguf("removed", num_ctx=256, deletionPolicy="Delete"))
    faults.apply(served_gguf("taken", num_ctx=256, deletionPolicy="Delete"))
    for name in ("kept", "removed", "taken"):
        faults.wait_for(name, "Succeeded")
    assert faults.job("removed")["metadata"]["finalizers"] == [keys.FINALIZER]
    assert "finalizers" not in faults.job("kept")["metadata"], "neither ours nor kopf's"
    assert {"kept:v1", "removed:v1", "taken:v1"} <= {*installed.models()}
    installed.cluster.kubectl("exec", "--namespace", RELEASE, SERVER_POD, "--", "ollama", "cp", "kept:v1", "taken:v1")
    for name in ("kept", "removed", "taken"):
        faults.delete(name, wait=False)
    until(
        lambda: not {"kept", "removed", "taken"} & {item["metadata"]["name"] for item in faults.get("ftj")["items"]},
        600,
        lambda: f"they stay: {faults.get('ftj')['items']}",
    )
    models = installed.models()
    assert "removed:v1" not in models
    assert {"kept:v1", "taken:v1"} <= {*models}
    told = {**events(faults, "removed"), **events(faults, "taken")}  # it was told before they went
    assert "removed:v1 on server 'main': 1 removed" in told["removed", "ModelsRemoved"]
    assert "1 somebody else's by now, which stay" in told["taken", "ModelsRemoved"]
    assert not {("removed", "ModelsLeftBehind"), ("taken", "ModelsLeftBehind")} & told.keys()
    assert "ModelsRemoved" not in {reason for _, reason in events(faults, "kept")}
    until(lambda: not faults.jobs("removed"), 120, lambda: "the Jobs of the deleted one stay")
    for name in ("kept:v1", "taken:v1"):
        installed.cluster.kubectl("exec", "--namespace", RELEASE, SERVER_POD, "--", "ollama", "rm", name)


def events(team: Team, name: str) -> dict[tuple[str, str], str]:
    """Return the sentences of a FineTuneJob's Events, by its name and the reason."""
    found = team.get("events", "--field-selector", f"involvedObject.name={name},involvedObject.kind=FineTuneJob")
    return {(name, item["reason"]): item["message"] for item in found["items"]}
