"""What on a volume is still needed, and what may go: the marking of `tunesmith gc`, as values.

:func:`mark` is told what lies on the volume and what every job needs, and says of each thing whether it stays, and why.
It errs on one side only: what nobody can tell to be useless stays. Three rules make that so:

- Nothing goes that was made or used within the grace time, whatever the jobs say.
- Of a job that has finished its work, the status names all that it needs. Of any other job not all keys are known yet,
  so everything stays that was ever made for it.
- While there is a job that nobody has looked at yet, no result goes at all.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from tunesmith_stages.contract import StageName


class Kind(StrEnum):
    """What a thing on the volume is."""

    UNIT = "result"
    """``stages/<stage>/<key>``: a finished unit; of `convert` without its content."""
    CONTENT = "intermediate"
    """``stages/convert/<key>/out``: the model that quantizations are made from."""
    ATTEMPT = "attempt"
    """``stages/<stage>/<key>.<attempt>``: a try that runs, or that failed."""
    CHECKPOINTS = "checkpoints"
    MATRIX = "importance matrix"
    SOURCE = "source"
    """``store/<kind>/<digest>`` with its manifest."""
    DOWNLOAD = "download"
    RUN = "run"
    """``runs/<job>`` without its logs and what is kept for trackers."""
    LOG = "log"
    TRACKING = "tracking"
    """``runs/<job>/tracking/<key>``."""
    SET_ASIDE = "set aside"
    """A damaged thing that another one has replaced."""
    REMOVED = "half removed"
    """What an earlier removal was killed at."""


@dataclass(frozen=True)
class Entry:
    """One thing on the volume that is kept or removed as a whole."""

    kind: Kind
    path: str
    """Relative to the volume's root."""
    used: float
    """When something in it was last written, or it was last used; seconds since the epoch, by the volume's clock."""
    bytes: int = 0
    stage: str = ""
    key: str = ""
    attempt: str = ""
    job: str = ""
    """Name of the job that it was made for; empty if that is not known."""
    inputs: tuple[str, ...] = ()
    """Paths of what it was made from."""
    stored: str = ""
    """Path in the store of what it brought there."""
    finished: str = ""
    """When it was made (RFC 3339)."""
    is_export: bool = False
    """Its content was asked for, to be used outside (`export.keepMerged`)."""


@dataclass(frozen=True)
class Needs:
    """What one job needs of the volume."""

    job: str
    who: str
    """What people call it: ``FineTuneJob x``, ``run x``."""
    seen: bool = True
    """Somebody has looked at it: the keys that are known are written down."""
    finished: bool = False
    """All is made that it asks for as it is written now, so all keys that it needs are known."""
    registered: bool = False
    """Its models are served, too."""
    keys: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """By stage."""
    paths: frozenset[str] = frozenset()
    """Places that it names: what it brought into the store, sources that lie where results do."""
    active: frozenset[str] = frozenset()
    """Names of the Kubernetes Jobs that may be at work for it."""
    base: str = ""
    """Name of the job whose training it goes on from and has not taken over yet."""
    keep_intermediates: bool = False
    keep_versions: int = 1


@dataclass(frozen=True)
class Rules:
    """How the volume is kept, whatever the jobs say."""

    now: float
    grace: float
    """Seconds."""
    keep_logs: int = 5
    """Attempts at each stage of a job whose logs stay."""


@dataclass(frozen=True)
class Verdict:
    """Whether something stays, and why."""

    entry: Entry
    keeps: bool
    why: str


def mark(entries: Sequence[Entry], jobs: Collection[Needs], held: Collection[str], rules: Rules) -> list[Verdict]:
    """Return a verdict on each of `entries`.

    Args:
        entries: everything on the volume that Tunesmith put there.
        jobs: every job that there is.
        held: keys that a process of this machine works on now, by its locks.
        rules: grace and logs.
    """
    marking = _Marking(entries, jobs, held, rules)
    return [_verdict(entry, marking, rules) for entry in entries]


def _verdict(entry: Entry, marking: _Marking, rules: Rules) -> Verdict:
    if entry.kind is Kind.REMOVED:
        return Verdict(entry, False, "an earlier removal was interrupted")
    if (why := marking.needed_by(entry)) is not None:
        return Verdict(entry, True, why)
    if rules.now - entry.used < rules.grace:
        return Verdict(entry, True, "within the grace time")
    return Verdict(entry, False, _why_not(entry, marking))


def _why_not(entry: Entry, marking: _Marking) -> str:
    match entry.kind:
        case Kind.CONTENT if ("convert", entry.key) in marking.units:
            return "its quantizations are made and registered"
        case Kind.CHECKPOINTS if marking.is_trained(entry.key):
            return "the training is finished"
        case Kind.ATTEMPT | Kind.LOG if entry.job in marking.by_name:
            return "newer attempts are kept"
        case Kind.SET_ASIDE:
            return "it was damaged and has been replaced"
        case Kind.RUN | Kind.LOG | Kind.TRACKING if entry.job not in marking.by_name:
            return f"there is no job {entry.job} any more"
        case Kind.DOWNLOAD:
            return "no job is fetching"
        case _ if entry.job in marking.by_name:
            return f"{entry.job} is written differently now"
        case _:
            return "no job needs it"


class _Marking:
    """What is needed, computed once for all entries."""

    def __init__(self, entries: Sequence[Entry], jobs: Collection[Needs], held: Collection[str], rules: Rules) -> None:
        self.entries = entries
        self.by_name: dict[str, list[Needs]] = defaultdict(list)
        for job in jobs:
            self.by_name[job.job].append(job)
        self.jobs = list(jobs)
        self.held = frozenset(held)
        self.unseen = next((job for job in jobs if not job.seen), None)
        self.unfinished = next((job for job in jobs if not job.finished), None)
        self._made = {(entry.stage, entry.key): entry for entry in entries if entry.kind is Kind.UNIT}
        self._by_path = {entry.path: entry for entry in entries if entry.kind in {Kind.UNIT, Kind.SOURCE}}
        self.makers = _makers(entries)
        self.made_for: dict[str, set[tuple[str, str]]] = defaultdict(set)
        """By job: what was made for it or it has worked on; what nobody knows the job of, under the empty name."""
        for (stage, key), entry in self._made.items():
            for name in {entry.job, *self.makers.get(key, ())}:
                self.made_for[name].add((stage, key))
        self.contents: dict[str, str] = {}
        """By key of `convert`: who needs the content."""
        self.units: dict[tuple[str, str], str] = {}
        """By stage and key: who needs the unit."""
        self.sources: dict[str, str] = {}
        """By path: who needs it."""
        self._mark_units()
        self.attempts = _newest_attempts(entries, rules.keep_logs)
        newest = {entry.job: entry for entry in entries if entry.kind is Kind.RUN}
        self.gone_runs = {
            name for name, run in newest.items() if name not in self.by_name and rules.now - run.used >= rules.grace
        }

    def is_trained(self, key: str) -> bool:
        """Tell whether a training has its result."""
        return (StageName.TRAIN, key) in self._made

    # --- which units and sources are needed

    def _mark_units(self) -> None:
        for job in self.jobs:
            for stage, keys in job.keys.items():
                for key in keys:
                    self._mark(stage, key, job.who, content=not job.registered or job.keep_intermediates)
            for path in job.paths:
                self._mark_path(path, job.who)
            if not job.finished:
                self._mark_all_of(job.job, job.who)
            elif job.keep_versions > 1:
                self._mark_versions(job)
            if job.base:
                self._mark_trained_by(job)

    def _mark(self, stage: str, key: str, who: str, *, content: bool) -> None:
        """Mark a unit and everything that it was made from."""
        if content and stage == StageName.CONVERT:
            self.contents.setdefault(key, who)
        if (stage, key) in self.units:
            return
        self.units[stage, key] = who
        entry = self._made.get((stage, key))
        if entry is None:
            return
        for path in (*entry.inputs, *([entry.stored] if entry.stored else [])):
            self._mark_input(path, who)

    def _mark_input(self, path: str, who: str) -> None:
        match path.split("/"):
            case ["stages", stage, key, *_]:
                self._mark(stage, key, who, content=False)
            case ["store", _, _]:
                self.sources.setdefault(path, who)

    def _mark_path(self, path: str, who: str) -> None:
        """Mark what lies at a path that a job names, and everything below it."""
        match path.split("/"):
            case ["stages", stage, key, *_]:
                self._mark(stage, key, who, content=True)
            case ["store", kind, digest, *_]:
                self.sources.setdefault(f"store/{kind}/{digest}", who)
            case ["stages" | "store", *_]:  # a whole folder of them
                for entry in self._by_path.values():
                    if entry.path.startswith(f"{path}/") or entry.path == path:
                        self._mark_path(entry.path, who)

    def _mark_all_of(self, name: str, who: str) -> None:
        for stage, key in sorted(self.made_for[name] | self.made_for[""]):
            self._mark(stage, key, f"{who}, which is not finished", content=True)

    def _mark_versions(self, job: Needs) -> None:
        """Mark what the job has trained before, as many as it wants to keep, with all that was made of these."""
        current = job.keys.get(StageName.TRAIN, frozenset())
        earlier = [
            entry
            for (stage, key), entry in self._made.items()
            if stage == StageName.TRAIN and entry.job == job.job and key not in current
        ]
        earlier.sort(key=lambda entry: (entry.finished, entry.key), reverse=True)
        for entry in earlier[: job.keep_versions - len(current or {""})]:
            who = f"an earlier version of {job.who}"
            self._mark(entry.stage, entry.key, who, content=False)
            for made in self._made_of(entry):
                self._mark(made.stage, made.key, who, content=job.keep_intermediates)

    def _made_of(self, entry: Entry) -> list[Entry]:
        """Return every unit that was made from one, or from what was made of it."""
        found: list[Entry] = []
        places = {f"{entry.path}/out"}
        before = -1
        while before != len(found):
            before = len(found)
            for other in self._made.values():
                if other not in found and places.intersection(other.inputs):
                    found.append(other)
                    places.add(f"{other.path}/out")
        return found

    def _mark_trained_by(self, job: Needs) -> None:
        for (stage, key), entry in self._made.items():
            if stage == StageName.TRAIN and entry.job == job.base:
                self._mark(stage, key, f"{job.who}, which goes on from it", content=False)

    # --- what follows for each entry

    def needed_by(self, entry: Entry) -> str | None:
        """Return why something is needed; None if it is not."""
        if entry.key and entry.key in self.held:
            return "a process of this machine works on it"
        if self.unseen is not None and entry.kind not in {Kind.LOG, Kind.RUN, Kind.TRACKING}:
            return f"{self.unseen.who} has not been looked at yet, so what it needs is not known"
        match entry.kind:
            case Kind.UNIT:
                return self.units.get((entry.stage, entry.key))
            case Kind.CONTENT:
                return self._content_needed_by(entry)
            case Kind.SOURCE:
                return self.sources.get(entry.path)
            case Kind.CHECKPOINTS:
                return self._checkpoints_needed_by(entry)
            case Kind.ATTEMPT:
                return self._attempt_needed_by(entry)
            case Kind.MATRIX | Kind.DOWNLOAD:
                return f"{self.unfinished.who} may need it" if self.unfinished else None
            case Kind.RUN | Kind.LOG | Kind.TRACKING:
                return self._of_a_run(entry)
            case _:
                return None

    def _content_needed_by(self, entry: Entry) -> str | None:
        if entry.is_export and (StageName.CONVERT, entry.key) in self.units:
            return f"{self.units[StageName.CONVERT, entry.key]}: `export.keepMerged`"
        return self.contents.get(entry.key)

    def _checkpoints_needed_by(self, entry: Entry) -> str | None:
        if self.is_trained(entry.key):
            return None
        for job in self.jobs:
            named = entry.key in job.keys.get(StageName.TRAIN, ())
            if named or (not job.finished and job.job in self.makers.get(entry.key, ())):
                return f"{job.who}: its training is not finished"
        return None

    def _attempt_needed_by(self, entry: Entry) -> str | None:
        for job in self.jobs:
            if _is_at_work(entry.attempt, job.active):
                return f"{job.who} may be at work on it"
        jobs = self.by_name.get(entry.job)
        if jobs and entry.attempt in self.attempts.get((entry.job, entry.stage), ()):
            return f"{jobs[0].who}: one of its newest attempts"
        return None

    def _of_a_run(self, entry: Entry) -> str | None:
        jobs = self.by_name.get(entry.job)
        if not jobs:
            return None if entry.job in self.gone_runs else "within the grace time"
        if entry.kind is Kind.RUN:
            return jobs[0].who
        if entry.kind is Kind.TRACKING:
            trained = (key for stage, key in self.units if stage == StageName.TRAIN)
            unfinished = any(not job.finished for job in jobs)
            return jobs[0].who if unfinished or any(key.startswith(entry.key) for key in trained) else None
        return self._attempt_needed_by(entry)


def _makers(entries: Iterable[Entry]) -> dict[str, set[str]]:
    """Return, by key, the names of all jobs that have worked on it."""
    makers: dict[str, set[str]] = defaultdict(set)
    for entry in entries:
        if entry.kind in {Kind.UNIT, Kind.ATTEMPT} and entry.job:
            makers[entry.key].add(entry.job)
    return makers


def _newest_attempts(entries: Iterable[Entry], count: int) -> dict[tuple[str, str], set[str]]:
    """Return, by job and stage, the names of the newest attempts."""
    times: dict[tuple[str, str], dict[str, float]] = defaultdict(dict)
    for entry in entries:
        if entry.kind in {Kind.ATTEMPT, Kind.LOG}:
            known = times[entry.job, entry.stage]
            known[entry.attempt] = max(entry.used, known.get(entry.attempt, entry.used))
    return {place: set(sorted(known, key=lambda name: -known[name])[:count]) for place, known in times.items()}


def _is_at_work(attempt: str, active: Collection[str]) -> bool:
    """Tell whether an attempt is one of these Kubernetes Jobs, or of a pod of theirs."""
    return any(attempt == name or attempt.startswith(f"{name}-") for name in active)
