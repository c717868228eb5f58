"""The CRD against a real API server: what it takes, what it refuses and in which words, what it stores and shows."""

from __future__ import annotations

import copy
import http.client
import json
import re
import ssl
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from support.builders import job_data
from support.cluster import ApiServer, api_server
from support.generator import EXAMPLE, ROOT
from tunesmith.api.crd import custom_resource_definition
from tunesmith.api.finetunejob import FineTuneJob
from tunesmith.api.kube_yaml import dump
from tunesmith.api.parse import InvalidJobError, parse_job, parse_object
from tunesmith.api.status import UNSEEN_GENERATION
from unit.api.test_crd import JOBS
from unit.api.test_parse import BAD_FIELDS, GOOD_TOGETHER

from generating.refusals import CASES, job_of, refusal_of  # isort: skip # found by support.generator

NAMESPACE = "default"
JOBS_PATH = f"/apis/tunesmith.dev/v1alpha1/namespaces/{NAMESPACE}/finetunejobs"


class RefusedError(Exception):
    """The API server's answer to an object that it does not take."""

    def __init__(self, answer: dict[str, Any]) -> None:
        super().__init__(answer["message"])
        self.causes = [(item.get("field", ""), item["message"]) for item in answer.get("details", {}).get("causes", [])]


class Jobs:
    """The FineTuneJobs of an API server."""

    def __init__(self, server: ApiServer) -> None:
        self.server = server
        authority = server.plane.authority
        self._tls = ssl.create_default_context(cafile=authority.certificate)
        self._tls.load_cert_chain(authority.certificate_of("admin"), authority.key_of("admin"))

    def wait_until_served(self, seconds: float = 30) -> None:
        """Wait for the API server to serve what was just defined; until then it knows no such path."""
        last = time.monotonic() + seconds
        while True:
            try:
                self._ask("GET", "", "application/json", {})
                return
            except (RefusedError, ValueError):
                assert time.monotonic() < last, f"not served within {seconds} s"
                time.sleep(0.1)

    def create(self, data: dict[str, Any], *, dry: bool = False, validation: str = "Strict") -> dict[str, Any]:
        """Create a job as `kubectl apply` does, refusing unknown fields; with `dry` it is not stored."""
        query = f"?fieldValidation={validation}{'&dryRun=All' if dry else ''}"
        return self._ask("POST", query, "application/json", data)

    def write_status(self, name: str, status: dict[str, Any]) -> dict[str, Any]:
        """Write the status of a job, as the operator does."""
        return self._ask("PATCH", f"/{name}/status", "application/merge-patch+json", {"status": status})

    def _ask(self, method: str, path: str, kind: str, data: dict[str, Any]) -> dict[str, Any]:
        plane = self.server.plane
        connection = http.client.HTTPSConnection(plane.address, plane.api_port, timeout=10, context=self._tls)
        try:
            connection.request(method, f"{JOBS_PATH}{path}", json.dumps(data), {"Content-Type": kind})
            response = connection.getresponse()
            answer: dict[str, Any] = json.loads(response.read())
        finally:
            connection.close()
        if response.status >= http.client.BAD_REQUEST:
            raise RefusedError(answer)
        return answer

    def columns(self, name: str, *options: str) -> dict[str, str]:
        """Return what `kubectl get` shows of a job, by column."""
        head, row = self.server.kubectl("get", "ftj", name, "--namespace", NAMESPACE, *options).splitlines()
        starts = [match.start() for match in re.finditer(r"\S+", head)]
        ends = [*starts[1:], None]
        return {head[a:b].strip(): row[a:b].strip() for a, b in zip(starts, ends, strict=True)}


@pytest.fixture(scope="module")
def jobs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Jobs]:
    """An API server that has the CRD."""
    with api_server(tmp_path_factory.mktemp("crd") / "server") as server:
        server.kubectl("apply", "--server-side", "--filename=-", objects=custom_resource_definition())
        found = Jobs(server)
        found.wait_until_served()
        found.create(job_data({"metadata.name": "stored"}))
        yield found


# --- the definition --------------------------------------------------------------------------------------------------


def test_the_definition_is_taken_as_it_is(jobs: Jobs) -> None:
    """The API server takes schema, defaults and rules (their cost too) without a word, and stores all of it."""
    crd = jobs.server.get("crd", "finetunejobs.tunesmith.dev")
    conditions = {item["type"]: item["status"] for item in crd["status"]["conditions"]}
    assert conditions == {"NamesAccepted": "True", "Established": "True"}
    (wanted,) = custom_resource_definition()["spec"]["versions"]
    (stored,) = crd["spec"]["versions"]
    assert stored["schema"] == wanted["schema"]


def test_it_is_small_enough_for_kubectl_apply() -> None:
    """`kubectl apply` keeps a copy of what it applies in an annotation of at most 262,144 bytes."""
    assert len(json.dumps(custom_resource_definition())) < 200_000


def test_short_name_and_category(jobs: Jobs) -> None:
    """`kubectl get ftj` and `kubectl get tunesmith` find the jobs."""
    assert jobs.server.get("ftj", "stored")["kind"] == "FineTuneJob"
    assert jobs.server.kubectl("get", "tunesmith", "--output=name").split() == ["finetunejob.tunesmith.dev/stored"]


# --- what is taken ---------------------------------------------------------------------------------------------------

EXAMPLES = {path.parent.name: path for path in sorted(ROOT.glob("examples/*/finetunejob.yaml"))}
TAKEN: dict[str, dict[str, Any]] = {
    **{name: job_data(changes) for name, changes in (*JOBS.items(), *GOOD_TOGETHER.items())},
    **{name: yaml.safe_load(path.read_text()) for name, path in EXAMPLES.items()},
    "every field": yaml.safe_load(EXAMPLE.read_text()),
    "the longest name": job_data({"metadata.name": "x" * 52}),
    "a tag of 70": job_data({"spec.ollama.model": f"m:{'x' * 70}", "spec.export": {"quantizations": ["Q8_0", "F16"]}}),
    "dots that lead nowhere": job_data({"spec.model.volume.path": "a/..b/c../.d/..."}),
    "a learning rate with an exponent": job_data({"spec.training.learningRate": "5e-5"}),
}


@pytest.mark.parametrize("name", TAKEN)
def test_good_jobs_are_taken_and_filled(jobs: Jobs, name: str) -> None:
    """What `tunesmith validate` takes is taken; what is stored means the same to the operator, with all defaults."""
    data = copy.deepcopy(TAKEN[name])
    data["metadata"] = {"name": data["metadata"]["name"], "namespace": NAMESPACE}
    mine = parse_job(dump(data))
    stored = jobs.create(data, dry=True)
    theirs, warnings = parse_object(stored)
    assert warnings == []
    assert theirs.spec == mine.spec


def test_numbers_are_those_that_kubectl_reads(jobs: Jobs, tmp_path: Path) -> None:
    """`1e9` and `16.0` are whole numbers to kubectl, and so to `tunesmith validate`."""
    buckets = {"zero_optimization": {"reduce_bucket_size": 1e9}}
    data = job_data({"spec.training.deepspeed": {"config": buckets}, "spec.training.lora": {"rank": 16.0}})
    data["metadata"] = {"name": "exponents", "namespace": NAMESPACE}
    file = tmp_path / "finetunejob.yaml"
    file.write_text(dump(data).replace("1000000000.0", "1e9"))
    assert "reduce_bucket_size: 1e9\n" in file.read_text()
    assert "rank: 16.0\n" in file.read_text()
    stored = json.loads(jobs.server.kubectl("create", "--dry-run=server", "--output=json", f"--filename={file}"))
    assert parse_object(stored)[0].spec == parse_job(file.read_text()).spec


def test_defaults_are_stored(jobs: Jobs) -> None:
    """A stored job says what it was run with, also after the defaults of a later version are others."""
    spec = jobs.server.get("ftj", "stored")["spec"]
    assert (spec["suspend"], spec["dryRun"], spec["ttlSecondsAfterFinished"]) == (False, False, 604_800)
    assert spec["ollama"] == {
        "model": "support-bot:v1",
        "servers": ["main"],
        "method": "API",
        "deletionPolicy": "Retain",
    }
    assert spec["export"] == {
        "outType": "BF16",
        "quantizations": ["Q4_K_M"],
        "importanceMatrix": "Auto",
        "keepMerged": False,
    }
    training = FineTuneJob.model_validate(job_data()).spec.training
    written = training.model_dump(mode="json", by_alias=True, exclude_none=True)
    assert spec["training"] == written


# --- what is refused -------------------------------------------------------------------------------------------------

ONCE = "must differ from the others in this list"
"""Of which the API server says: Duplicate value."""
OLLAMAS_OWN = "must be a name that Ollama takes"
"""Said with the part of the name that is wrong, which CEL cannot find."""


@pytest.mark.parametrize("case", CASES, ids=lambda case: refusal_of(case).field)
def test_rules_refuse_in_the_same_words(jobs: Jobs, case: dict[str, Any]) -> None:
    """What does not go together is refused by the API server with the field and the words of `tunesmith validate`."""
    problem = refusal_of(case)
    with pytest.raises(RefusedError) as caught:
        jobs.create(job_of(case), dry=True)
    if ONCE in problem.message:
        item = problem.field.removesuffix(".name")
        assert [words[:15] for field, words in caught.value.causes if field == item] == ["Duplicate value"]
        return
    if OLLAMAS_OWN in problem.message:
        assert [words for field, words in caught.value.causes if "Ollama reads that as a place" in words]
        return
    words = problem.message.partition(", got ")[0]
    assert [said for field, said in caught.value.causes if field == problem.field and said.endswith(words)]


TAKEN_OTHERWISE = {
    "half a character",  # Go's JSON puts U+FFFD in its place
    "nothing where a mapping must be",  # null is dropped, and the default stored
    "status is not ours",  # dropped: only the subresource is written
}


@pytest.mark.parametrize("name", sorted(BAD_FIELDS.keys() - TAKEN_OTHERWISE))
def test_whatever_the_models_refuse_is_refused(jobs: Jobs, name: str) -> None:
    """Each mistake that `tunesmith validate` tells of is one that the API server does not store."""
    data = job_data(BAD_FIELDS[name][0])
    with pytest.raises(InvalidJobError):
        parse_job(dump(data))
    with pytest.raises(RefusedError):
        jobs.create(data, dry=True)


# --- what it reads like ----------------------------------------------------------------------------------------------


def test_explain_reads_like_documentation(jobs: Jobs) -> None:
    """`kubectl explain` has a sentence for each field, of spec and status."""
    for path in ("spec", "spec.training", "spec.pods.train", "spec.ollama", "status", "status.stages"):
        text = jobs.server.kubectl("explain", f"finetunejob.{path}", "--recursive=false")
        fields = re.split(r"\n  (?=[a-z]\w*\t)", text.partition("FIELDS:")[2])[1:]
        assert fields, text
        for field in fields:
            _, _, described = field.partition("\n")
            assert described.strip(), field
            assert "<no description>" not in described
    one = jobs.server.kubectl("explain", "finetunejob.spec.training.gpusPerNode")
    assert "0 trains on the CPU" in one


# --- the status ------------------------------------------------------------------------------------------------------

CONDITION = {
    "type": "Ready",
    "status": "False",
    "reason": "Training",
    "message": "train runs in Job stored-train-0a1b2c3d-1",
    "lastTransitionTime": "2026-11-21T14:05:00Z",
}
STATUS: dict[str, Any] = {
    "observedGeneration": 1,
    "conditions": [CONDITION],
    "progress": {"stage": "train", "text": "37 %", "loss": "0.8123", "eta": "1h12m"},
    "stages": [{"name": "train", "state": "Running", "numbers": {"loss": "0.8123"}}],
}


def test_columns_show_the_status(jobs: Jobs) -> None:
    """One line of `kubectl get ftj` says where a job stands."""
    jobs.write_status("stored", STATUS)
    shown = jobs.columns("stored")
    assert shown.pop("AGE")
    assert shown == {
        "NAME": "stored",
        "STAGE": "train",
        "STATUS": "Training",
        "PROGRESS": "37 %",
        "LOSS": "0.8123",
        "ETA": "1h12m",
        "MODEL": "support-bot:v1",
        "READY": "False",
    }
    assert jobs.columns("stored", "--output=wide")["MESSAGE"] == CONDITION["message"]


def test_status_is_kept_as_written(jobs: Jobs) -> None:
    """The API server adds nothing to the status and removes only what is not in the schema."""
    stored = jobs.write_status("stored", {**STATUS, "phase": "Running", "stages": [{**STATUS["stages"][0], "x": 1}]})
    assert stored["status"] == STATUS


def test_status_and_spec_are_written_apart(jobs: Jobs) -> None:
    """A status in the YAML of a user is passed over: only the operator's right on the subresource writes it."""
    data = job_data({"metadata.name": "with-status", "status": STATUS})
    assert jobs.create(data, dry=True)["status"] == {"observedGeneration": UNSEEN_GENERATION}


BAD_STATUS: dict[str, tuple[dict[str, Any], str]] = {
    "a state that is none": ({"stages": [{"name": "train", "state": "Done"}]}, "status.stages[0].state"),
    "a float": ({"progress": {"loss": 0.5}}, "status.progress.loss"),
    "a time that is none": (
        {"conditions": [{**CONDITION, "lastTransitionTime": "now"}]},
        "status.conditions[0].lastTransitionTime",
    ),
    "a reason of two words": ({"conditions": [{**CONDITION, "reason": "No space"}]}, "status.conditions[0].reason"),
    "a stage twice": ({"stages": [{"name": "train", "state": "Failed"}] * 2}, "status.stages[1]"),
    "half a digest": (
        {"stages": [{"name": "train", "state": "Failed", "keys": ["0a1b"]}]},
        "status.stages[0].keys[0]",
    ),
}


@pytest.mark.parametrize("name", BAD_STATUS)
def test_a_status_that_makes_no_sense_is_refused(jobs: Jobs, name: str) -> None:
    """A hand or a fault cannot write what the operator could not read."""
    status, field = BAD_STATUS[name]
    with pytest.raises(RefusedError) as caught:
        jobs.write_status("stored", status)
    assert field in [where for where, _ in caught.value.causes]


def test_two_writers_change_different_items(jobs: Jobs) -> None:
    """Lists are maps by name: by server-side apply, one may own a dataset and another one's variable of a pod."""
    base = job_data({"metadata.name": "shared"})
    mine = {**base, "spec": {**base["spec"], "pods": {"train": {"env": [{"name": "NCCL_DEBUG", "value": "INFO"}]}}}}
    head = {name: base[name] for name in ("apiVersion", "kind")} | {"metadata": {"name": "shared"}}
    theirs = {**head, "spec": {"pods": {"train": {"env": [{"name": "NCCL_IB_HCA", "value": "mlx5"}]}}}}
    for manager, data in (("me", mine), ("them", theirs), ("me", mine)):
        jobs.server.kubectl(
            "apply", "--server-side", f"--field-manager={manager}", f"--namespace={NAMESPACE}", "-f-", objects=data
        )
    env = jobs.server.get("ftj", "shared")["spec"]["pods"]["train"]["env"]
    assert {item["name"] for item in env} == {"NCCL_DEBUG", "NCCL_IB_HCA"}


def test_kubectl_tells_of_a_mistake(jobs: Jobs) -> None:
    """What a user of kubectl reads names the field and what is allowed."""
    with pytest.raises(subprocess.CalledProcessError) as caught:
        jobs.server.kubectl("apply", "-f-", objects=job_data({"metadata.name": "x" * 53}))
    assert "`metadata.name` must have at most 52 characters" in caught.value.stderr
