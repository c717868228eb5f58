"""Puts the steps of `prepare` together and writes what training and the later proofs read.

This process reads the files and writes the results. Rendering, tokenizing and labelling are done by as many others as
there are processors (:mod:`.workers`). Samples go to a file as they come and are chosen from it at the end, so that
memory does not grow with the data.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

from tunesmith_stages.contract import ExitCode
from tunesmith_stages.prepare.bad_rows import BadRows
from tunesmith_stages.prepare.collecting import Collected, Dataset
from tunesmith_stages.prepare.conversations import Conversation
from tunesmith_stages.prepare.encoder import Encoder
from tunesmith_stages.prepare.mixing import times_of_rows
from tunesmith_stages.prepare.pipeline import Preparer, Source, Task
from tunesmith_stages.prepare.preferences import LABELS, Labelled
from tunesmith_stages.prepare.recognition import reader_for
from tunesmith_stages.prepare.report import Totals, report_of, totals_of
from tunesmith_stages.prepare.rows import count_rows, read_batches
from tunesmith_stages.prepare.splitting import Split, Times, split
from tunesmith_stages.prepare.spool import KeptSamples, Samples
from tunesmith_stages.prepare.workers import in_order
from tunesmith_stages.prepare.writing import SCHEMAS, Choice, RowWriter, write_rows
from tunesmith_stages.processors import usable_processors
from tunesmith_stages.program import Made, StageError, Work

_SAMPLES = "samples.arrow"
"""File of all samples, while they are prepared."""
PROBES = 8
"""Conversations whose answers are compared through all later stages."""
_QUESTIONS = ("Hello", "What can you do?", "Tell me a story.")
"""What is asked instead where the data ask nothing: plain text."""
_MOST_PROCESSES = 16
"""More would wait for this one, which reads for all and writes what they make."""


def prepare(work: Work) -> Made:
    """Turn the datasets into labelled token rows, and prove the labels."""
    params = work.params
    # Each processor has a process; threads of the tokenizers library's own would not survive the fork.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    work.progress.note("reading the tokenizer")
    encoder = Encoder(work.input("base"), params["chatTemplate"])
    samples = work.folder / _SAMPLES
    if encoder.date:
        work.progress.note(f"the chat template writes the date: {encoder.date} in training")
    collected = _collect(work, encoder, samples)
    collected.check(params["sequenceLength"])
    sides = split(collected.kept, params["validationFraction"], work.folder)
    _say(work, sides)
    totals = totals_of(collected, sides)
    if work.params.get("preferences") == LABELS:
        _require_both_labels(collected, totals)
    capacity = params["sequenceLength"] if params.get("packing") else None
    work.progress.note("packing" if capacity else "writing")
    rows = {"train": _write_side(work, collected, sides.trained, "train", capacity)}
    if totals.measured:
        rows["validation"] = _write_side(work, collected, sides.measured, "validation", capacity)
    samples.unlink()
    (work.out / "chat_template.jinja").write_text(encoder.template, encoding="utf-8", newline="")
    _write(work.out / "tokens.json", encoder.tokens())
    _write(work.out / "probes.json", {"prompts": _probes(collected.prompts, encoder)})
    report = report_of(collected, encoder, sides, totals, rows, capacity)
    _write(work.logs / "report.json", report)
    return Made(
        outputs={
            "datasets": {
                name: {field: found[field] for field in ("format", "rows", "used")}
                for name, found in report["datasets"].items()
            },
            "rowsLeftOut": report["rowsLeftOut"],
        },
        numbers={
            **{name: report[name] for name in ("rows", "validationRows", "tokens", "labelledTokens")},
            "longestRow": report["longest"],
        },
        tools={name: metadata.version(name) for name in ("transformers", "tokenizers", "pyarrow")},
    )


def _collect(work: Work, encoder: Encoder, samples: Path) -> Collected:
    """Prepare all rows, write the samples to a file, and return what came of them."""
    collected = Collected([_open(work, dataset) for dataset in work.params["datasets"]], KeptSamples(work.folder))
    sources = [Source(dataset.name, dataset.reader, dataset.held_out) for dataset in collected.datasets]
    preparer = Preparer(encoder, sources, work.params["sequenceLength"], work.params["seed"])
    total = sum(len(dataset.times) for dataset in collected.datasets)
    portions = in_order(_tasks(collected.datasets), preparer, min(_MOST_PROCESSES, usable_processors()))
    with RowWriter(samples, SCHEMAS[work.params.get("preferences")]) as file, closing(portions):
        for portion in portions:
            collected.add(portion, file)
            work.progress.count(collected.read, total, "rows")
    return collected


def _open(work: Work, dataset: Mapping[str, Any]) -> Dataset:
    """Find out how a dataset is to be read, and which of its rows are used."""
    name = dataset["name"]
    folder = work.input(f"dataset:{name}")
    work.progress.note(f"reading {name}")
    with _named(name):
        reader = reader_for(dataset, folder, work.params.get("preferences"))
        rows = count_rows(folder)
    return Dataset(
        name,
        folder,
        reader,
        times_of_rows(dataset, reader.num_samples, rows, work.params["seed"], work.folder),
        BadRows(name, dataset.get("onBadRow") or "Fail"),
        held_out=dataset.get("use") == "Validation",
    )


def _tasks(datasets: Sequence[Dataset]) -> Iterator[Task]:
    for number, dataset in enumerate(datasets):
        with _named(dataset.name):
            for batch in read_batches(dataset.folder):
                times = dataset.times[batch.start : batch.start + len(batch)]
                yield Task(number, batch, times, first=number == batch.start == 0)


@contextmanager
def _named(dataset: str) -> Iterator[None]:
    """Name the dataset in what goes wrong with its files."""
    try:
        yield
    except StageError as error:
        if error.message.startswith(f"dataset `{dataset}`"):
            raise
        message = f"dataset `{dataset}`, {error.message}"
        raise StageError(error.code, message, reason=error.reason, hint=error.hint) from error


def _say(work: Work, sides: Split) -> None:
    """Say what people may want to mend in the data."""
    by_prompt = "preferences" in work.params
    if sides.duplicates:
        same = "have the prompt of an earlier one" if by_prompt else "equal an earlier one"
        work.progress.note(f"{sides.duplicates:,} rows {same}")
    if sides.measured_and_trained:
        same = "have a prompt that is trained on" if by_prompt else "are trained on"
        work.progress.note(f"{sides.measured_and_trained:,} validation rows {same}, too")


def _require_both_labels(collected: Collected, totals: Totals) -> None:
    """Refuse rows that are all desirable, or all undesirable: KTO learns the difference.

    Raises:
        StageError: so they are.
    """
    if 0 < totals.desirable < totals.trained:
        return
    what, missing = ("desirable", "undesirable") if totals.desirable else ("undesirable", "desirable")
    held_back = totals.measured - totals.desirable_measured if totals.desirable else totals.desirable_measured
    shapes = {item.name: item.reader.shape for item in collected.datasets if not item.held_out}
    where = ", ".join(f"`{name}`, `{shape.label}`" for name, shape in shapes.items() if isinstance(shape, Labelled))
    besides = f"; {held_back} that are {missing} are there to measure with" if held_back else ""
    raise StageError(
        ExitCode.BAD_DATA,
        f"all {totals.trained} rows to train on are {what} ({where}){besides}: KTO learns from answers of both kinds",
        reason="OneKindOfAnswer",
        hint=f"Add rows with {missing} answers, hold back fewer, or set `training.method: SFT` to learn all answers."
        if totals.desirable
        else f"Add rows with {missing} answers. If the labels mean the opposite, turn them round in the data.",
    )


def _write_side(
    work: Work, collected: Collected, times: Callable[[Samples], Times], name: str, capacity: int | None
) -> int:
    """Write the samples to train on, or to measure with; return the number of rows."""
    choice = Choice(lambda start, stop: times(collected.kept.part(start, stop)), collected.spans)
    return write_rows(work.folder / _SAMPLES, choice, work.out / f"{name}.arrow", capacity)


def _probes(prompts: Sequence[Mapping[str, Any]], encoder: Encoder) -> list[Mapping[str, Any]]:
    """Return up to PROBES different prompts, spread evenly over those given; there is always one."""
    if not prompts:
        asked = ([{"role": "user", "content": text}, {"role": "assistant", "content": text}] for text in _QUESTIONS)
        answers = (encoder.prompt(Conversation("a question", messages)) for messages in asked)
        return [prompt for prompt in answers if prompt is not None]
    different = list({prompt["text"]: prompt for prompt in reversed(prompts)}.values())[::-1]
    return different[:: max(1, len(different) // PROBES)][:PROBES]


def _write(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False, indent=2, sort_keys=True) + "\n", encoding="utf-8")
