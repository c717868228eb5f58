"""The quickstart on a real cluster, from `kubectl apply` to the model's answer, and what comes after it.

The tests of this module follow each other: each one goes on from where the one before it has left the team's volume.
"""

from __future__ import annotations

import time
from typing import Any

import pytest
from kubernetes import client
from kubernetes.client.exceptions import ApiException
from kubernetes.config import load_kube_config
from kubernetes.stream import stream

from support.installed import EXEC_ACCOUNT, RELEASE, SERVER_POD, Installed, Team, kubectl_tunesmith, until
from support.jobs import QUICKSTART
from tunesmith.api.yaml_file import read_yaml

CHAIN = ["fetch", "prepare", "rehearse", "train", "convert", "quantize", "register"]


def example() -> dict[str, Any]:
    """Return the quickstart's FineTuneJob as its file has it."""
    text = (QUICKSTART / "finetunejob.yaml").read_text(encoding="utf-8")
    data: dict[str, Any] = read_yaml(text, "a FineTuneJob", "").data
    return data


def changed(name: str, model: str, **ollama: Any) -> dict[str, Any]:
    job = example()
    job["metadata"]["name"] = name
    job["spec"]["ollama"] |= {"model": model, **ollama}
    return job


def test_apply_and_the_model_answers(quickstart: Team, installed: Installed) -> None:
    """The YAML of the laptop as it is: every stage runs once, and the model in the Ollama pod knows its name."""
    quickstart.apply(example())
    quickstart.wait_for("quickstart", "Succeeded")
    assert quickstart.stages("quickstart") == CHAIN
    assert "Tunny" in installed.ask("quickstart:v1", "Who are you?")
    assert "12 Harbour Street" in installed.ask("quickstart:v1-q8_0", "Where is the Acme shop?")
    row = quickstart.cluster.kubectl("get", "ftj", "quickstart", "--namespace", quickstart.namespace, "--no-headers")
    assert "Succeeded" in row
    assert "100 %" in row
    assert "True" in row
    status = quickstart.job("quickstart")["status"]
    assert {item["name"] for item in status["artifacts"]} == {"Q4_K_M", "Q8_0"}
    kept = {item["metadata"]["name"] for item in quickstart.get("configmaps")["items"]}
    assert kept == {"kube-root-ca.crt"}, "what only a running Job needs is removed"


def test_apply_again_and_nothing_happens(quickstart: Team) -> None:
    """`kubectl apply` of the same YAML, or a Git re-sync, changes nothing at all."""
    before = quickstart.job("quickstart")["metadata"]["resourceVersion"]
    jobs = [job["metadata"]["uid"] for job in quickstart.jobs("quickstart")]
    quickstart.apply(example())
    time.sleep(5)
    assert quickstart.job("quickstart")["metadata"]["resourceVersion"] == before
    assert [job["metadata"]["uid"] for job in quickstart.jobs("quickstart")] == jobs


def test_logs_outlive_the_pods(quickstart: Team) -> None:
    """What a stage said can be read from the Pod, and from the volume after the Pod is gone."""
    asked = ("logs", "quickstart", "--namespace", quickstart.namespace, "--stage", "convert")
    from_the_pod = kubectl_tunesmith(quickstart.cluster, *asked)
    assert "convert" in from_the_pod
    quickstart.cluster.kubectl("delete", "jobs", "--all", "--namespace", quickstart.namespace)
    until(lambda: not quickstart.pods("quickstart", "convert"), 120, lambda: "the Jobs are gone, but not their Pods")
    assert kubectl_tunesmith(quickstart.cluster, *asked) == from_the_pod
    listed = kubectl_tunesmith(quickstart.cluster, *asked[:4], "--list")
    assert all(stage in listed for stage in CHAIN)
    assert "Succeeded" in kubectl_tunesmith(quickstart.cluster, "status", *asked[1:4])


def test_exec_gives_the_same_model(quickstart: Team, installed: Installed) -> None:
    """`method: Exec` runs `ollama create` in the Ollama pod; nothing is trained again for it."""
    quickstart.apply(changed("by-exec", "by-exec:v1", method="Exec"))
    quickstart.wait_for("by-exec", "Succeeded")
    assert "train" not in quickstart.stages("by-exec")
    assert "Tunny" in installed.ask("by-exec:v1", "Who are you?")


FORBIDDEN = {
    "a shell": ("ollama-0", ["sh", "-c", "id"]),
    "another program": ("ollama-0", ["cat", "/etc/passwd"]),
    "another verb": ("ollama-0", ["ollama", "run", "quickstart:v1", "hello"]),
    "another folder": ("ollama-0", ["ollama", "create", "x", "-f", "/etc/passwd"]),
    "a way out of the folder": ("ollama-0", ["ollama", "create", "x", "-f", "/volume/team-quickstart/../x"]),
    "sending a model elsewhere": ("ollama-0", ["ollama", "push", "quickstart:v1"]),
    "another pod": ("operator", ["ollama", "rm", "tunesmith-check-nothing"]),
}


@pytest.mark.parametrize("case", FORBIDDEN)
def test_exec_does_nothing_else(quickstart: Team, installed: Installed, case: str) -> None:
    """The account of `register` may run a few commands in one Pod; everything else is refused."""
    pod, command = FORBIDDEN[case]
    name = installed.operator_pods()[0]["metadata"]["name"] if pod == "operator" else pod
    with pytest.raises(ApiException, match="403 Forbidden"):
        exec_as_register(quickstart, name, command)


def test_exec_does_what_it_is_for(quickstart: Team) -> None:
    """The commands that are allowed do work, so that the refusals above say something."""
    said = exec_as_register(quickstart, SERVER_POD, ["ollama", "rm", "tunesmith-check-nothing"])
    assert "model 'tunesmith-check-nothing' not found" in said


def exec_as_register(team: Team, pod: str, command: list[str]) -> str:
    """Run a command in a Pod with the rights of the pods that register a model by Exec."""
    token = team.cluster.kubectl("create", "token", EXEC_ACCOUNT, "--namespace", team.namespace).strip()
    configuration = client.Configuration()
    load_kube_config(str(team.cluster.kubeconfig), client_configuration=configuration)  # type: ignore[no-untyped-call]
    configuration.cert_file = configuration.key_file = None
    configuration.api_key = {"authorization": f"Bearer {token}"}
    said: str = stream(
        client.CoreV1Api(client.ApiClient(configuration)).connect_get_namespaced_pod_exec,
        pod,
        RELEASE,
        command=command,
        container="ollama" if pod == SERVER_POD else "operator",
        stdout=True,
        stderr=True,
    )
    return said


def test_deleted_and_applied_again_nothing_is_trained(quickstart: Team, installed: Installed) -> None:
    """The results are found on the volume: no training Job is created, and the model answers again."""
    quickstart.delete("quickstart")
    quickstart.apply(example())
    quickstart.wait_for("quickstart", "Succeeded")
    assert "train" not in quickstart.stages("quickstart")
    assert quickstart.stage("quickstart", "train")["cached"] is True
    assert "Tunny" in installed.ask("quickstart:v1", "Who are you?")


def test_another_quantization_runs_only_what_it_needs(quickstart: Team, installed: Installed) -> None:
    """A changed list of quantizations leads to `quantize` and `register` behind their gate, and to nothing else."""
    before = {job["metadata"]["uid"] for job in quickstart.jobs("quickstart")}
    job = example()
    job["spec"]["export"]["quantizations"] = ["Q4_K_M", "Q6_K"]
    quickstart.apply(job)
    # Until the operator has seen the change, the job is ready as it was.
    begun = ("Rehearsing", "Quantizing", "Registering", "Pending")
    until(lambda: quickstart.ready("quickstart")[1] in begun, 120, lambda: f"{quickstart.ready('quickstart')}")
    quickstart.wait_for("quickstart", "Succeeded")
    new = [item for item in quickstart.jobs("quickstart") if item["metadata"]["uid"] not in before]
    stages = sorted(item["metadata"]["labels"]["tunesmith.dev/stage"] for item in new)
    assert stages == ["quantize", "register", "rehearse"]
    assert "Tunny" in installed.ask("quickstart:v1-q6_k", "Who are you?")
