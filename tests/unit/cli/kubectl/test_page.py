"""What `kubectl tunesmith status` and `watch` take from a FineTuneJob."""

from __future__ import annotations

from typing import Any

import pytest

from support.builders import REMOVED
from tunesmith.api import keys
from tunesmith.cli.kubectl.page import ArtifactRow, Page, ServerRow, SourceRow, StageRow, page_of
from unit.cli.kubectl.items import DIGEST, NOW, item, ready, stage


def page(data: dict[str, Any]) -> Page:
    return page_of(data, NOW)


SUCCEEDED = ready("Succeeded", "the model answers", done=True)
STALLED = ready("OutOfMemory", "it was killed. Use less.", stalled=True)
REFRESH, RETRY = keys.REFRESH_ANNOTATION, keys.RETRY_ANNOTATION

STANDINGS: dict[str, tuple[dict[str, Any], str, bool, bool]] = {
    "done": (item(SUCCEEDED), "Succeeded", True, False),
    "stalled": (item(STALLED), "OutOfMemory", False, True),
    "on its way": (item(ready("Training")), "Training", False, False),
    "never looked at": (item(), "Unseen", False, False),
    "an empty status": (item({}), "Unseen", False, False),
    "edited since it was done": (item(SUCCEEDED, generation=3), "Unseen", False, False),
    "edited since it stalled": (item(STALLED, generation=3), "Unseen", False, False),
    "asked to look again": (item(SUCCEEDED, annotations={REFRESH: "1"}), "Unseen", False, False),
    "looked again": (item({**SUCCEEDED, "refresh": "1"}, annotations={REFRESH: "1"}), "Succeeded", True, False),
    "asked to try again": (item(STALLED, annotations={RETRY: "1"}), "Unseen", False, False),
    "tried again and stalled": (item({**STALLED, "retry": "1"}, annotations={RETRY: "1"}), "OutOfMemory", False, True),
    "invalid, and asked to try again": (
        item(ready("InvalidSpec", stalled=True), annotations={RETRY: "1"}),
        "InvalidSpec",
        False,
        True,
    ),
    "done, and asked to try again": (item(SUCCEEDED, annotations={RETRY: "1"}), "Succeeded", True, False),
    "going away": (item(SUCCEEDED, deletionTimestamp="2026-05-04T11:59:00Z"), "Deleting", False, False),
}


@pytest.mark.parametrize(("data", "reason", "is_ready", "is_stalled"), STANDINGS.values(), ids=STANDINGS)
def test_standing(data: dict[str, Any], reason: str, is_ready: bool, is_stalled: bool) -> None:
    """A job counts as ready or stalled only as it is written now: `watch` ends by that."""
    told = page(data)
    assert (told.reason, told.ready, told.stalled) == (reason, is_ready, is_stalled)


def test_hint_of_what_nobody_looks_at() -> None:
    """A job that no operator looks at says what to check."""
    assert "watch the namespace team-a" in page(item()).hint


HINTS = {
    "said already": ("no memory. Use less.", "Use less.", ""),
    "not said yet": ("no memory.", "Use less.", "Use less."),
    "none": ("no memory.", "", ""),
}


@pytest.mark.parametrize(("message", "hint", "wanted"), HINTS.values(), ids=HINTS)
def test_hint_of_a_failure(message: str, hint: str, wanted: str) -> None:
    """What to do about a failure is told once."""
    stages = [stage("fetch", "Succeeded", 1), stage("train", "Failed", 1, reason="OutOfMemory", hint=hint)]
    status = {**ready("OutOfMemory", message, stalled=True), "stages": stages}
    assert page(item(status)).hint == wanted


STAGES: dict[str, tuple[dict[str, Any], StageRow]] = {
    "runs": (
        stage("train", "Running", 2, startTime="2026-05-04T11:48:30Z"),
        StageRow("train", "Running", 2, seconds=690),
    ),
    "ran": (
        stage("fetch", "Succeeded", 1, startTime="2026-05-04T11:00:00Z", completionTime="2026-05-04T11:00:07Z"),
        StageRow("fetch", "Succeeded", 1, seconds=7),
    ),
    "was there already": (stage("prepare", "Succeeded", cached=True), StageRow("prepare", "Succeeded", cached=True)),
    "waits": (stage("convert", "Waiting"), StageRow("convert", "Waiting")),
    "waits for a node": (
        stage("train", "Pending", 1, startTime="2026-05-04T11:00:00Z", reason="Unschedulable"),
        StageRow("train", "Pending", 1, reason="Unschedulable"),
    ),
    "is tried again": (
        stage("register", "Waiting", 4, reason="Unavailable", nextAttemptTime="2026-05-04T12:05:00Z"),
        StageRow("register", "Waiting", 4, reason="Unavailable", next_attempt="2026-05-04T12:05:00Z"),
    ),
    "clocks differ": (
        stage("train", "Running", 1, startTime="2026-05-04T12:00:09Z"),
        StageRow("train", "Running", 1, seconds=0),
    ),
}


@pytest.mark.parametrize(("said", "wanted"), STAGES.values(), ids=STAGES)
def test_stage(said: dict[str, Any], wanted: StageRow) -> None:
    """A stage's time is that of its newest try, and runs on while it runs."""
    assert page(item({"stages": [said]})).stages == (wanted,)


def test_what_was_made() -> None:
    """Artifacts and servers are told as the status has them."""
    status = {
        "artifacts": [
            {
                "name": "Q4_K_M",
                "path": "stages/quantize/k/out/model.gguf",
                "digest": DIGEST,
                "bytes": 5,
                "model": "m:v1",
            },
            {"name": "adapter", "path": "stages/train/k/out", "digest": DIGEST},
        ],
        "ollama": [{"server": "main", "models": ["m:v1", "m:v1-q8_0"]}, {"server": "spare"}],
    }
    told = page(item({**ready("Succeeded", done=True), **status}))
    assert told.artifacts == (
        ArtifactRow("Q4_K_M", 5, "m:v1", "stages/quantize/k/out/model.gguf"),
        ArtifactRow("adapter", 0, "", "stages/train/k/out"),
    )
    assert told.servers == (ServerRow("main", ("m:v1", "m:v1-q8_0")), ServerRow("spare", ()))


SOURCES: dict[str, tuple[dict[str, Any], str]] = {
    "a folder of the volume": ({"volume": {"path": "models/base"}}, "volume models/base"),
    "built in": ({"builtin": "self-cognition"}, "builtin self-cognition"),
    "a hub": ({"huggingFace": {"repo": "acme/base", "revision": "main"}}, "huggingFace acme/base"),
    "a ConfigMap": ({"name": "faq", "configMap": {"name": "rows", "key": "faq.json"}}, "configMap rows/faq.json"),
    "in the job": ({"name": "faq", "inline": [{}, {}]}, "inline 2 rows"),
    "another job": ({"job": {"name": "first"}}, "job first"),
    "beside other fields": (
        {"name": "faq", "columns": {"prompt": "q"}, "maxRows": 5, "volume": {"path": "a"}},
        "volume a",
    ),
    "of a kind that is not known": ({"name": "faq", "elsewhere": {"url": "x"}}, ""),
}


@pytest.mark.parametrize(("source", "place"), SOURCES.values(), ids=SOURCES)
def test_place_of_a_source(source: dict[str, Any], place: str) -> None:
    """A source is named by its kind and where it is there."""
    assert page(item(spec={"spec.model": source})).sources[0].place == place


def test_a_gguf_has_no_datasets() -> None:
    """The API server stores no list where none was given."""
    changes = {"spec.model": {"gguf": {"path": "m.gguf"}}, "spec.datasets": REMOVED, "spec.training": REMOVED}
    assert page(item(spec=changes)).sources == (SourceRow("base", "gguf m.gguf"),)


def test_sources_with_what_was_found() -> None:
    """Each source of the spec has its version and size once `fetch` has found it."""
    fetched = stage("fetch", "Succeeded", 1, units=[{"name": "base", "key": DIGEST, "digest": DIGEST, "bytes": 9}])
    status = {"sources": [{"name": "base", "version": "v1", "spec": DIGEST}], "stages": [fetched]}
    assert page(item(status)).sources == (
        SourceRow("base", "volume models/base", "v1", 9),
        SourceRow("dataset:faq", "volume data/faq.json", "", None),
    )
