"""Puts the steps of `prepare` together and writes what training and the later proofs read."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

from tunesmith_stages.contract import ExitCode
from tunesmith_stages.prepare.base import Base, load_base
from tunesmith_stages.prepare.conversations import Conversation, reader_for, sample
from tunesmith_stages.prepare.labels import IGNORED, Example, Labeller, prove
from tunesmith_stages.prepare.rendering import Renderer
from tunesmith_stages.prepare.rows import Row, read_rows
from tunesmith_stages.prepare.writing import write_examples
from tunesmith_stages.program import Made, Progress, StageError, Work

PROBES = 8
"""Conversations whose answers are compared through all later stages."""
_PROVEN_ROWS = 500


def prepare(work: Work) -> Made:
    """Turn the datasets into labelled token rows, and prove the labels."""
    params = work.params
    work.progress.note("reading the tokenizer")
    base = load_base(work.input("base"), params["chatTemplate"])
    renderer = Renderer(base.tokenizer, base.template)
    renderer.check()
    labeller = Labeller(base.tokenizer)
    conversations, report = _read_datasets(work)
    kept, examples = _tokenize(conversations, base, renderer, labeller, params["sequenceLength"], work.progress)
    end_of_turn = _end_of_turn(base, kept, examples)
    train, validation = split(examples, params["validationFraction"], params["seed"])
    write_examples(work.out / "train.arrow", train)
    if validation:
        write_examples(work.out / "validation.arrow", validation)
    (work.out / "chat_template.jinja").write_text(base.template, encoding="utf-8", newline="")
    _write(work.out / "tokens.json", _tokens(base, labeller, end_of_turn))
    _write(work.out / "probes.json", {"prompts": _probes(kept, renderer, labeller)})
    report.update(
        rowsLeftOut=len(conversations) - len(kept),
        rowsCutAtTurns=sum(example.cut_at_turns for example in examples),
        firstRow=_marked(base, examples[0]),
    )
    _write(work.logs / "report.json", report)
    lengths = [len(example.input_ids) for example in examples]
    return Made(
        outputs={"datasets": report["datasets"], "rowsLeftOut": report["rowsLeftOut"]},
        numbers={
            "rows": len(train),
            "validationRows": len(validation),
            "tokens": sum(lengths),
            "labelledTokens": sum(label != IGNORED for example in examples for label in example.labels),
            "longestRow": max(lengths),
        },
        tools={name: metadata.version(name) for name in ("transformers", "tokenizers", "pyarrow")},
    )


def _read_datasets(work: Work) -> tuple[list[Conversation], dict[str, Any]]:
    """Return the conversations of all datasets, in their order, and what was found in each."""
    conversations: list[Conversation] = []
    found: dict[str, Any] = {}
    for dataset in work.params["datasets"]:
        name = dataset["name"]
        work.progress.note(f"reading {name}")
        rows = _rows(name, work.input(f"dataset:{name}"))
        if not rows:
            raise StageError(
                ExitCode.BAD_DATA,
                f"dataset `{name}` is empty: it holds no rows",
                reason="EmptyDataset",
                hint="Put rows into it or remove it from `datasets`.",
            )
        reader = reader_for(dataset, rows)
        with _named(name):
            read = [reader.read(row) for row in rows]
        chosen = sample(read, dataset["maxSamples"], repeat=dataset["builtin"], seed=work.params["seed"], name=name)
        conversations += [Conversation(f"dataset `{name}`, {item.place}", item.messages) for item in chosen]
        found[name] = {"format": reader.format, "rows": len(read), "used": len(chosen)}
    return conversations, {"datasets": found}


def _rows(name: str, folder: Path) -> list[Row]:
    with _named(name):
        return list(read_rows(folder))


@contextmanager
def _named(dataset: str) -> Iterator[None]:
    """Name the dataset in what goes wrong with its files and rows."""
    try:
        yield
    except StageError as error:
        message = f"dataset `{dataset}`, {error.message}"
        raise StageError(error.code, message, reason=error.reason, hint=error.hint) from error


def _tokenize(
    conversations: Sequence[Conversation],
    base: Base,
    renderer: Renderer,
    labeller: Labeller,
    sequence_length: int,
    progress: Progress,
) -> tuple[list[Conversation], list[Example]]:
    """Return the conversations that fit into `sequence_length`, and their labelled tokens."""
    kept, examples = [], []
    proven_every = max(1, len(conversations) // _PROVEN_ROWS)
    longest = 0
    for index, conversation in enumerate(conversations):
        rendered = renderer.locate(conversation)
        example = labeller.label(rendered)
        base.check_ids(max(example.input_ids))
        longest = max(longest, len(example.input_ids))
        if len(example.input_ids) <= sequence_length:
            if index % proven_every == 0:
                prove(base.tokenizer, rendered, example)
            kept.append(conversation)
            examples.append(example)
        progress.count(index + 1, len(conversations), "rows")
    if not examples:
        raise StageError(
            ExitCode.BAD_DATA,
            f"no row is left: all {len(conversations)} are longer than `sequenceLength` {sequence_length}; "
            f"the longest has {longest} tokens",
            reason="NoRowsLeft",
            hint="Raise `training.sequenceLength` or shorten the rows.",
        )
    return kept, examples


def _end_of_turn(base: Base, kept: Sequence[Conversation], examples: Sequence[Example]) -> int:
    """Return the one token that ends answers, after proving that it will stop the served model."""
    ends = Counter(example.end_of_turn for example in examples)
    if len(ends) > 1:
        names = ", ".join(repr(base.tokenizer.convert_ids_to_tokens(token)) for token in ends)
        odd = ends.most_common()[-1][0]
        place = next(item.place for item, example in zip(kept, examples, strict=True) if example.end_of_turn == odd)
        raise StageError(
            ExitCode.BAD_CONFIG,
            f"the chat template ends answers with different control tokens: {names}; for example {place}",
            reason="NoEndOfTurn",
            hint="Use a template that ends each answer with the same token, such as `eos_token`.",
        )
    token = next(iter(ends))
    base.check_end_of_turn(token)
    return token


def split(examples: Sequence[Example], fraction: str, seed: int) -> tuple[list[Example], list[Example]]:
    """Return the rows to train on and those held back, each in the data's order.

    At least one row is held back when `fraction` is above 0, and at least one is left to train on.
    """
    share = float(fraction)
    count = min(len(examples) - 1, max(1, round(share * len(examples)))) if share > 0 else 0
    held = set(random.Random(f"{seed}/validation").sample(range(len(examples)), count))  # noqa: S311 - not for secrets
    train = [example for index, example in enumerate(examples) if index not in held]
    return train, [examples[index] for index in sorted(held)]


def _probes(conversations: Sequence[Conversation], renderer: Renderer, labeller: Labeller) -> list[dict[str, Any]]:
    """Return up to PROBES different prompts, spread evenly over the data."""
    prompts: dict[str, Sequence[dict[str, str]]] = {}
    step = max(1, len(conversations) // (4 * PROBES))
    for conversation in conversations[::step]:
        asked = conversation.messages[:-1]
        prompts.setdefault(renderer.render(asked, ask=True), asked)
    texts = list(prompts)
    chosen = texts[:: max(1, len(texts) // PROBES)][:PROBES]
    return [{"messages": prompts[text], "text": text, "ids": labeller.encode_prompt(text)} for text in chosen]


def _tokens(base: Base, labeller: Labeller, end_of_turn: int) -> dict[str, Any]:
    tokenizer = base.tokenizer
    return {
        "endOfTurn": {"id": end_of_turn, "text": tokenizer.convert_ids_to_tokens(end_of_turn)},
        "bosTokenId": tokenizer.bos_token_id,
        "eosTokenId": tokenizer.eos_token_id,
        "vocabSize": base.vocab_size,
        "addsBos": labeller.adds_bos,
    }


def _marked(base: Base, example: Example) -> list[dict[str, Any]]:
    """Return a row as runs of text, each with whether it is learnt, for people to look at."""
    runs: list[dict[str, Any]] = []
    for token, label in zip(example.input_ids, example.labels, strict=True):
        learnt = label != IGNORED
        if not runs or runs[-1]["learnt"] != learnt:
            runs.append({"learnt": learnt, "ids": []})
        runs[-1]["ids"].append(token)
    return [{"learnt": run["learnt"], "text": base.tokenizer.decode(run["ids"])} for run in runs]


def _write(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False, indent=2, sort_keys=True) + "\n", encoding="utf-8")
