"""The table of reasons is whole, and the programs keep to it."""

from __future__ import annotations

import re
from functools import cache

import pytest

from support.asserted import asserted_words, words_asserted_in
from support.generator import ROOT
from support.reasons import classes_in_code, reasons_in_code
from tunesmith.api.status import REASON_PATTERN
from tunesmith_stages.contract import ExitCode, Failure, Report
from tunesmith_stages.reasons import GROUPS, REASONS, recognised, retry_of
from tunesmith_stages.reasons.retry import AT_ONCE, LATER, NEVER, WAITS, Retry
from tunesmith_stages.reasons.row import Reason, Where

ROWS = [row for rows in GROUPS.values() for row in rows]
TOLD_BY_NAME = {Where.PROGRAM, Where.OPERATOR}
OWN_RETRIES = {"InputLost": LATER, "ResultLost": LATER, "Killed": LATER, "ScratchSpaceTooSmall": NEVER}
"""Reasons for which something else is done than for others of their class."""
BY_CLASS = {
    ExitCode.BAD_DATA: NEVER,
    ExitCode.MISSING_INPUT: NEVER,
    ExitCode.UNAVAILABLE: LATER,
    ExitCode.INTERNAL: NEVER,
    ExitCode.NO_SPACE: LATER,
    ExitCode.TEMPORARY: LATER,
    ExitCode.NO_PERMISSION: NEVER,
    ExitCode.BAD_CONFIG: NEVER,
    ExitCode.OUT_OF_MEMORY: NEVER,
    ExitCode.GATE_FAILED: NEVER,
    ExitCode.INTERRUPTED: AT_ONCE,
}
NAMED_BY_ITS_ROW = {"TrainingStalled"}
"""The programs take these words from the table."""


def named(row: Reason) -> str:
    return row.names[0]


def is_told_by_name(row: Reason) -> bool:
    return not row.signs or bool(TOLD_BY_NAME & {sign.where for sign in row.signs})


def test_no_word_stands_twice() -> None:
    """One word means one thing."""
    names = [name for row in ROWS for name in row.names]
    assert sorted(names) == sorted(set(names))


@pytest.mark.parametrize("row", ROWS, ids=named)
def test_a_row_says_all_that_is_needed(row: Reason) -> None:
    """A word that a status and a report can hold, what it means, and what to do: plain sentences."""
    assert row.means.endswith(".")
    assert not row.hint or row.hint.endswith((".", "?"))
    assert row.hint or row in GROUPS["it goes on"]
    assert row.classes or row.own_retry, "nothing says what becomes of it"
    for name in row.names:
        assert re.fullmatch(REASON_PATTERN, name)
    if row.classes:
        said = Failure(row.code, named(row), row.means, row.hint)
        told = Report.from_json(Report(failure=said).to_json()).failure
        assert told == said, "a report cuts it"
    recognised_too = row.classes and {sign.where for sign in row.signs} - TOLD_BY_NAME
    if not is_told_by_name(row) or row in GROUPS["classes"] or recognised_too:
        assert "](" not in row.means + row.hint, "what the operator or a program shows has no links"


def test_the_programs_give_the_words_of_the_table() -> None:
    """No program and no part of the operator gives a reason without a row, and no row is of what nobody gives."""
    given = reasons_in_code().keys()
    assert set(given) <= REASONS.keys()
    nobodys = {name for row in ROWS if is_told_by_name(row) for name in row.names} - given - NAMED_BY_ITS_ROW
    assert nobodys == set()


def test_the_programs_give_the_classes_of_the_table() -> None:
    """A failure's exit code is one of those in its row: what becomes of it would not be what the table says."""
    found = classes_in_code()
    assert len(found) > 150
    wrong = {
        name: sorted(codes - set(REASONS[name].classes))
        for name, codes in found.items()
        if name in REASONS and not codes <= set(REASONS[name].classes)
    }
    assert wrong == {}


GIVEN = sorted({name for row in ROWS if is_told_by_name(row) for name in row.names})


@cache
def words_in_tests() -> set[str]:
    words: set[str] = set()
    for folder in ("unit", "controller", "integration", "e2e", "preflight", "examples", "faults", "golden"):
        for path in sorted((ROOT / "tests" / folder).rglob("test_*.py")):
            if path.name != "test_table.py" and path.is_file():
                words |= asserted_words(path)
    return words


@pytest.mark.parametrize("name", GIVEN)
def test_each_reason_is_given_in_a_test(name: str) -> None:
    """A reason that a program gives by itself is what a test of that program wants to find: it, and no other."""
    assert name in words_in_tests()


TESTS_OF_WORDS = {
    "an assertion": ('def test():\n    assert f() == ("False", "Lost")', True),
    "within a text": ('def test():\n    assert "Lost: it is gone" in f()', True),
    "an argument": ('@pytest.mark.parametrize("reason", ["Lost"])\ndef test(reason): ...', True),
    "a table": ('CASES = {"a": "Lost"}\n@pytest.mark.parametrize("case", CASES)\ndef test(case): ...', True),
    "a table by an assertion": ('BY = {"a": "Lost"}\ndef test():\n    assert f() == BY["a"]', True),
    "a loop": ('def test():\n    for word in ("Lost", "Found"):\n        assert f(word) == word', True),
    "the only one allowed": ('def test():\n    assert f() in {"Lost"}', True),
    "one of several": ('def test():\n    assert f() in {"Lost", "Found"}', False),
    "a comment": ("def test():\n    assert f() == 1  # Lost", False),
    "a docstring": ('def test():\n    """Lost."""\n    assert f() == 1', False),
    "what is played": ('def test():\n    fail("Lost")\n    assert f() == 1', False),
    "a table that nobody uses": ('CASES = ["Lost"]\ndef test():\n    assert f() == 1', False),
    "a loop that wants nothing": (
        'def test():\n    for word in ("Lost",):\n        f(word)\n    assert f() == 1',
        False,
    ),
    "at night": ('@pytest.mark.nightly\ndef test():\n    assert f() == "Lost"', False),
    "a file at night": ('pytestmark = pytest.mark.nightly\ndef test():\n    assert f() == "Lost"', False),
}


@pytest.mark.parametrize("case", TESTS_OF_WORDS)
def test_what_counts_as_a_test_of_a_word(case: str) -> None:
    """What a test compares counts; what it merely mentions does not, and neither does a choice."""
    source, counts = TESTS_OF_WORDS[case]
    assert ("Lost" in words_asserted_in(source)) == counts


@pytest.mark.parametrize("row", [row for row in ROWS if row.classes], ids=named)
def test_what_becomes_of_a_failure(row: Reason) -> None:
    """It is that of its class, but for those few that are named here."""
    for name in row.names:
        for code in row.classes:
            assert retry_of(name, code) is OWN_RETRIES.get(name, BY_CLASS[code])


@pytest.mark.parametrize("row", [row for row in ROWS if not row.classes], ids=named)
def test_what_no_program_fails_with(row: Reason) -> None:
    """It waits, or somebody must act: nothing is tried again for it but what left no result."""
    allowed: set[Retry] = {LATER} if named(row) in OWN_RETRIES else {WAITS, NEVER}
    assert set(row.retries) <= allowed


def test_a_word_of_another_version() -> None:
    """What a newer program says is taken by its class; so is a word in a class that this version does not know."""
    assert retry_of("SaidTomorrow", ExitCode.UNAVAILABLE) is LATER
    assert retry_of("SaidTomorrow", ExitCode.BAD_DATA) is NEVER
    assert retry_of("InputLost", ExitCode.BAD_DATA) is NEVER


@pytest.mark.parametrize("place", [place for place in Where if place not in TOLD_BY_NAME])
def test_what_is_unknown_is_nothing(place: Where) -> None:
    """A word that no row has is not taken for another one, but where a row stands for whatever is said there."""
    found = recognised(place, "NeverHeardOf", "never heard of")
    assert (None if found is None else named(found)) in {None, "Unschedulable", "ApiRefused"}
