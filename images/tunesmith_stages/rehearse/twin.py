"""The twin of the base: what was found while it was made, and what that says of the base."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tunesmith_stages.contract import ExitCode, Failure
from tunesmith_stages.program import StageError, Work
from tunesmith_stages.rehearse import twin_process
from tunesmith_stages.rehearse.forked import run_forked
from tunesmith_stages.rehearse.room import first_row
from tunesmith_stages.rehearse.twin_process import Outcome
from tunesmith_stages.rehearse.weights import Weights

PROBES = 3
"""So many prompts are looked at, the shortest."""
LARGEST = 600_000_000
"""Parameters of the largest twin that is made; it has two bytes for each on the disk, and four in memory."""
_MOST_TOKENS = 256
_SPACE = 16_000
"""Bytes that a rehearsal may need on the volume for each token of the vocabulary, for a while: the twin, the same with
its adapter merged, and two GGUFs, of which nearly all is the embedding and the output layer."""
_NAMED = 3
_BLOCK = 1 << 24


def make_twin(work: Work, probes: Sequence[Mapping[str, Any]], tokens: int, *, checkpointing: bool) -> Outcome:
    """Make the twin in ``twin/`` of the attempt's folder, which holds ``base`` and ``trained`` then.

    Args:
        work: the rehearsal.
        probes: ``probes.json``; may be empty.
        tokens: of the vocabulary.
        checkpointing: whether the training is to use gradient checkpointing.

    Raises:
        StageError: the base cannot be loaded, the twin not be trained, or the disk is nearly full.
    """
    folder = work.folder / "twin"
    folder.mkdir()
    free = shutil.disk_usage(folder).free
    if free < _SPACE * tokens:
        raise StageError(
            ExitCode.NO_SPACE,
            f"a rehearsal needs {_SPACE * tokens / 2**30:.2f} GiB on the volume and {free / 2**30:.2f} GiB are free",
        )
    shortest = sorted((list(probe["ids"]) for probe in probes), key=len)[:PROBES]
    outcome = folder / "outcome.json"
    task = {
        "base": str(work.input("base")),
        "folder": str(folder),
        "outcome": str(outcome),
        "probes": [ids[:_MOST_TOKENS] for ids in shortest],
        "row": first_row(work.input("prepared"))[:_MOST_TOKENS],
        "targets": adapted(work),
        "variant": variant(work),
        "checkpointing": checkpointing,
        "largest": LARGEST,
    }
    (folder / "task.json").write_text(json.dumps(task), encoding="utf-8")
    try:
        run_forked(
            twin_process.main,
            folder / "task.json",
            work.logs / "twin.log",
            what="making a small model of the base's architecture",
        )
    except StageError:
        if not outcome.is_file():
            raise
        failure = Failure.from_json(outcome.read_text(encoding="utf-8"))
        raise StageError(failure.code, failure.message, reason=failure.reason, hint=failure.hint) from None
    return Outcome(**json.loads(outcome.read_text(encoding="utf-8")))


def adapted(work: Work) -> list[str]:
    """Return the modules that LoRA is to adapt; none if all weights are trained."""
    lora = work.runtime["estimate"]["lora"]
    return list(lora["targetModules"]) if lora else []


def variant(work: Work) -> dict[str, bool]:
    """Return which LoRA the job trains, as :class:`tunesmith_stages.rehearse.twin_process.Task` has it."""
    lora = work.runtime["estimate"]["lora"] or {}
    return {"rslora": bool(lora.get("useRslora")), "dora": bool(lora.get("useDora"))}


def is_whole(outcome: Outcome) -> str:
    """The base's files hold every weight of its architecture, in its shape.

    Raises:
        StageError: they do not.
    """
    if outcome.head in outcome.missing:
        raise StageError(
            ExitCode.BAD_DATA,
            f"the base's weights lack {outcome.head}, its output layer, and its config.json does not say that the "
            "embedding is used instead (`tie_word_embeddings`)",
            reason="HeadMissing",
            hint="If the model has tied embeddings, set `tie_word_embeddings` to true in its config.json. Else fetch "
            "it again: training would start that layer at random.",
        )
    if outcome.missing:
        raise StageError(
            ExitCode.BAD_DATA,
            f"the base lacks {len(outcome.missing)} of its weights, among them {', '.join(outcome.missing[:_NAMED])}",
            reason="BaseIncomplete",
            hint="Fetch the base again; training would start these weights at random.",
        )
    if outcome.mismatched:
        name, found, wanted = outcome.mismatched[0]
        raise StageError(
            ExitCode.BAD_DATA,
            f"{len(outcome.mismatched)} of the base's tensors have another shape than its config.json makes them: "
            f"{name} is {found}, not {wanted}",
            reason="WeightsShapeDiffers",
            hint="Take the config.json that belongs to the weights.",
        )
    more = outcome.unexpected
    unused = f"; {len(more)} more are not used, such as {more[0]}" if more else ""
    return f"all weights of the architecture are there{unused}"


def keeps_its_head(outcome: Outcome, weights: Weights) -> str:
    """If the embedding is used as the output layer, there is no other output layer that would be lost.

    Raises:
        StageError: there is.
    """
    embedding, head = weights.embedding(), weights.tensors.get(outcome.head)
    if not outcome.tied or head is None or embedding is None or _same(weights, embedding.name, head.name):
        return "tied to the embedding" if outcome.tied else f"{outcome.head} is a layer of its own"
    raise StageError(
        ExitCode.BAD_DATA,
        f"config.json of the base says that the embedding is the output layer (`tie_word_embeddings`), but {head.name} "
        f"is there and differs from {embedding.name}: it would be lost",
        reason="HeadWouldBeLost",
        hint="If the model was trained with an output layer of its own, set `tie_word_embeddings` to false in its "
        "config.json; else remove that tensor.",
    )


def _same(weights: Weights, one: str, other: str) -> bool:
    first, second = weights.file_of(one).bytes_of(one), weights.file_of(other).bytes_of(other)
    if weights.tensors[one].shape != weights.tensors[other].shape or len(first) != len(second):
        return False
    places = range(0, len(first), _BLOCK)
    return all(np.array_equal(first[place : place + _BLOCK], second[place : place + _BLOCK]) for place in places)


def described(outcome: Outcome) -> str:
    """Return what the twin is."""
    sizes = ", ".join(f"{name} {value}" for name, value in outcome.changes.items() if isinstance(value, int))
    return f"a twin of {outcome.parameters:,} parameters took a step of training ({sizes or 'the size of the base'})"


def why_none(outcome: Outcome) -> str:
    """Say why no twin was made."""
    return f"no small model of this architecture can be made: {outcome.why_none}"
