"""How a job stands, in a word and a sentence."""

from __future__ import annotations

from dataclasses import dataclass

from tunesmith_stages.contract import ExitCode, Failure, StageName
from tunesmith_stages.report.attempt import Attempt
from tunesmith_stages.report.blocks import BAD, GOOD, NOTE
from tunesmith_stages.report.facts import Facts
from tunesmith_stages.report.reading import listed, mapping, text
from tunesmith_stages.report.shown import figure, line, moment, shown

DONE, FAILED, STOPPED, OPEN, NOT_BEGUN = "done", "failed", "stopped", "no end recorded", "not begun"
"""How a stage stands. One without a recorded end runs now, or was killed."""


@dataclass(frozen=True)
class Verdict:
    """How a job stands."""

    word: str
    tone: str
    sentence: str
    hint: str = ""
    """What to do next, where it failed."""
    models: tuple[str, ...] = ()
    """The names in Ollama under which it answers."""
    when: str = ""
    """Of the last thing that is known of it (RFC 3339)."""


def state_of(facts: Facts, stage: StageName) -> str:
    """Return how a stage stands."""
    units, attempt = facts.of(stage), facts.attempt(stage)
    if attempt is not None and attempt.failure is not None and not (units and all(unit.result for unit in units)):
        return STOPPED if attempt.failure.code is ExitCode.INTERRUPTED else FAILED
    if not units:
        return NOT_BEGUN if attempt is None else OPEN if not attempt.finished else DONE
    if all(unit.result for unit in units):
        return DONE
    return OPEN if attempt is not None and not attempt.finished else NOT_BEGUN


def verdict_of(facts: Facts) -> Verdict:
    """Return how a job stands: by the stage that its newest attempt was at, if that is open, else by what is done."""
    for attempt in facts.attempts:
        state = state_of(facts, attempt.config.stage)
        if attempt.failure is not None and state in {FAILED, STOPPED}:
            return _failed(attempt.failure, attempt, state)
        if state == OPEN:
            return _open(attempt)
    done = [stage for stage in StageName if state_of(facts, stage) == DONE]
    when = max((unit.result.finished for unit in facts.of(done[-1]) if unit.result), default="") if done else ""
    if StageName.REGISTER in done:
        return _answers(facts, when)
    if not done:
        return Verdict("Not begun", NOTE, "The volume has the job's text and nothing that was made for it yet.")
    missing = next(stage for stage in StageName if stage not in done and stage is not StageName.REHEARSE)
    sentence = f"Done up to {done[-1]}. The stage {missing} has not begun."
    if done[-1] is StageName.REHEARSE:
        sentence = "The rehearsal passed: what comes after it can work. The training has not begun."
    return Verdict("Not finished", NOTE, sentence, when=when)


def _failed(failure: Failure, attempt: Attempt, state: str) -> Verdict:
    how = "was stopped" if state == STOPPED else "failed"
    sentence = f"The stage {attempt.config.stage} {how}, {shown(failure.reason, 60)}: {line(failure.message, 500)}"
    word = "Failed" if state == FAILED else "Stopped"
    return Verdict(word, BAD if state == FAILED else NOTE, sentence, line(failure.hint, 1000), when=attempt.finished)


def _open(attempt: Attempt) -> Verdict:
    sentence = (
        f"The stage {attempt.config.stage} began at {moment(attempt.started)}, and no end of it is recorded: it runs, "
        "or it was killed."
    )
    return Verdict("Not finished", NOTE, sentence, when=attempt.started)


def _answers(facts: Facts, when: str) -> Verdict:
    registered = [unit for unit in facts.of(StageName.REGISTER) if unit.result]
    models = tuple(dict.fromkeys(line(name, 200) for unit in registered for name in _models(unit.result.outputs)))  # type: ignore[union-attr]
    checks = sum(int(unit.figures.get("checks", 0)) for unit in registered)
    parts = [f"{models[0] if models else 'The model'} answers in Ollama"]
    if len(registered) > 1:
        parts[0] += f" on {len(registered)} servers"
    if checks:
        parts.append(f"all {checks} checks passed before it got its name")
    train = facts.one(StageName.TRAIN)
    loss = train.figures.get("loss") if train else None
    if loss is not None:
        parts.append(f"training ended at a loss of {figure(loss)}")
    sentence = "; ".join(parts) + "."
    return Verdict("Succeeded", GOOD, sentence, models=models, when=when)


def _models(outputs: object) -> list[str]:
    """Return the names under which a model was registered, its own first."""
    models = mapping(mapping(outputs).get("models"))
    return sorted(map(str, models), key=len)


def base_of(facts: Facts) -> str:
    """Return where the base model is from, in a few words."""
    unit = facts.units.get((StageName.FETCH, "base"))
    return place_of(unit.config.params.get("source")) if unit else ""


def place_of(source: object) -> str:
    """Return where a source is from: its kind, and what it is called there."""
    given = mapping(source)
    for kind, words in _KINDS.items():
        value = given.get(kind)
        if isinstance(value, dict):
            named = [text(value.get(name)) for name in ("repo", "path", "name", "key", "subset", "split")]
            return line(f"{words} {' '.join(filter(None, named))}", 200)
        if value is not None:
            what = text(value) if kind == "builtin" else ""
            languages = ", ".join(map(str, listed(given.get("languages"))))
            return line(f"{words} {what}" + (f" ({languages})" if languages else ""), 200)
    return line(", ".join(map(str, given)), 200)


_KINDS = {
    "volume": "volume",
    "huggingFace": "Hugging Face",
    "modelScope": "ModelScope",
    "builtin": "built in:",
    "configMap": "ConfigMap",
    "inline": "in the job's own text",
    "job": "result of the job",
    "gguf": "GGUF on the volume",
}
