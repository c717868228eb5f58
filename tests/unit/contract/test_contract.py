from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from tunesmith_stages.contract import (
    FAILURE_CLASSES,
    RECIPES,
    ExitCode,
    Failure,
    FileEntry,
    Input,
    StageConfig,
    StageName,
    StageResult,
    UnitConfig,
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
    StageName.TRAIN, "support-bot", "/volume", "try-1", (UnitConfig("train", KEY, PARAMS, INPUTS),), {"keep": 2}
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
    for read in (StageConfig.from_json, StageResult.from_json, Failure.from_json):
        with pytest.raises((ValueError, KeyError, TypeError)):
            read(BAD_TEXTS[name])


def test_every_exit_code_is_explained() -> None:
    """Each class of failure has a reason, a sentence and a hint for the person who reads of it."""
    assert set(FAILURE_CLASSES) == set(ExitCode) - {ExitCode.OK}
    reasons = {kind.reason for kind in FAILURE_CLASSES.values()}
    assert len(reasons) == len(FAILURE_CLASSES)
    for code, kind in FAILURE_CLASSES.items():
        assert Failure.from_exit_code(code) == Failure(code, kind.reason, kind.sentence, kind.hint)
        assert kind.sentence.endswith(".")
        assert kind.hint.endswith(".")


@pytest.mark.parametrize("code", [1, 2, 64, 127, 255, -11, 0])
def test_unknown_exit_codes_are_internal_errors(code: int) -> None:
    """A program that ends in an unforeseen way is reported with the code that it ended with."""
    failure = Failure.from_exit_code(code)
    assert failure.code is ExitCode.INTERNAL
    assert str(code) in failure.message
