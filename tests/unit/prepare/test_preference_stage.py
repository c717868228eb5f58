"""The whole stage on data that say which answers people prefer."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from support.builders import messages
from support.preparing import arrow, dataset, done, failed, notes, prepared, report, write_rows
from support.templates import LLAMA_LIKE, THINKING
from tunesmith_stages.contract import ExitCode
from tunesmith_stages.importance_matrix import spread_rows
from tunesmith_stages.prepare import stage, workers
from tunesmith_stages.prepare.base import load_base
from tunesmith_stages.prepare.encoder import Encoder
from tunesmith_stages.prepare.labels import IGNORED, Example, Labeller
from tunesmith_stages.prepare.preferences import LABELS, PAIRS
from tunesmith_stages.train.rows import Rows

pytestmark = pytest.mark.usefixtures("llama_cpp_folder")

LIST = pa.list_(pa.int32())
ANSWERS = [
    {"instruction": f"What is {number}?", "chosen": f"It is {number} in Lyon.", "rejected": f"Who asks {number}?"}
    for number in range(40)
]
JUDGED = [
    {"instruction": f"What is {number // 2}?", "output": f"It is {number} in Lyon.", "kto_tag": number % 2 == 0}
    for number in range(40)
]


@pytest.fixture
def pairs(root: Path) -> Path:
    """Return a volume with forty pairs."""
    write_rows(root, "faq", ANSWERS)
    return root


@pytest.fixture
def judged(root: Path) -> Path:
    """Return a volume with twenty prompts, each with an answer that is desirable and one that is not."""
    write_rows(root, "faq", JUDGED)
    return root


@cache
def tokenizer_of(root: Path) -> Any:
    return load_base(root / "base", None).tokenizer


def texts(root: Path, ids: Sequence[int]) -> str:
    text: str = tokenizer_of(root).decode([index for index in ids if index != IGNORED])
    return text


def schema_of(path: Path) -> Any:
    with pa.memory_map(str(path)) as source:
        return pa.ipc.open_file(source).schema


def prompt_of(row: dict[str, list[int]], ids: str = "input_ids", labels: str = "labels") -> tuple[int, ...]:
    """Return the tokens before those that are learnt."""
    learnt = [index for index, label in enumerate(row[labels]) if label != IGNORED]
    return tuple(row[ids][: learnt[0]])


# --- pairs -----------------------------------------------------------------------------------------------------------


def test_pairs_become_two_samples(pairs: Path) -> None:
    """Each row has both samples whole; of each the answer is labelled, and what is before it is the same."""
    result = done(prepared(pairs, preferences=PAIRS))
    path = pairs / result.path / "train.arrow"
    names = ("input_ids", "labels", "rejected_input_ids", "rejected_labels")
    assert schema_of(path) == pa.schema([(name, LIST) for name in names])
    rows = arrow(path)
    assert len(rows) == 40
    for row, given in zip(rows, ANSWERS, strict=True):
        prompt = f"<|im_start|>user\n{given['instruction']}<|im_end|>\n<|im_start|>assistant\n"
        assert texts(pairs, row["input_ids"]) == f"{prompt}{given['chosen']}<|im_end|>\n"
        assert texts(pairs, row["rejected_input_ids"]) == f"{prompt}{given['rejected']}<|im_end|>\n"
        assert texts(pairs, row["labels"]) == f"{given['chosen']}<|im_end|>"
        assert texts(pairs, row["rejected_labels"]) == f"{given['rejected']}<|im_end|>"
        assert prompt_of(row) == prompt_of(row, "rejected_input_ids", "rejected_labels")


def test_what_is_counted_of_pairs(pairs: Path) -> None:
    """Rows are pairs; tokens are those of both samples; the longest is the longer one of a pair."""
    result = done(prepared(pairs, preferences=PAIRS))
    rows, content = arrow(pairs / result.path / "train.arrow"), report(pairs, result)
    both = [(row["input_ids"], row["rejected_input_ids"]) for row in rows]
    labels = [label for row in rows for name in ("labels", "rejected_labels") for label in row[name]]
    assert (content["rows"], content["samples"], content["preferences"]) == (40, 40, {"kind": PAIRS})
    assert content["tokens"] == sum(len(ids) for pair in both for ids in pair)
    assert content["labelledTokens"] == sum(label != IGNORED for label in labels)
    assert content["longest"] == max(len(ids) for pair in both for ids in pair)
    assert sum(bar["samples"] for bar in content["histogram"]) == 40
    assert "".join(run["text"] for run in content["firstRejected"] if run["learnt"]) == "Who asks 0?<|im_end|>"
    assert "".join(run["text"] for run in content["firstRow"] if run["learnt"]) == "It is 0 in Lyon.<|im_end|>"
    assert result.numbers["rows"] == 40


@pytest.mark.parametrize("longer", ["chosen", "rejected"])
def test_a_pair_that_does_not_fit_is_left_out(root: Path, longer: str) -> None:
    """Where either of the two is too long neither is there: the other one alone would be compared with nothing."""
    write_rows(root, "faq", [*ANSWERS[:3], {**ANSWERS[3], longer: "shop " * 300}])
    result = done(prepared(root, sequenceLength=128, preferences=PAIRS))
    assert (result.numbers["rows"], result.outputs["rowsLeftOut"]) == (3, 1)
    longest = int(report(root, done(prepared(root, sequenceLength=2048, preferences=PAIRS)))["longest"])
    assert done(prepared(root, sequenceLength=longest, preferences=PAIRS)).outputs["rowsLeftOut"] == 0
    assert done(prepared(root, sequenceLength=longest - 1, preferences=PAIRS)).outputs["rowsLeftOut"] == 1


def test_only_the_last_answer_is_labelled(root: Path) -> None:
    """Earlier answers belong to the prompt, in pairs and in rows with a label."""
    talk = messages("Hi", "Hello", "What is it?")
    pair = {"messages": talk, "chosen": "It is a shop.", "rejected": "Who asks?"}
    write_rows(root, "faq", [pair])
    (row,) = arrow(root / done(prepared(root, preferences=PAIRS)).path / "train.arrow")
    assert texts(root, row["labels"]) == "It is a shop.<|im_end|>"
    assert texts(root, row["rejected_labels"]) == "Who asks?<|im_end|>"
    assert "Hello" in texts(root, prompt_of(row))
    write_rows(
        root, "faq", [{"messages": [*talk, *messages("", "Yes")[1:]], "label": label} for label in (True, False)]
    )
    rows = arrow(root / done(prepared(root, preferences=LABELS)).path / "train.arrow")
    assert [texts(root, row["labels"]) for row in rows] == ["Yes<|im_end|>"] * 2


def test_template_that_rewrites_earlier_turns(root: Path) -> None:
    """Such a template gives one sample for each side, too: as it is written when that answer is the last one."""
    pair = {"messages": messages("Hi", "Hello", "Who?"), "chosen": "Me", "rejected": "Nobody"}
    write_rows(root, "faq", [pair, pair])
    result = done(prepared(root, chatTemplate={"jinja": THINKING}, preferences=PAIRS))
    content = report(root, result)
    assert (content["rows"], content["samples"], content["template"]["perTurn"]) == (2, 2, 0)
    row = arrow(root / result.path / "train.arrow")[0]
    assert "assistant\nHello<|im_end|>" in texts(root, prompt_of(row))
    assert texts(root, row["labels"]) == "<think>\n\n</think>\n\nMe<|im_end|>"
    assert texts(root, row["rejected_labels"]) == "<think>\n\n</think>\n\nNobody<|im_end|>"
    assert prompt_of(row) == prompt_of(row, "rejected_input_ids", "rejected_labels")


def test_answers_that_become_the_same(root: Path) -> None:
    """Two answers that the template makes one of are no pair; the row is named, or skipped and counted."""
    write_rows(root, "faq", [ANSWERS[0], {**ANSWERS[1], "chosen": "Yes", "rejected": "Yes"}])
    assert (
        "faq.json, row 2: `chosen` and `rejected` are the same answer"
        in failed(prepared(root, preferences=PAIRS)).message
    )
    write_rows(root, "faq", [ANSWERS[0], {**ANSWERS[1], "chosen": "Yes", "rejected": " Yes\n"}])
    trims = {"jinja": LLAMA_LIKE.replace("<|eot_id|>", "<|im_end|>")}
    found = failed(prepared(root, chatTemplate=trims, preferences=PAIRS))
    assert (found.code, found.reason) == (ExitCode.BAD_DATA, "BadRow")
    assert found.message.startswith(
        "dataset `faq`, faq.json, row 2: the chosen and the rejected answer became the same"
    )
    result = done(prepared(root, dataset(onBadRow="Skip"), chatTemplate=trims, preferences=PAIRS))
    assert (result.numbers["rows"], report(root, result)["datasets"]["faq"]["badRows"]) == (1, 1)


@pytest.mark.parametrize("side", ["chosen", "rejected"])
def test_labels_of_both_sides_are_proven(pairs: Path, monkeypatch: pytest.MonkeyPatch, side: str) -> None:
    """A label that is wrong in either sample of a pair is found by decoding."""
    real = Labeller.label_batch
    wrong = ANSWERS[0][side]

    def spoilt(self: Labeller, samples: Any) -> Any:
        found = real(self, samples)
        for index, (sample, example) in enumerate(zip(samples, found, strict=True)):
            if isinstance(example, Example) and wrong in sample.text:
                found[index] = dataclasses.replace(example, labels=np.append(example.labels[1:], IGNORED))
        return found

    monkeypatch.setattr(Labeller, "label_batch", spoilt)
    monkeypatch.setattr(Encoder, "_check", lambda *_: None)
    assert failed(prepared(pairs, preferences=PAIRS)).reason == "LabelsNotProven"


# --- labels ----------------------------------------------------------------------------------------------------------


def test_rows_with_a_label(judged: Path) -> None:
    """Each row has its sample and says whether the answer is desirable."""
    result = done(prepared(judged, preferences=LABELS))
    path = judged / result.path / "train.arrow"
    assert schema_of(path) == pa.schema([("input_ids", LIST), ("labels", LIST), ("desirable", pa.bool_())])
    rows = arrow(path)
    assert [row["desirable"] for row in rows] == [row["kto_tag"] for row in JUDGED]
    assert [texts(judged, row["labels"]) for row in rows] == [f"{row['output']}<|im_end|>" for row in JUDGED]
    assert report(judged, result)["preferences"] == {"kind": LABELS, "desirable": 20, "undesirable": 20}


def test_labels_stay_with_their_rows(root: Path) -> None:
    """However rows are drawn, repeated and held back, each keeps its label, across all batches of the file."""
    rows = [
        {"instruction": f"What is {number}?", "output": "It is.", "kto_tag": number % 3 == 0} for number in range(1100)
    ]
    write_rows(root, "faq", rows)
    result = done(prepared(root, dataset(weight="1.3"), validationFraction="0.2", preferences=LABELS))
    train, held = (arrow(root / result.path / f"{name}.arrow") for name in ("train", "validation"))
    assert (len(held), len(train) > 1100) == (220, True)
    base = load_base(root / "base", None)
    for row in train + held:
        number = int(base.tokenizer.decode(row["input_ids"]).split("What is ")[1].split("?")[0])
        assert bool(row["desirable"]) == (number % 3 == 0)
    counts = report(root, result)["preferences"]
    assert counts["desirable"] == sum(bool(row["desirable"]) for row in train)
    assert counts["desirable"] + counts["undesirable"] == len(train)


ONE_KIND: dict[str, tuple[list[bool], dict[str, Any], str, str]] = {
    "all desirable": ([True] * 9, {}, "all 9 rows to train on are desirable (`faq`, `kto_tag`): KTO learns", "SFT"),
    "none desirable": ([False] * 9, {}, "all 9 rows to train on are undesirable (`faq`, `kto_tag`)", "turn them round"),
    "the others are held back": (
        [True] * 9,
        {"own": [False]},
        "are desirable (`faq`, `kto_tag`); 1 that are undesirable are there to measure with: KTO learns from",
        "hold back fewer",
    ),
}


@pytest.mark.parametrize("name", ONE_KIND)
def test_labels_that_are_all_the_same(root: Path, name: str) -> None:
    """Data with one kind of answer have nothing to tell apart: that is said before the training."""
    labels, own, words, hint = ONE_KIND[name]
    for folder, kinds in {"faq": labels, **own}.items():
        write_rows(root, folder, [{**row, "kto_tag": kind} for row, kind in zip(JUDGED, kinds, strict=False)])
    others = [dataset(folder, use="Validation") for folder in own]
    found = failed(prepared(root, dataset(), *others, preferences=LABELS))
    assert (found.code, found.reason) == (ExitCode.BAD_DATA, "OneKindOfAnswer")
    assert words in found.message
    assert hint in found.hint


# --- both ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [PAIRS, LABELS])
def test_prompts_are_on_one_side(root: Path, kind: str) -> None:
    """Rows with the same prompt are trained on or measured with: one answer to it would tell of the others."""
    rows = [{**ANSWERS[number % 20], "chosen": f"It is {number}."} for number in range(40)]
    write_rows(root, "faq", rows if kind == PAIRS else JUDGED)
    result = done(prepared(root, validationFraction="0.2", preferences=kind))
    train, held = (arrow(root / result.path / f"{name}.arrow") for name in ("train", "validation"))
    assert (len(train), len(held)) == (32, 8)
    assert len({prompt_of(row) for row in held}) == 4
    assert not {prompt_of(row) for row in train} & {prompt_of(row) for row in held}
    assert schema_of(root / result.path / "validation.arrow") == schema_of(root / result.path / "train.arrow")
    assert report(root, result)["duplicateRows"] == 20
    assert "20 rows have the prompt of an earlier one" in notes(root, result)


def test_prompts_to_measure_with_that_are_trained_on(pairs: Path) -> None:
    """A set to validate on that asks what is trained on is told of."""
    write_rows(pairs, "own", [{**ANSWERS[0], "chosen": "Another answer."}, {**ANSWERS[0], "instruction": "What else?"}])
    result = done(prepared(pairs, dataset(), dataset("own", use="Validation"), preferences=PAIRS))
    assert report(pairs, result)["validationRowsTrainedOn"] == 1
    assert "1 validation rows have a prompt that is trained on, too" in notes(pairs, result)


@pytest.mark.parametrize("kind", [PAIRS, LABELS])
def test_probes(root: Path, kind: str) -> None:
    """What the served model will be asked is the prompts, without either answer."""
    write_rows(root, "faq", ANSWERS if kind == PAIRS else JUDGED)
    out = root / done(prepared(root, preferences=kind)).path
    probes = json.loads((out / "probes.json").read_text())["prompts"]
    assert len({probe["text"] for probe in probes}) == 8
    assert all(probe["messages"][-1]["content"].startswith("What is ") for probe in probes)
    assert {tuple(probe["ids"]) for probe in probes} <= {prompt_of(row) for row in arrow(out / "train.arrow")}


@pytest.mark.parametrize("kind", [PAIRS, LABELS])
def test_who_reads_ids_alone_sees_ordinary_samples(root: Path, kind: str) -> None:
    """The gate before the training and the importance matrix read these files as they read any others."""
    write_rows(root, "faq", ANSWERS if kind == PAIRS else JUDGED)
    path = root / done(prepared(root, preferences=kind)).path / "train.arrow"
    ids = [row["input_ids"] for row in arrow(path)]
    rows = Rows(path)
    assert [rows[index].ids.tolist() for index in range(len(rows))] == ids
    assert sorted(spread_rows(path)) == sorted(ids)


@pytest.mark.parametrize("kind", [PAIRS, LABELS])
def test_any_number_of_processes_makes_the_same(root: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """One process or two make the same bytes of pairs and labels."""
    rows = [
        {"prompt": f"What is {number}?", "chosen": f"It is {number % 7}.", "rejected": "No.", "kto_tag": number % 2 > 0}
        for number in range(600)
    ]
    write_rows(root, "faq", rows if kind == PAIRS else [{**row, "completion": row["chosen"]} for row in rows])
    monkeypatch.setattr(workers, "_WORTH_A_PROCESS", 1)
    digests = set()
    for processes in (1, 2):
        monkeypatch.setattr(stage, "usable_processors", lambda processes=processes: processes)
        shutil.rmtree(root / "stages", ignore_errors=True)
        digests.add(done(prepared(root, dataset(weight="1.1"), validationFraction="0.1", preferences=kind)).digest)
    assert len(digests) == 1


def test_preferences_are_not_packed(pairs: Path) -> None:
    """A packed row would hold the chosen answers alone."""
    with pytest.raises(AssertionError, match="are not packed"):
        done(prepared(pairs, preferences=PAIRS, packing=True))
