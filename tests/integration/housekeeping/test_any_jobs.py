"""Clean-ups of volumes with any mixture of jobs: none of them ever misses what it needs."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from support.made_volume import aged, applied, carried_out_on, observed, planned_on
from tunesmith.api.finetunejob import FineTuneJob
from tunesmith.core.needs import needs_of
from tunesmith.housekeeping.collecting import Collector
from tunesmith_stages.contract import StageName, StageResult
from tunesmith_stages.volume import Volume

DAY = 86_400.0
STAGES = [stage for stage in StageName if stage is not StageName.REHEARSE]


class Drawn(NamedTuple):
    """A job, and how far it came."""

    rate: str
    quantizations: tuple[str, ...]
    until: StageName
    keeps: bool
    versions: int
    earlier_rate: str
    """The learning rate that it had before it was edited; empty: it was not."""
    is_deleted: bool
    has_status: bool
    claims_success: bool
    """Whether its status says that it is done, if it is."""


JOBS = st.lists(
    st.builds(
        Drawn,
        rate=st.sampled_from(["1e-4", "1e-3"]),
        quantizations=st.sampled_from([("Q4_K_M",), ("Q8_0", "Q4_K_M")]),
        until=st.sampled_from(STAGES),
        keeps=st.booleans(),
        versions=st.integers(1, 3),
        earlier_rate=st.sampled_from(["", "1e-2", "1e-3"]),
        is_deleted=st.booleans(),
        has_status=st.booleans() | st.just(True),
        claims_success=st.booleans(),
    ),
    max_size=4,
)


def spec_of(drawn: Drawn, number: int, rate: str) -> Mapping[str, Any]:
    return {
        "metadata.name": f"job-{number}",
        "spec.training.learningRate": rate,
        "spec.export.quantizations": list(drawn.quantizations),
        "spec.ollama.model": f"job-{number}:v1",
        "spec.storage.retention": {"keepIntermediates": drawn.keeps, "keepVersions": drawn.versions},
    }


def parsed(item: Mapping[str, Any]) -> FineTuneJob:
    return FineTuneJob.model_validate({**item, "metadata": {"name": item["metadata"]["name"]}})


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(drawn=JOBS)
def test_nothing_is_missed(drawn: list[Drawn]) -> None:
    """Every result that a job has by now is there after a clean-up, but for what a registered job needs no more."""
    with tempfile.TemporaryDirectory() as folder:
        volume = Volume(Path(folder))
        (volume.root / "data").mkdir()
        (volume.root / "data" / "faq.json").write_text("[]")
        items: list[tuple[Drawn, dict[str, Any], list[StageResult]]] = []
        for number, one in enumerate(drawn):
            name = f"job-{number}"
            if one.earlier_rate:
                carried_out_on(volume, parsed(applied(spec_of(one, number, one.earlier_rate), name=name)))
            item = applied(spec_of(one, number, one.rate), name=name)
            carried_out_on(volume, parsed(item), one.until)
            if one.is_deleted:
                continue
            found = [*planned_on(volume, parsed(item))[1].values()]
            done = one.claims_success and planned_on(volume, parsed(item))[0].next is None
            items.append((one, observed(item, volume, succeeded=done) if one.has_status else item, found))
        aged(volume)
        live = [item for _, item, _ in items]
        for _ in range(2):  # a second one finds what the first has left
            collector = Collector(volume, lambda: [needs_of(item) for item in live], grace=DAY, keep_logs=1)
            assert not any(removal.is_failure for removal in collector.remove(collector.verdicts()))
        assert (volume.root / "data" / "faq.json").read_text() == "[]"
        for one, item, found in items:
            registered = needs_of(item).registered and not one.keeps
            needed = [result for result in found if not (registered and result.stage is StageName.CONVERT)]
            lost = [result.stage for result in needed if volume.result(result.stage, result.key) != result]
            assert lost == [], (one, lost)
