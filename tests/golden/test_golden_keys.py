"""The content keys of the examples are what they were."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from support.generator import GOLDEN_KEYS, ROOT, keys_of
from tunesmith.api.parse import parse_job
from tunesmith_stages.contract import RECIPES, StageName

EXAMPLES = {path.parent.name: path for path in sorted(ROOT.glob("examples/*/finetunejob.yaml"))}


def keys_in(path: Path) -> dict[str, str]:
    keys: dict[str, str] = keys_of(parse_job(path.read_text(encoding="utf-8")))
    return keys


@pytest.mark.parametrize("example", EXAMPLES)
def test_keys_of_an_example_stay(example: str) -> None:
    """A key that changes makes finished work unfindable, so none changes without being committed."""
    golden = json.loads((ROOT / GOLDEN_KEYS / f"{example}.json").read_text(encoding="utf-8"))["keys"]
    assert keys_in(EXAMPLES[example]) == golden, (
        "a content key changed: if that is meant, `make generate` and commit the keys (CONTRIBUTING.md, Golden keys)"
    )


@pytest.mark.parametrize("stage", [stage for stage in StageName if stage is not StageName.REHEARSE])
def test_a_raised_recipe_number_shows_in_the_golden_keys(stage: StageName, monkeypatch: pytest.MonkeyPatch) -> None:
    """Raising a stage's recipe number moves the golden keys of that stage, and of no other but the gate.

    `rehearse` is passed for one training, and enters no key.
    """
    path = EXAMPLES["02-qwen-0.5b"]
    before = keys_in(path)
    monkeypatch.setitem(RECIPES, stage, RECIPES[stage] + 1)
    changed = {name for name, key in keys_in(path).items() if before[name] != key}
    assert changed - {"rehearse/rehearse"} == {name for name in before if name.startswith(f"{stage}/")}


def test_keys_do_not_depend_on_files(tmp_path: Path) -> None:
    """The golden keys are the same where the example's data are not there."""
    alone = tmp_path / "finetunejob.yaml"
    alone.write_bytes(EXAMPLES["04-lora-identity"].read_bytes())
    assert keys_in(alone) == keys_in(EXAMPLES["04-lora-identity"])
