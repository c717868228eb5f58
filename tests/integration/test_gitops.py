"""The GitOps examples against the tools' own code, and FineTuneJobs as kstatus and Argo CD see them, without nodes."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from support.argocd import EXAMPLE as ARGOCD
from support.argocd import HEALTH, NAMESPACE, ArgoCD, argocd, built, example
from support.builders import job_data
from support.chart import CHART, Helm, add_namespaces, wait_until
from support.cluster import ApiServer, api_server
from support.generator import ROOT
from tunesmith.api.crd import custom_resource_definition
from tunesmith.api.parse import parse_job

GITOPS = ROOT / "examples" / "gitops"
FLUX = GITOPS / "flux"
CRD = "finetunejobs.tunesmith.dev"
TEAM = "team-a"
TESTS = yaml.safe_load((HEALTH / "health_test.yaml").read_text(encoding="utf-8"))["tests"]
SEEN_BY_FLUX: Mapping[str, tuple[str, str]] = {
    "dry-run": ("Current", "Current"),
    "edited": ("InProgress", "InProgress"),
    "stalled": ("Failed", "Failed"),
    "succeeded": ("Current", "Current"),
    "suspended": ("InProgress", "Current"),
    "training": ("InProgress", "InProgress"),
    "queued": ("InProgress", "InProgress"),
    "unseen": ("InProgress", "InProgress"),
}
"""By file of testdata: how kstatus sees it, and how Flux does with the example's expressions."""


# --- health, by the tools' own code ----------------------------------------------------------------------------------


def told(program: str, *arguments: str | Path) -> list[dict[str, str]]:
    """Return what one of the tools says of objects, a line each."""
    command = [built("argocd" if program.startswith("argocd") else "flux") / program, *arguments]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_argo_cds_health_check() -> None:
    """Argo CD's own Lua finds in each object the health that its health test says, to the letter."""
    found = told("argocd-health", HEALTH / "health.lua", *(HEALTH / test["inputPath"] for test in TESTS))
    assert found == [test["healthStatus"] for test in TESTS]
    assert {item["status"] for item in found} == {"Healthy", "Degraded", "Suspended", "Progressing"}


def test_every_object_of_the_health_check_is_tested() -> None:
    """Each object beside the health check is in its test, and is one that the API takes."""
    files = sorted(path.relative_to(HEALTH).as_posix() for path in (HEALTH / "testdata").glob("*.yaml"))
    assert files == sorted(test["inputPath"] for test in TESTS)
    for path in files:
        data = yaml.safe_load((HEALTH / path).read_text(encoding="utf-8"))
        parse_job(yaml.safe_dump({key: value for key, value in data.items() if key != "status"}))


def test_flux_and_kstatus_see_the_same() -> None:
    """By kstatus a job is ready, stalled or on its way; the example adds that a suspended job is not waited for."""
    files = [HEALTH / "testdata" / f"{name}.yaml" for name in SEEN_BY_FLUX]
    found = told("flux", "health", FLUX / "team-a.yaml", *files)
    seen = {name: (item["kstatus"], item["flux"]) for name, item in zip(SEEN_BY_FLUX, found, strict=True)}
    assert seen == SEEN_BY_FLUX
    assert {path.stem for path in (HEALTH / "testdata").glob("*.yaml")} == SEEN_BY_FLUX.keys()


def test_flux_knows_every_field_of_its_example(tmp_path: Path) -> None:
    """Flux's own types take the example, and refuse a field that is misspelt."""
    assert told("flux", "check", FLUX / "tunesmith.yaml", FLUX / "team-a.yaml") == []
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text((FLUX / "team-a.yaml").read_text(encoding="utf-8").replace("wait:", "waits:"), encoding="utf-8")
    with pytest.raises(subprocess.CalledProcessError) as refused:
        told("flux", "check", wrong)
    assert "waits" in refused.value.stderr


@pytest.mark.parametrize("path", sorted(GITOPS.glob("team-a/**/*.yaml")), ids=lambda path: path.name)
def test_the_teams_jobs_are_valid(path: Path) -> None:
    """The jobs of the example's team parse."""
    parse_job(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("tool", ["argocd", "flux"])
def test_the_charts_values_are_taken(tool: str, tmp_path: Path) -> None:
    """The values that the examples give the chart are some that it takes."""
    objects = list(yaml.safe_load_all((GITOPS / tool / "tunesmith.yaml").read_text(encoding="utf-8")))
    spec = objects[-1]["spec"]
    values = spec["source"]["helm"]["valuesObject"] if tool == "argocd" else spec["values"]
    rendered = Helm("helm4", tmp_path).must("template", "tunesmith", CHART, values=values)
    assert "tunesmith-stages:0.1.0" in rendered


# --- on an API server ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    """Yield an API server with a team's namespace, and no operator."""
    with api_server(tmp_path_factory.mktemp("api") / "server") as running:
        add_namespaces(running, TEAM, "tunesmith")
        yield running


def define(server: ApiServer) -> None:
    """Have FineTuneJobs defined."""
    server.kubectl("apply", "--server-side", "--filename=-", objects=custom_resource_definition())
    wait_until("FineTuneJobs are served", lambda: server.serves(CRD))


def job(name: str, **changes: Any) -> dict[str, Any]:
    return job_data({"metadata.name": name, **changes})


def write_status(server: ApiServer, name: str, kind: str) -> None:
    """Write the conditions of one of the health check's objects, as of the newest generation."""
    seen = yaml.safe_load((HEALTH / "testdata" / f"{kind}.yaml").read_text(encoding="utf-8"))["status"]
    generation = server.get("finetunejob", name, "--namespace", TEAM)["metadata"]["generation"]
    conditions = [{**item, "observedGeneration": generation} for item in seen["conditions"]]
    status = {"observedGeneration": generation, "conditions": conditions}
    patch = f"--patch={json.dumps({'status': status})}"
    where = (name, "--namespace", TEAM, "--subresource=status", "--type=merge")
    server.kubectl("patch", "finetunejob", *where, patch)


def test_helm_does_not_take_an_unseen_job_for_a_ready_one(server: ApiServer, tmp_path: Path) -> None:
    """Where no operator runs, `helm install --wait` waits; kstatus takes an object without a status for ready."""
    define(server)
    chart = tmp_path / "chart"
    (chart / "templates").mkdir(parents=True)
    (chart / "Chart.yaml").write_text("apiVersion: v2\nname: models\nversion: 0.1.0\n", encoding="utf-8")
    (chart / "templates" / "job.yaml").write_text(yaml.safe_dump(job("waited")), encoding="utf-8")
    helm = Helm("helm4", tmp_path, server.kubeconfig)
    done = helm.run("install", "waited", chart, "--namespace", TEAM, "--wait", "--timeout=4s")
    assert done.code != 0
    assert "InProgress" in done.err
    assert server.get("finetunejob", "waited", "--namespace", TEAM)["status"] == {"observedGeneration": -1}
    write_status(server, "waited", "succeeded")
    helm.must("upgrade", "waited", chart, "--namespace", TEAM, "--wait", "--timeout=60s")
    helm.must("uninstall", "waited", "--namespace", TEAM, "--wait")


def test_kubectl_does_not_take_an_edited_job_for_a_ready_one(server: ApiServer) -> None:
    """`kubectl wait` waits from an edit on, for as long as only the spec before it is said to be ready."""
    define(server)
    server.kubectl("create", "--namespace", TEAM, "--filename=-", objects=job("edited"))
    write_status(server, "edited", "succeeded")
    wait = ("wait", "finetunejob/edited", "--namespace", TEAM, "--for=condition=Ready")
    server.kubectl(*wait, "--timeout=5s")
    edit = '--patch={"spec": {"ollama": {"parameters": {"top_k": 1}}}}'
    server.kubectl("patch", "finetunejob", "edited", "--namespace", TEAM, "--type=merge", edit)
    with pytest.raises(subprocess.CalledProcessError, match="timed out waiting for the condition"):
        server.kubectl(*wait, "--timeout=2s")
    write_status(server, "edited", "succeeded")
    server.kubectl(*wait, "--timeout=5s")


@pytest.mark.parametrize("how", [(), ("--server-side",)], ids=["client", "server"])
def test_nothing_differs_after_apply(server: ApiServer, how: tuple[str, ...]) -> None:
    """`kubectl diff` is empty after `kubectl apply`, and applying again writes nothing: defaults are no difference."""
    define(server)
    name = f"same-{len(how)}"
    shown = yaml.safe_load((GITOPS / "team-a" / "finetunejobs" / "support-bot.yaml").read_text(encoding="utf-8"))
    shown["metadata"] = {"name": name, "namespace": TEAM}
    server.kubectl("apply", *how, "--filename=-", objects=shown)
    write_status(server, name, "training")
    before = server.get("finetunejob", name, "--namespace", TEAM)["metadata"]["resourceVersion"]
    assert server.kubectl("diff", *how, "--filename=-", objects=shown) == ""
    server.kubectl("apply", *how, "--filename=-", objects=shown)
    assert server.get("finetunejob", name, "--namespace", TEAM)["metadata"]["resourceVersion"] == before


# --- Argo CD, without nodes ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def argo(server: ApiServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ArgoCD]:
    """Yield Argo CD with the repositories of the platform and of the team in one; the latter has no job yet."""
    with argocd(server, tmp_path_factory.mktemp("argocd") / "argo") as running:
        folder = running.repository.folder
        subprocess.run(["cp", "-r", "--parents", "charts/tunesmith", folder], check=True, cwd=ROOT)
        running.repository.commit({"finetunejobs/README.md": "The team's models"})
        yield running


def test_the_health_check_takes_nothing_away(argo: ArgoCD) -> None:
    """Argo CD's ConfigMap has everything that it had before, and the health check."""
    given = yaml.safe_load((built("argocd").parent / "data" / "argocd-cm.yaml").read_text(encoding="utf-8"))
    found = argo.cluster.get("configmap", "argocd-cm", "--namespace", NAMESPACE)
    check = "resource.customizations.health.tunesmith.dev_FineTuneJob"
    assert found["data"].keys() == {*given["data"], check}
    assert found["metadata"]["labels"] == given["metadata"]["labels"]


def test_argo_cd_takes_the_examples(argo: ArgoCD, server: ApiServer) -> None:
    """Argo CD's definitions know every field of the examples."""
    for name in ("tunesmith.yaml", "team-a.yaml"):
        objects = example(name, argo.repository)
        server.kubectl("apply", "--dry-run=server", "--validate=strict", "--filename=-", objects=objects)


def test_platform_and_team_in_any_order(argo: ArgoCD, server: ApiServer) -> None:
    """The team's Application may come first; both end Synced. Uninstalling the platform keeps definition and jobs."""
    server.kubectl("delete", "crd", CRD, "--ignore-not-found")
    wait_until("no FineTuneJobs are served", lambda: not server.serves(CRD))
    project, team = example("team-a.yaml", argo.repository, syncPolicy=_SOON)
    project["spec"]["sourceRepos"] = [argo.repository.url]
    revision = argo.repository.commit({"finetunejobs/first.yaml": job("first")})
    argo.apply(project, team)
    wait_until("a first try", lambda: "operationState" in argo.application("team-a-models").get("status", {}))
    assert not server.serves(CRD)

    (platform,) = example("tunesmith.yaml", argo.repository)
    platform["metadata"]["finalizers"] = ["resources-finalizer.argocd.argoproj.io"]
    argo.apply(platform)
    for name in ("tunesmith", "team-a-models"):
        argo.wait_until_synced(name, revision)
    require_nothing_to_fight_about(argo, server)
    require_health_follows_the_status(argo, server)

    server.kubectl("delete", "application", "tunesmith", "--namespace", NAMESPACE, "--timeout=120s")
    assert server.get("deployments", "--namespace=tunesmith")["items"] == []
    assert server.get("finetunejob", "first", "--namespace", TEAM)


_SOON = {"retry": {"limit": 50, "backoff": {"duration": "1s", "factor": 1, "maxDuration": "1s"}}}
"""The example's patience is that of a cluster."""


def require_nothing_to_fight_about(argo: ArgoCD, server: ApiServer) -> None:
    """Defaults, the operator's status and people's annotations are no difference; nothing is written for them."""
    where = ("first", "--namespace", TEAM)
    server.kubectl("annotate", "finetunejob", *where, "tunesmith.dev/retry=1")
    write_status(server, "first", "training")
    before = server.get("finetunejob", *where, "--show-managed-fields")
    argo.refresh("team-a-models", "hard")
    argo.sync("team-a-models")
    argo.refresh("team-a-models", "hard")
    after = server.get("finetunejob", *where, "--show-managed-fields")
    assert argo.application("team-a-models")["status"]["sync"]["status"] == "Synced"
    assert after == before
    assert after["metadata"]["annotations"]["tunesmith.dev/retry"] == "1"
    owners = {entry["manager"]: entry["fieldsV1"] for entry in after["metadata"]["managedFields"]}
    assert "f:spec" in owners["argocd-controller"]


def require_health_follows_the_status(argo: ArgoCD, server: ApiServer) -> None:
    """Argo CD uses the health check as the example installs it."""
    wanted = {"training": "Progressing", "suspended": "Suspended", "stalled": "Degraded", "succeeded": "Healthy"}
    for kind, health in wanted.items():
        write_status(server, "first", kind)
        wait_until(f"{kind} is {health}", lambda health=health: argo.health("team-a-models", "first") == health)  # type: ignore[misc]


def test_the_definition_outlives_its_line_in_git(argo: ArgoCD, server: ApiServer) -> None:
    """A platform that stops defining FineTuneJobs does not take all jobs of the cluster with it."""
    define(server)
    (platform,) = example("tunesmith.yaml", argo.repository)
    argo.apply(platform)
    argo.wait_until_synced("tunesmith", argo.repository.git("rev-parse", "HEAD"))
    platform["spec"]["source"]["helm"]["valuesObject"]["crds"] = {"enabled": False}
    argo.apply(platform)
    argo.refresh("tunesmith")
    argo.sync("tunesmith")
    assert server.serves(CRD)


def test_the_kustomizations_build(server: ApiServer) -> None:
    """`kubectl kustomize` builds both examples; the health check goes whole into Argo CD's ConfigMap."""
    (made,) = yaml.safe_load_all(server.kubectl("kustomize", str(ARGOCD)))
    (check,) = made["data"].values()
    assert check == (HEALTH / "health.lua").read_text(encoding="utf-8")
    kinds = [item["kind"] for item in yaml.safe_load_all(server.kubectl("kustomize", str(FLUX)))]
    assert sorted(kinds)[:3] == ["GitRepository", "GitRepository", "HelmRelease"]
