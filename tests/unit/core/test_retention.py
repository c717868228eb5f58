"""What the marking of `tunesmith gc` keeps, and what it lets go."""

from __future__ import annotations

import pytest

from tunesmith.core.retention import Entry, Kind, Needs, Rules, mark
from tunesmith_stages.contract import StageName

DAY = 86_400.0
RULES = Rules(now=100 * DAY, grace=3 * DAY, keep_logs=2)
OLD, FRESH = 1 * DAY, 99 * DAY

KEYS = {stage: digit * 64 for stage, digit in zip(StageName, "0123456", strict=True)}
"""A key for each stage of the job `bot`."""
OTHER = "f" * 64


def unit(stage: StageName, key: str = "", *, job: str = "bot", used: float = OLD, **more: object) -> Entry:
    key = key or KEYS[stage]
    return Entry(Kind.UNIT, f"stages/{stage}/{key}", used, 10, stage, key, job=job, **more)  # type: ignore[arg-type]


def content(key: str = KEYS[StageName.CONVERT], **more: object) -> Entry:
    return Entry(Kind.CONTENT, f"stages/convert/{key}/out", OLD, 100, "convert", key, **more)  # type: ignore[arg-type]


def attempt(stage: StageName, name: str, *, job: str = "bot", used: float = OLD, key: str = "") -> Entry:
    key = key or KEYS[stage]
    return Entry(Kind.ATTEMPT, f"stages/{stage}/{key}.{name}", used, 5, stage, key, name, job)


def log(stage: StageName, name: str, *, job: str = "bot", used: float = OLD) -> Entry:
    return Entry(Kind.LOG, f"runs/{job}/logs/{stage}.{name}.log", used, 1, stage, "", name, job)


def needs(job: str = "bot", **more: object) -> Needs:
    fields: dict[str, object] = {
        "finished": True,
        "registered": True,
        "keys": {stage: frozenset({key}) for stage, key in KEYS.items()},
    }
    return Needs(job, f"FineTuneJob {job}", **{**fields, **more})  # type: ignore[arg-type]


CHECKPOINTS = Entry(Kind.CHECKPOINTS, "stages/train/x.checkpoints", OLD, 50, "train", KEYS[StageName.TRAIN])
RUN = Entry(Kind.RUN, "runs/bot", OLD, 1, job="bot")
MATRIX = Entry(Kind.MATRIX, "stages/quantize/x.imatrix", OLD, 1)
DOWNLOAD = Entry(Kind.DOWNLOAD, "store/downloads/x", OLD, 1)

KEPT = {
    "a result that the status names": (unit(StageName.TRAIN), [needs()]),
    "a result that was used within the grace time": (unit(StageName.TRAIN, OTHER, used=FRESH), [needs()]),
    "everything that was made for a job that is not finished": (
        unit(StageName.TRAIN, OTHER),
        [needs(finished=False, registered=False)],
    ),
    "a result of which nobody knows the job, as long as one is not finished": (
        unit(StageName.TRAIN, OTHER, job=""),
        [needs("other", finished=False, registered=False)],
    ),
    "everything, while a job has not been looked at": (
        unit(StageName.TRAIN, OTHER),
        [needs(), needs("new", seen=False, finished=False, registered=False, keys={})],
    ),
    "the converted model until it is registered": (content(), [needs(registered=False)]),
    "the converted model, if the job keeps it": (content(), [needs(keep_intermediates=True)]),
    "the converted model, if one of two jobs is not finished": (
        content(),
        [needs(), needs("other", finished=False, registered=False)],
    ),
    "a checkpoint of a training that is not finished": (CHECKPOINTS, [needs(finished=False, registered=False)]),
    "what a pod works on, however long it says nothing": (
        attempt(StageName.TRAIN, "bot-train-abc-1-x7k2p"),
        [needs(finished=False, registered=False, active=frozenset({"bot-train-abc-1"}))],
    ),
    "the newest attempt of a job that is there": (attempt(StageName.TRAIN, "a"), [needs()]),
    "the newest log of a job that is there": (log(StageName.TRAIN, "a"), [needs()]),
    "the run of a job that is there": (RUN, [needs()]),
    "an importance matrix, while a job is not finished": (MATRIX, [needs(), needs("other", finished=False)]),
    "a download, while a job is not finished": (DOWNLOAD, [needs(finished=False)]),
    "what another job goes on from, whose maker is gone": (
        unit(StageName.TRAIN, OTHER, job="base"),
        [needs("next", finished=False, registered=False, keys={}, base="base")],
    ),
    "what a job names as a source of its own": (
        content(OTHER),
        [needs("next", paths=frozenset({f"stages/convert/{OTHER}/out/merged"}))],
    ),
    "a source that a job has brought": (
        Entry(Kind.SOURCE, f"store/models/{OTHER}", OLD, 9),
        [needs(paths=frozenset({f"store/models/{OTHER}"}))],
    ),
}

GONE = {
    "a result of a job that was deleted": (unit(StageName.TRAIN, job="deleted"), []),
    "a result of an earlier version": (unit(StageName.TRAIN, OTHER), [needs()]),
    "the converted model when it is registered": (content(), [needs()]),
    "checkpoints of a job that was deleted": (CHECKPOINTS, []),
    "an importance matrix, when all jobs are finished": (MATRIX, [needs()]),
    "a download, when all jobs are finished": (DOWNLOAD, [needs()]),
    "the run of a job that was deleted": (RUN, []),
    "a source that nobody has brought": (Entry(Kind.SOURCE, f"store/models/{OTHER}", OLD, 9), [needs()]),
    "what was set aside": (Entry(Kind.SET_ASIDE, "stages/train/x.broken-1", OLD, 9), [needs()]),
    "what was half removed, at once": (Entry(Kind.REMOVED, "stages/train/.removed-1", FRESH, 9), [needs()]),
}


@pytest.mark.parametrize(("entry", "jobs"), KEPT.values(), ids=KEPT)
def test_kept(entry: Entry, jobs: list[Needs]) -> None:
    """What a job may need stays."""
    (verdict,) = mark([entry], jobs, (), RULES)
    assert verdict.keeps, verdict.why


@pytest.mark.parametrize(("entry", "jobs"), GONE.values(), ids=GONE)
def test_gone(entry: Entry, jobs: list[Needs]) -> None:
    """What nobody needs goes, and it is said why."""
    (verdict,) = mark([entry], jobs, (), RULES)
    assert not verdict.keeps
    assert verdict.why


def test_logs_and_attempts() -> None:
    """Of each stage the newest attempts keep folder and log; an attempt that wrote to either counts once."""
    entries = [
        *(log(StageName.TRAIN, name, used=time * DAY) for time, name in enumerate("abc", start=1)),
        *(attempt(StageName.TRAIN, name, used=time * DAY) for time, name in enumerate("abc", start=1)),
        log(StageName.FETCH, "a"),
    ]
    kept = {verdict.entry.path for verdict in mark(entries, [needs()], (), RULES) if verdict.keeps}
    assert kept == {entry.path for entry in entries if entry.stage == "fetch" or entry.attempt in "bc"}


def test_a_lock_holds() -> None:
    """What a process of this machine works on stays, whoever it belongs to."""
    (verdict,) = mark([attempt(StageName.TRAIN, "x", job="gone")], [], {KEYS[StageName.TRAIN]}, RULES)
    assert verdict.keeps


def test_what_it_was_made_from_stays() -> None:
    """With a result stays all that it was made from: else it could not be merged or converted again."""
    train = unit(StageName.TRAIN, inputs=(f"store/models/{OTHER}", f"stages/prepare/{OTHER}/out"))
    prepare, base = unit(StageName.PREPARE, OTHER, job="x"), Entry(Kind.SOURCE, f"store/models/{OTHER}", OLD, 9)
    jobs = [needs(keys={StageName.TRAIN: frozenset({KEYS[StageName.TRAIN]})})]
    assert all(verdict.keeps for verdict in mark([train, prepare, base], jobs, (), RULES))


@pytest.mark.parametrize(("count", "kept"), [(1, ""), (2, "b"), (3, "ba"), (9, "ba")])
def test_versions(count: int, kept: str) -> None:
    """Of the versions before the last edit as many stay as the job says, the newest first, with all made of them."""
    entries = [unit(StageName.TRAIN)]
    for minute, digit in enumerate("ab"):
        train, convert, quantize = (digit * 63 + number for number in "123")
        made = f"2026-11-22T10:0{minute}:00Z"
        entries += [
            unit(StageName.TRAIN, train, finished=made),
            unit(StageName.CONVERT, convert, inputs=(f"stages/train/{train}/out",)),
            content(convert),
            unit(StageName.QUANTIZE, quantize, inputs=(f"stages/convert/{convert}/out",)),
        ]
    verdicts = mark(entries, [needs(keep_versions=count)], (), RULES)
    wanted = {entry.path for entry in entries if entry.key[0] in f"{kept}3" and entry.kind is not Kind.CONTENT}
    assert {verdict.entry.path for verdict in verdicts if verdict.keeps} == wanted


def test_checkpoints_of_a_finished_training_go() -> None:
    """Checkpoints of a training that has its result are of no use, also while the job is not finished."""
    jobs = [needs(finished=False, registered=False)]
    verdicts = mark([unit(StageName.TRAIN), CHECKPOINTS], jobs, (), RULES)
    assert [verdict.keeps for verdict in verdicts] == [True, False]


def test_an_export_stays() -> None:
    """A model that was asked for in Hugging Face's form is no intermediate."""
    exported = unit(StageName.CONVERT), content(is_export=True)
    assert all(verdict.keeps for verdict in mark(exported, [needs()], (), RULES))


def test_a_run_goes_as_a_whole() -> None:
    """The logs of a job that was deleted go with its run, and stay as long as that was written to lately."""
    old, fresh = Entry(Kind.RUN, "runs/a", OLD, 1, job="a"), Entry(Kind.RUN, "runs/b", FRESH, 1, job="b")
    entries = [old, fresh, log(StageName.TRAIN, "1", job="a"), log(StageName.TRAIN, "1", job="b")]
    assert [verdict.keeps for verdict in mark(entries, [], (), RULES)] == [False, True, False, True]
