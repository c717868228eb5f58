"""Rows that say what people prefer, and their batches."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from support.prepared import random_pairs, random_rows, write_judged, write_pairs, write_rows
from tunesmith_stages.contract import ExitCode
from tunesmith_stages.program import StageError
from tunesmith_stages.train.methods import Method, Preference
from tunesmith_stages.train.preference_rows import (
    JudgedRows,
    PairRows,
    collate_judged,
    collate_pairs,
    open_rows,
    require_enough,
)
from tunesmith_stages.train.rows import Rows

PAIRS = random_pairs(10)
JUDGED = [
    (([5, 6, 7, 8], [-100, -100, 7, 8]), True),
    (([15, 16, 17], [-100, 16, 17]), False),
    (([25, 26, 27, 28, 29], [-100, -100, -100, 28, 29]), True),
    (([35, 36], [-100, 36]), False),
]


@pytest.fixture
def pairs(tmp_path: Path) -> PairRows:
    write_pairs(tmp_path / "train.arrow", PAIRS, batch=4)
    return PairRows(tmp_path / "train.arrow", Method.DPO)


@pytest.fixture
def judged(tmp_path: Path) -> JudgedRows:
    write_judged(tmp_path / "train.arrow", JUDGED, batch=3)
    return JudgedRows(tmp_path / "train.arrow")


def test_reads_pairs(pairs: PairRows) -> None:
    """Both answers of each pair come back as written; lengths and token ids are of both."""
    for number, (chosen, rejected) in enumerate(PAIRS):
        pair = pairs[number]
        assert (pair.chosen.ids.tolist(), pair.chosen.labels.tolist()) == chosen
        assert (pair.rejected.ids.tolist(), pair.rejected.labels.tolist()) == rejected
    assert len(pairs) == len(PAIRS)
    assert pairs.lengths.tolist() == [len(chosen[0]) + len(rejected[0]) for chosen, rejected in PAIRS]
    every = [token for pair in PAIRS for ids, _ in pair for token in ids]
    assert pairs.id_range() == (min(every), max(every))


def test_pairs_become_one_batch(pairs: PairRows) -> None:
    """The chosen answers come first, then the rejected ones, all padded to the longest."""
    batch = collate_pairs([pairs[3], pairs[1]])
    longest = max(len(ids) for number in (1, 3) for ids, _ in PAIRS[number])
    assert batch["rows"].tolist() == [3, 1]
    assert batch["input_ids"].shape == batch["labels"].shape == (4, longest)
    sides = [PAIRS[3][0], PAIRS[1][0], PAIRS[3][1], PAIRS[1][1]]
    for row, (ids, labels) in enumerate(sides):
        assert batch["input_ids"][row].tolist() == [*ids, *[0] * (longest - len(ids))]
        assert batch["labels"][row].tolist() == [*labels, *[-100] * (longest - len(ids))]
        assert int(batch["attention_mask"][row].sum()) == len(ids)


def test_mismatched_answers_are_those_of_rows_half_of_all_away(judged: JudgedRows) -> None:
    """A prompt is given another row's answer by its tokens, and no more tokens than the longest row has."""
    assert [judged[row].mismatched.ids.tolist() for row in range(4)] == [
        [5, 6, 28, 29],
        [15, 36],
        [25, 26, 27, 7, 8],
        [35, 16, 17],
    ]
    assert judged[2].mismatched.labels.tolist() == [-100, -100, -100, 7, 8]


SAME_PROMPTS: dict[str, Callable[[list[tuple[Any, Any]]], list[tuple[Any, bool]]]] = {
    "pairs taken apart, all chosen ones first": lambda pairs: [
        *((chosen, True) for chosen, _ in pairs),
        *((rejected, False) for _, rejected in pairs),
    ],
    "rows that are used twice": lambda pairs: [(pair[at % 2], at % 2 == 0) for at, pair in enumerate(pairs)] * 2,
    "pairs taken apart, used twice": lambda pairs: (
        [(side, wanted) for pair in pairs for side, wanted in zip(pair, (True, False), strict=True)] * 2
    ),
    "one prompt in most rows": lambda pairs: [*((pairs[0][0], True) for _ in range(50)), (pairs[1][0], False)],
}


@pytest.mark.parametrize("name", SAME_PROMPTS)
def test_mismatched_answers_are_those_to_other_prompts(tmp_path: Path, name: str) -> None:
    """An answer to the same prompt would not be mismatched, and z0 would follow the rewards instead of the drift."""
    rows = SAME_PROMPTS[name](PAIRS)
    write_judged(tmp_path / "train.arrow", rows)
    judged = JudgedRows(tmp_path / "train.arrow")
    answers: dict[tuple[int, ...], list[list[int]]] = {}
    for (ids, labels), _ in rows:
        asked = labels.count(-100)
        answers.setdefault(tuple(ids[:asked]), []).append(ids[asked:])
    looked_at = range(len(rows)) if name != "one prompt in most rows" else [50]
    for index in looked_at:
        (_, labels), _ = rows[index]
        asked = labels.count(-100)
        found = judged[index].mismatched
        assert found.ids[asked:].tolist() not in answers[tuple(found.ids[:asked].tolist())], index


def test_rows_that_all_have_one_prompt(tmp_path: Path) -> None:
    """Where there is no other prompt, another row's answer is taken all the same."""
    write_judged(tmp_path / "train.arrow", [(([1, 2, answer], [-100, -100, answer]), answer > 4) for answer in (3, 5)])
    assert [JudgedRows(tmp_path / "train.arrow")[row].mismatched.ids.tolist() for row in (0, 1)] == [
        [1, 2, 5],
        [1, 2, 3],
    ]


def test_a_mismatched_answer_is_cut_to_the_longest_row(tmp_path: Path) -> None:
    """A long prompt with a long answer of another row does not outgrow what the model can read."""
    rows = [(([1, 2, 3, 4, 5], [-100] * 4 + [5]), True), (([6, 7, 8, 9], [-100, 7, 8, 9]), False)]
    write_judged(tmp_path / "train.arrow", rows)
    found = JudgedRows(tmp_path / "train.arrow")[0].mismatched
    assert (found.ids.tolist(), found.labels.tolist()) == ([1, 2, 3, 4, 7], [-100] * 4 + [7])


def test_judged_answers_become_two_batches(judged: JudgedRows) -> None:
    """The answers and the mismatched ones are padded apart, with what is wanted."""
    batch = collate_judged([judged[1], judged[2]])
    assert batch["rows"].tolist() == [1, 2]
    assert batch["desirable"].tolist() == [False, True]
    assert batch["input_ids"].tolist() == [[15, 16, 17, 0, 0], [25, 26, 27, 28, 29]]
    assert batch["mismatched_input_ids"].tolist() == [[15, 36, 0, 0, 0], [25, 26, 27, 7, 8]]
    assert batch["mismatched_labels"].tolist() == [[-100, 36, -100, -100, -100], [-100, -100, -100, 7, 8]]
    assert batch["mismatched_attention_mask"].tolist() == [[1, 1, 0, 0, 0], [1] * 5]


@pytest.mark.parametrize("collate", [collate_pairs, collate_judged])
def test_no_rows_make_a_batch_without_rows(collate: Callable[..., dict[str, object]]) -> None:
    """A rank without rows in the last step has something to take through the model, and nothing in it counts."""
    batch = collate([])
    assert len(batch["rows"]) == 0  # type: ignore[arg-type]
    assert batch["labels"].tolist() == [[-100]]  # type: ignore[attr-defined]


def test_who_reads_ordinary_columns_sees_ordinary_samples(pairs: PairRows, tmp_path: Path) -> None:
    """The rehearsal and others read pairs as the chosen samples."""
    rows = Rows(tmp_path / "train.arrow")
    assert [rows[number].ids.tolist() for number in range(len(pairs))] == [chosen[0] for chosen, _ in PAIRS]


OPENED = {None: Rows, Method.DPO: PairRows, Method.ORPO: PairRows, Method.KTO: JudgedRows}


@pytest.mark.parametrize("method", list(Method))
def test_rows_for_another_method_are_refused(tmp_path: Path, method: Method) -> None:
    """What was prepared for supervised fine-tuning holds no preferences, and that is said."""
    write_rows(tmp_path / "train.arrow", random_rows(3))
    with pytest.raises(StageError, match=f"which `method: {method}` learns from: the column `.*` is missing") as caught:
        open_rows(tmp_path / "train.arrow", Preference(method, 0.1))
    assert (caught.value.code, caught.value.reason) == (ExitCode.BAD_DATA, "PreparedDataBroken")


def test_each_method_opens_its_rows(tmp_path: Path) -> None:
    """DPO and ORPO read pairs, KTO judged answers, supervised fine-tuning samples."""
    write_pairs(tmp_path / "pairs", PAIRS)
    write_judged(tmp_path / "judged", JUDGED)
    for method, kind in OPENED.items():
        preference = None if method is None else Preference(method, 0.1)
        assert type(open_rows(tmp_path / ("judged" if method is Method.KTO else "pairs"), preference)) is kind


def test_other_types_are_refused(tmp_path: Path) -> None:
    """What says whether an answer is wanted must say it of each row, and be no number."""
    lists = pa.list_(pa.int32())
    for wanted in (pa.array([1, 0]), pa.array([True, None])):
        ids = pa.array([[1, 2], [3, 4]], lists)
        batch = pa.record_batch({"input_ids": ids, "labels": ids, "desirable": wanted})
        with pa.OSFile(str(tmp_path / "x"), "wb") as sink, pa.ipc.new_file(sink, batch.schema) as writer:
            writer.write_batch(batch)
        with pytest.raises(StageError, match="`desirable` must be true or false in every row"):
            JudgedRows(tmp_path / "x")


def test_no_file_of_rows(tmp_path: Path) -> None:
    """Missing and broken files are told as for other rows."""
    with pytest.raises(StageError) as caught:
        open_rows(tmp_path / "train.arrow", Preference(Method.DPO, 0.1))
    assert caught.value.code is ExitCode.MISSING_INPUT
    (tmp_path / "train.arrow").write_bytes(b"{}" * 20)
    with pytest.raises(StageError, match="is not a file of prepared rows"):
        open_rows(tmp_path / "train.arrow", Preference(Method.KTO, 0.1))


def test_kto_needs_two_rows(tmp_path: Path) -> None:
    """A single row has no other one whose answer could be put to its prompt; a single pair is enough for DPO."""
    write_judged(tmp_path / "judged", JUDGED[:1])
    write_pairs(tmp_path / "pairs", PAIRS[:1])
    require_enough(PairRows(tmp_path / "pairs", Method.DPO))
    with pytest.raises(StageError, match="must have at least 2") as caught:
        require_enough(JudgedRows(tmp_path / "judged"))
    assert (caught.value.code, caught.value.reason) == (ExitCode.BAD_DATA, "TooFewRows")
