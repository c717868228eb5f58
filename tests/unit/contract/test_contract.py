from __future__ import annotations

import dataclasses
import random
from typing import Any

import pytest

from tunesmith_stages.contract import (
    FAILURE_CLASSES,
    MAX_REPORT_BYTES,
    RECIPES,
    UNITS_PER_PROGRAM,
    ExitCode,
    Failure,
    FileEntry,
    Input,
    LaterUnit,
    Report,
    StageConfig,
    StageName,
    StageResult,
    UnitConfig,
    UnitReport,
    canonical_json,
    content_key,
    digest_of,
    manifest_digest,
)

PARAMS = {"learningRate": "1e-4", "maxSteps": None, "lora": {"rank": 16}, "text": "né 你"}
INPUTS = {"base": Input("store/models/a", "a" * 64), "prepared": Input("stages/prepare/b/out", "b" * 64)}
KEY = "b32f94c8f63af080a0ad25bc1e5f118574b69f965d847c0a5bd92f095ea8ce5a"


def test_key_is_the_same_for_ever() -> None:
    """A key that changed would make every finished piece of work be done again."""
    assert content_key(StageName.TRAIN, PARAMS, INPUTS) == KEY


SAME: dict[str, tuple[dict[str, Any], dict[str, Input]]] = {
    "fields in another order": (dict(reversed(PARAMS.items())), dict(reversed(INPUTS.items()))),
    "inputs lie elsewhere": (PARAMS, {role: Input(f"moved/{role}", item.digest) for role, item in INPUTS.items()}),
}


@pytest.mark.parametrize("name", SAME)
def test_key_stays(name: str) -> None:
    """Neither the order of fields nor the place of an input enters a key."""
    assert content_key(StageName.TRAIN, *SAME[name]) == KEY


OTHERS: dict[str, tuple[StageName, dict[str, Any], dict[str, Input]]] = {
    "another parameter": (StageName.TRAIN, {**PARAMS, "learningRate": "2e-4"}, INPUTS),
    "null is not absent": (StageName.TRAIN, {k: v for k, v in PARAMS.items() if v is not None}, INPUTS),
    "a number is not its text": (StageName.TRAIN, {**PARAMS, "lora": {"rank": "16"}}, INPUTS),
    "another digest": (StageName.TRAIN, PARAMS, {**INPUTS, "base": Input("store/models/a", "c" * 64)}),
    "digests swapped": (StageName.TRAIN, PARAMS, {"base": INPUTS["prepared"], "prepared": INPUTS["base"]}),
    "an input less": (StageName.TRAIN, PARAMS, {"base": INPUTS["base"]}),
    "another stage": (StageName.CONVERT, PARAMS, INPUTS),
}


@pytest.mark.parametrize("name", OTHERS)
def test_key_changes(name: str) -> None:
    """Whatever changes what is made changes the key."""
    assert content_key(*OTHERS[name]) != KEY


def test_recipe_number_enters_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stage whose recipe was raised makes everything anew."""
    monkeypatch.setattr("tunesmith_stages.contract.RECIPES", {**RECIPES, StageName.TRAIN: RECIPES[StageName.TRAIN] + 1})
    assert content_key(StageName.TRAIN, PARAMS, INPUTS) != KEY


@pytest.mark.parametrize(
    "value",
    [1.5, {"a": 0.1}, [1, 2.0], {"a": [{"b": float("nan")}]}, ("x", 1.0)],
    ids=["bare", "in a mapping", "in a list", "deep and NaN", "in a tuple"],
)
def test_floats_are_refused(value: object) -> None:
    """A float's text differs between programs, so none may enter a key."""
    with pytest.raises(TypeError, match="must not be a float"):
        canonical_json(value)


def test_canonical_json_has_one_form() -> None:
    """Keys are sorted, blanks left out, characters written as they are."""
    assert canonical_json({"b": [1, True, None], "a": "né"}) == '{"a":"né","b":[1,true,null]}'.encode()
    assert digest_of({"a": 1, "b": 2}) == digest_of({"b": 2, "a": 1})


def test_manifest_digest_knows_no_order() -> None:
    """The digest of a folder depends on names, sizes and content, not on the order of listing."""
    one, two = FileEntry("a.bin", 3, "0" * 64), FileEntry("b/c.bin", 5, "1" * 64)
    assert manifest_digest([one, two]) == manifest_digest([two, one])
    assert manifest_digest([one, two]) != manifest_digest([one, dataclasses.replace(two, path="b/d.bin")])
    assert manifest_digest([one]) != manifest_digest([dataclasses.replace(one, size=4)])


CONFIG = StageConfig(
    StageName.TRAIN,
    "support-bot",
    "/volume",
    "try-1",
    (UnitConfig("train", KEY, PARAMS, INPUTS, role="trained"),),
    {"keep": 2},
    later=(LaterUnit(StageName.CONVERT, "convert", {"outType": "F16"}, ("base", "trained"), "converted"),),
    known=INPUTS,
)
RESULT = StageResult(
    stage=StageName.QUANTIZE,
    unit="Q4_K_M",
    key=KEY,
    recipe=1,
    digest="e" * 64,
    path="stages/quantize/x/out",
    files=(FileEntry("model.gguf", 10, "f" * 64), FileEntry("ß.txt", 2, "0" * 64)),
    outputs={"note": "größer"},
    numbers={"seconds": 1.25},
    tools={"llama.cpp": "0.3.36"},
    started="2026-01-01T00:00:00.000Z",
    finished="2026-01-01T00:00:01.250Z",
)


def test_files_of_the_contract_come_back_equal() -> None:
    """What one side writes the other reads as the same value."""
    assert StageConfig.from_json(CONFIG.to_json()) == CONFIG
    assert StageResult.from_json(RESULT.to_json()) == RESULT
    failure = Failure(ExitCode.NO_SPACE, "NoSpace", "disk full: «x»", "Free space.")
    assert Failure.from_json(failure.to_json()) == failure
    assert RESULT.bytes == 12
    assert RESULT.as_input() == Input("stages/quantize/x/out", "e" * 64)


BAD_TEXTS = {
    "empty": "",
    "cut": CONFIG.to_json()[:200],
    "a list": "[]",
    "null": "null",
    "a text": '"x"',
    "nested too deeply": "[" * 100_000,
    "another version": CONFIG.to_json().replace('"version": 1', '"version": 2'),
    "nothing in it": '{"version": 1}',
}


@pytest.mark.parametrize("name", BAD_TEXTS)
def test_unreadable_files_are_told_apart_from_bugs(name: str) -> None:
    """Whatever is in a broken file, reading it raises one of the documented errors."""
    for read in (StageConfig.from_json, StageResult.from_json, Failure.from_json, Report.from_json):
        with pytest.raises((ValueError, KeyError, TypeError)):
            read(BAD_TEXTS[name])


# --- the report ------------------------------------------------------------------------------------------------------


def unit_report(number: int, *, version: bool = False) -> UnitReport:
    """Return the largest report of a unit."""
    key, digest = digest_of(number)[:16], digest_of([number])
    return UnitReport(key, digest, (1 << 64) - 1 - number, True, digest_of([[number]]) if version else "")


LARGEST_NUMBERS = {f"{'n' * 22}{index:02}": float(-9007199254740991) for index in range(20)}
OWN_AND_LATER = tuple(unit_report(number, version=number < UNITS_PER_PROGRAM) for number in range(32))


def test_report_comes_back_equal() -> None:
    """What a program tells arrives as it was: every unit with its full digest, version and size, and the failure."""
    failure = Failure(ExitCode.BAD_DATA, "MissingColumn", "faq.json, row 3: «größer»\n", "Mend it.")
    report = Report(OWN_AND_LATER[::8], {"rows": 74, "loss": 0.0123457}, failure)
    assert Report.from_json(report.to_json()) == report
    assert Report.from_json(Report().to_json()) == Report()


SENTENCES = {
    "none": "",
    "plain": "x" * 100_000,
    "of three bytes each": "你" * 100_000,
    "of four bytes each": "🎣" * 100_000,
    "that JSON escapes": '"\\\n\x00\x1f\u2028' * 20_000,
    "with halves of surrogate pairs": "a\ud800\udfff" * 30_000,
}


@pytest.mark.parametrize("name", SENTENCES)
def test_largest_report_fits_into_a_termination_message(name: str) -> None:
    """However much there is to tell, it fits into 4,096 bytes; only sentences are cut, between whole characters."""
    failure = Failure(ExitCode.GATE_FAILED, "R" * 40, SENTENCES[name], SENTENCES[name])
    text = Report(OWN_AND_LATER, LARGEST_NUMBERS, failure).to_json()
    assert len(text.encode()) <= MAX_REPORT_BYTES
    found = Report.from_json(text)
    assert (found.units, found.numbers) == (OWN_AND_LATER, LARGEST_NUMBERS)
    assert found.failure is not None
    assert (found.failure.code, found.failure.reason) == (failure.code, failure.reason)


@pytest.mark.parametrize("name", SENTENCES)
def test_sentences_of_a_failure_are_cut_late(name: str) -> None:
    """A failure with few units is told at length: at least 250 characters of the sentence and 80 of the hint."""
    failure = Failure(ExitCode.BAD_DATA, "BadData", SENTENCES[name], SENTENCES[name])
    found = Report.from_json(Report(OWN_AND_LATER[16:18], {}, failure).to_json()).failure
    assert found is not None
    for told, least in ((found.message, 250), (found.hint, 80)):
        whole = SENTENCES[name].encode("utf-8", "replace").decode()
        assert told == whole or (told.endswith("…") and whole.startswith(told[:-1]) and len(told) > least)


def test_any_text_fits() -> None:
    """Whatever characters a message is made of, the report stays a text that can be read back."""
    chance = random.Random(0)  # noqa: S311 - the same texts each time
    for _ in range(200):
        text = "".join(chr(chance.randrange(0x110000)) for _ in range(chance.randrange(3000)))
        units = OWN_AND_LATER[: chance.randrange(33)]
        told = Report(units, {}, Failure(ExitCode.INTERNAL, "InternalError", text, text[::-1])).to_json()
        assert len(told.encode()) <= MAX_REPORT_BYTES
        assert Report.from_json(told).units == units


NUMBERS: dict[str, tuple[float, float | None]] = {
    "count": (13476392840, 13476392840),
    "seconds": (1.25, 1.25),
    "loss": (0.012345678901, 0.0123457),
    "large": (1.2345678901e200, 1.23457e200),
    "small": (-1.2345678901e-200, -1.23457e-200),
    "wholeFloat": (7.0, 7),
    "notANumber": (float("nan"), None),
    "infinite": (float("-inf"), None),
    "n" * 24: (1, 1),
    "n" * 25: (1, None),
    "a name": (1, None),
    "größe": (1, None),
}


@pytest.mark.parametrize("name", NUMBERS)
def test_numbers_of_a_report(name: str) -> None:
    """Whole numbers are told exactly, others with six digits; what is no number or has no short name is left out."""
    given, wanted = NUMBERS[name]
    found = Report.from_json(Report(numbers={name: given}).to_json()).numbers
    assert found == ({} if wanted is None else {name: wanted})


def test_numbers_of_a_report_are_the_first_twenty() -> None:
    """More figures than a report holds are left out from the end."""
    numbers = {f"n{index}": float(index) for index in range(30)}
    assert list(Report.from_json(Report(numbers=numbers).to_json()).numbers) == list(numbers)[:20]


UNITS_THAT_DO_NOT_FIT: dict[str, tuple[UnitReport, ...]] = {
    "too many": tuple(unit_report(number) for number in range(33)),
    "too many with a version": tuple(unit_report(number, version=True) for number in range(17)),
    "a whole key": (dataclasses.replace(unit_report(0), key="a" * 64),),
    "a key that is none": (dataclasses.replace(unit_report(0), key="x" * 16),),
    "half a digest": (dataclasses.replace(unit_report(0), digest="a" * 32),),
    "half a version": (dataclasses.replace(unit_report(0), version="a" * 32),),
    "a negative size": (dataclasses.replace(unit_report(0), bytes=-1),),
    "a size of 17 EiB": (dataclasses.replace(unit_report(0), bytes=1 << 64),),
}


@pytest.mark.parametrize("name", UNITS_THAT_DO_NOT_FIT)
def test_units_are_never_cut(name: str) -> None:
    """A result that cannot be told whole is refused, not told in part."""
    with pytest.raises(ValueError, match=r"units|digits|size"):
        Report(UNITS_THAT_DO_NOT_FIT[name]).to_json()


BAD_REPORTS = {
    "of another version": '{"v":2,"u":[],"n":{}}',
    "without units": '{"v":1,"n":{}}',
    "without numbers": '{"v":1,"u":[]}',
    "units are a number": '{"v":1,"u":1,"n":{}}',
    "a unit is a number": '{"v":1,"u":[1],"n":{}}',
    "a unit is not base 64": '{"v":1,"u":["0123456789abcdef:€"],"n":{}}',
    "a unit is short": '{"v":1,"u":["0123456789abcdef:AAAA"],"n":{}}',
    "numbers are a text": '{"v":1,"u":[],"n":"x"}',
    "a number is a text": '{"v":1,"u":[],"n":{"x":"1"}}',
    "a number is true": '{"v":1,"u":[],"n":{"x":true}}',
    "a number is none": '{"v":1,"u":[],"n":{"x":NaN}}',
    "a number is endless": '{"v":1,"u":[],"n":{"x":Infinity}}',
    "a number is huge": f'{{"v":1,"u":[],"n":{{"x":1{"0" * 3000}}}}}',
    "a failure is a list": '{"v":1,"u":[],"n":{},"f":[]}',
    "a failure is half": '{"v":1,"u":[],"n":{},"f":{"c":65}}',
    "a failure of an unknown class": '{"v":1,"u":[],"n":{},"f":{"c":1,"r":"x","m":"x","h":"x"}}',
    "a failure that is none": '{"v":1,"u":[],"n":{},"f":{"c":0,"r":"x","m":"x","h":"x"}}',
    "a failure without words": '{"v":1,"u":[],"n":{},"f":{"c":65,"r":1,"m":null,"h":[]}}',
    "the end of a log": "Traceback (most recent call last):\n",
    "cut": Report(OWN_AND_LATER[:2]).to_json()[:100],
}


@pytest.mark.parametrize("name", BAD_REPORTS)
def test_unreadable_reports(name: str) -> None:
    """Whatever a container leaves as its message, reading it raises one of the documented errors."""
    with pytest.raises((ValueError, KeyError, TypeError)):
        Report.from_json(BAD_REPORTS[name])


# --- exit codes ------------------------------------------------------------------------------------------------------


def test_every_exit_code_is_explained() -> None:
    """Each class of failure has a reason, a sentence and a hint for the person who reads of it."""
    assert set(FAILURE_CLASSES) == set(ExitCode) - {ExitCode.OK}
    for code, row in FAILURE_CLASSES.items():
        said = Failure.from_exit_code(code)
        assert (said.code, said.reason, said.hint) == (code, row.name, row.hint)
        assert said.message.endswith(".")


@pytest.mark.parametrize("code", [1, 2, 64, 255, -11, 0])
def test_unknown_exit_codes_are_internal_errors(code: int) -> None:
    """A program that ends in an unforeseen way is reported with the code that it ended with."""
    failure = Failure.from_exit_code(code)
    assert failure.code is ExitCode.INTERNAL
    assert str(code) in failure.message
