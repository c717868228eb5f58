"""FineTuneJobs that live in Git: a real Argo CD syncs them, and a real Helm waits for them."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml

from e2e.cluster.jobs import small_job
from e2e.cluster.test_faults import CHAIN
from support.argocd import ArgoCD, argocd, example
from support.chart import Helm
from support.installed import Installed, Team, until
from tunesmith.api.keys import JOB_LABEL, KEYS_ANNOTATION, STAGE_LABEL

APP = "team-a-models"
FOLDER = "finetunejobs"
TYPES = ("Q8_0", "Q4_0")


@pytest.fixture(scope="module")
def team(installed: Installed) -> Team:
    """Return the team whose jobs live in Git."""
    return installed.teams["team-gitops"]


@pytest.fixture(scope="module")
def argo(team: Team, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ArgoCD]:
    """Yield Argo CD with the team's Application, as the example has it; nothing is in the repository yet."""
    with argocd(team.cluster, tmp_path_factory.mktemp("argocd") / "argo") as running:
        running.repository.commit({f"{FOLDER}/README.md": "The team's models"})
        objects = yaml.safe_load(
            json.dumps(example("team-a.yaml", running.repository)).replace('"team-a"', json.dumps(team.namespace))
        )
        objects[0]["spec"]["sourceRepos"] = [running.repository.url]
        running.apply(*objects)
        yield running


def file_of(name: str) -> str:
    return f"{FOLDER}/{name}.yaml"


def bot(*types: str) -> dict[str, Any]:
    """Return the job that trains."""
    job = small_job("gitops")
    job["spec"]["export"]["quantizations"] = list(types)
    return job


def until_health(argo: ArgoCD, name: str, wanted: str) -> list[str]:
    """Wait for the health of a FineTuneJob in Argo CD and return what was seen until then, each once in a row."""
    seen: list[str] = []

    def there() -> bool:
        now = argo.health(APP, name)
        if now and (not seen or seen[-1] != now):
            seen.append(now)
        return now == wanted

    until(there, 600, lambda: f"{name} is never {wanted}: {seen}\n{argo.told(APP)}")
    return seen


def version(team: Team, name: str) -> tuple[Any, Any]:
    """Return what changes with each write to a FineTuneJob."""
    meta = team.job(name)["metadata"]
    return meta["generation"], meta["resourceVersion"]


def test_a_job_in_git_from_first_sync_to_pruning(argo: ArgoCD, team: Team) -> None:
    """The first sync trains, no later one does; a new quantization makes only that; what leaves Git is pruned."""
    argo.commit(APP, {file_of("gitops"): bot(TYPES[0])})
    assert until_health(argo, "gitops", "Healthy") == ["Progressing", "Healthy"]
    assert team.ready("gitops")[1] == "Succeeded"
    assert team.stages("gitops") == CHAIN

    require_children_are_not_argos(argo, team)
    require_syncs_change_nothing(argo, team)
    require_self_heal_trains_nothing(argo, team)

    known, before = names(team), quantized(team)
    argo.commit(APP, {file_of("gitops"): bot(*TYPES)})
    team.wait_for("gitops", "Succeeded")
    added = [job for job in team.jobs("gitops") if uid(job) not in known]
    assert sorted(stage_of(job) for job in added) == ["quantize", "register", "rehearse"]
    (asked,) = [job["metadata"]["annotations"][KEYS_ANNOTATION] for job in added if stage_of(job) == "quantize"]
    assert before.keys() == {TYPES[0]}
    assert quantized(team) == {**before, TYPES[1]: asked}, "the new one alone was made; the other is as it was"
    assert [item["models"] for item in team.job("gitops")["status"]["ollama"]] == [["gitops:v1", "gitops:v1-q4_0"]]
    until_health(argo, "gitops", "Healthy")

    require_degraded_and_suspended(argo, team)
    argo.commit(APP, {file_of("gitops"): None})
    until(lambda: left_of(team, "gitops") == [], 300, lambda: f"left: {left_of(team, 'gitops')}")
    assert [item["metadata"]["name"] for item in team.get("finetunejobs")["items"]] == ["resting"]


def uid(item: dict[str, Any]) -> str:
    return str(item["metadata"]["uid"])


def names(team: Team) -> set[str]:
    return {uid(job) for job in team.jobs("gitops")}


def stage_of(job: dict[str, Any]) -> str:
    return str(job["metadata"]["labels"][STAGE_LABEL])


def quantized(team: Team) -> dict[str, str]:
    """Return the content keys of what was quantized, by type."""
    return {unit["name"]: unit["key"] for unit in team.stage("gitops", "quantize")["units"]}


def left_of(team: Team, name: str) -> list[str]:
    """Return what is there of a job: itself, and what was made for it."""
    children = team.get("jobs,pods,configmaps,services", f"--selector={JOB_LABEL}={name}")["items"]
    whole = [item for item in team.get("finetunejobs")["items"] if item["metadata"]["name"] == name]
    return [f"{item['kind']} {item['metadata']['name']}" for item in (*whole, *children)]


def require_children_are_not_argos(argo: ArgoCD, team: Team) -> None:
    """What the operator makes bears nothing by which Argo CD would take it for its own, and prune it."""
    (listed,) = argo.application(APP)["status"]["resources"]
    assert (listed["kind"], listed["name"]) == ("FineTuneJob", "gitops")
    notes = team.job("gitops")["metadata"]["annotations"]
    assert notes["argocd.argoproj.io/tracking-id"].startswith(f"{APP}:")
    for child in team.get("jobs,pods,configmaps,services", f"--selector={JOB_LABEL}=gitops")["items"]:
        meta = child["metadata"]
        told = {**meta["labels"], **(meta.get("annotations") or {})}
        assert not [key for key in told if "argoproj" in key or key == "app.kubernetes.io/instance"], child


def require_syncs_change_nothing(argo: ArgoCD, team: Team) -> None:
    """Comparing anew and syncing by hand write nothing and start nothing; nothing differs afterwards."""
    before = version(team, "gitops")
    argo.refresh(APP, "hard")
    argo.sync(APP)
    argo.refresh(APP, "hard")
    assert argo.application(APP)["status"]["sync"]["status"] == "Synced"
    assert version(team, "gitops") == before
    assert team.stages("gitops") == CHAIN


def require_self_heal_trains_nothing(argo: ArgoCD, team: Team) -> None:
    """An edit by hand is put right, and the job ends as it was: with what was trained first."""
    keys = team.stage("gitops", "train")["keys"]
    trained = finished(team, "train")
    generation = version(team, "gitops")[0]
    patch = '--patch={"spec": {"training": {"maxSteps": 4000}}}'
    team.cluster.kubectl("patch", "ftj", "gitops", "--namespace", team.namespace, "--type=merge", patch)
    until(lambda: version(team, "gitops")[0] == generation + 2, 120, lambda: f"not put right: {argo.told(APP)}")
    team.wait_for("gitops", "Succeeded")
    assert team.stage("gitops", "train")["keys"] == keys
    assert finished(team, "train") == trained
    until_health(argo, "gitops", "Healthy")


def finished(team: Team, stage: str) -> list[str]:
    """Return the units of a stage that are on the team's volume."""
    return sorted(path.parent.name for path in (team.volume / "stages" / stage).glob("*/result.json"))


def require_degraded_and_suspended(argo: ArgoCD, team: Team) -> None:
    """A job that somebody must mend is Degraded, one that is suspended is Suspended; each tells Argo CD why."""
    broken = small_job("broken")
    broken["spec"]["datasets"][0]["columns"] = {"prompt": "question", "response": "answr"}
    resting = small_job("resting")
    resting["spec"]["suspend"] = True
    argo.commit(APP, {file_of("broken"): broken, file_of("resting"): resting})
    assert until_health(argo, "broken", "Degraded") == ["Progressing", "Degraded"]
    until_health(argo, "resting", "Suspended")
    told = {item["name"]: item["health"].get("message", "") for item in argo.application(APP)["status"]["resources"]}
    assert told["broken"].startswith("MissingColumn: ")
    assert told["resting"].startswith("Suspended: ")
    assert argo.health(APP) == "Degraded"
    argo.commit(APP, {file_of("broken"): None})
    until(lambda: left_of(team, "broken") == [], 300, lambda: f"left: {left_of(team, 'broken')}")


def test_helm_and_kubectl_wait_for_a_job(team: Team, tmp_path: Path) -> None:
    """Helm with `--wait` and `kubectl wait` end when the job is ready by its newest spec, Helm soon after it stalls."""
    helm = Helm("helm4", tmp_path, team.cluster.kubeconfig)
    chart = chart_with(tmp_path, dry("waited"))
    helm.must("install", "waited", chart, "--namespace", team.namespace, "--wait", "--timeout=600s")
    assert team.ready("waited")[:2] == ("True", "DryRunSucceeded")
    wait_ready(team, "5s")
    require_an_upgrade_is_waited_for(team, helm, tmp_path)

    broken = dry("waited")
    broken["spec"]["datasets"][0]["columns"] = {"prompt": "question", "response": "answr"}
    began = time.monotonic()
    where = ("--namespace", team.namespace, "--wait", "--timeout=900s")
    done = helm.run("upgrade", "waited", chart_with(tmp_path, broken), *where)
    assert done.code != 0
    assert time.monotonic() - began < 300
    assert team.stalled("waited")
    team.cluster.kubectl("wait", "ftj/waited", "--namespace", team.namespace, "--for=condition=Stalled", "--timeout=5s")
    helm.must("uninstall", "waited", "--namespace", team.namespace, "--wait")
    assert left_of(team, "waited") == []


def require_an_upgrade_is_waited_for(team: Team, helm: Helm, folder: Path) -> None:
    """Another spec, of a job that was ready: neither Helm nor kubectl ends before the job is ready by the new one."""
    edited = dry("waited")
    edited["spec"]["ollama"]["parameters"] = {"temperature": "0.5"}  # only the rehearsal sees it
    before, known = version(team, "waited")[0], rehearsals(team)
    where = ("--namespace", team.namespace, "--wait", "--timeout=300s")
    chart = chart_with(folder, edited)
    with ThreadPoolExecutor() as pool:
        helms = pool.submit(stands_after, team, lambda: helm.must("upgrade", "waited", chart, *where))
        until(lambda: version(team, "waited")[0] > before, 60, lambda: "the spec is as it was", every=0.05)
        kubectls = pool.submit(stands_after, team, lambda: wait_ready(team, "300s"))
        until(lambda: team.ready("waited")[0] == "False", 60, lambda: "the edit is not seen", every=0.05)
        assert (helms.done(), kubectls.done()) == (False, False)
        assert helms.result() == kubectls.result() == (before + 1, "True", "DryRunSucceeded")
    assert rehearsals(team) - known, "there was something to wait for"


def rehearsals(team: Team) -> set[str]:
    return {uid(job) for job in team.jobs("waited", "rehearse")}


def stands_after(team: Team, wait: Callable[[], object]) -> tuple[int, str, str]:
    """Return how the job stands, and by which generation of its spec, as soon as somebody has waited for it."""
    wait()
    job = team.job("waited")
    (ready,) = [item for item in job["status"]["conditions"] if item["type"] == "Ready"]
    assert job["status"]["observedGeneration"] == ready["observedGeneration"]
    return ready["observedGeneration"], ready["status"], ready["reason"]


def wait_ready(team: Team, timeout: str) -> None:
    where = ("ftj/waited", "--namespace", team.namespace)
    team.cluster.kubectl("wait", *where, "--for=condition=Ready", f"--timeout={timeout}")


def dry(name: str) -> dict[str, Any]:
    job = small_job(name)
    job["spec"]["dryRun"] = True
    return job


def chart_with(folder: Path, job: dict[str, Any]) -> Path:
    """Return a chart of a team that holds a FineTuneJob."""
    chart = folder / "chart"
    (chart / "templates").mkdir(parents=True, exist_ok=True)
    (chart / "Chart.yaml").write_text("apiVersion: v2\nname: models\nversion: 0.1.0\n", encoding="utf-8")
    (chart / "templates" / "job.yaml").write_text(yaml.safe_dump(job), encoding="utf-8")
    return chart
