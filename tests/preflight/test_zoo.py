"""Known failures of fine-tuning are caught before the training, each with its own reason."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from preflight.chain import ROWS, run_until_training
from preflight.zoo import CASES, Case
from support.builders import CHATML
from support.ollama_proxy import ollama_proxy
from support.ollama_server import OllamaServer, ollama_programs, ollama_server
from support.toy_base import change_json, write_toy_base
from tunesmith_stages.contract import StageName

pytestmark = pytest.mark.e2e

WHOLE = Case("", StageName.TRAIN, "", "")
"""Nothing is wrong."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OllamaServer]:
    """A running server of the newest pinned version."""
    with ollama_server(ollama_programs()[-1], tmp_path_factory.mktemp("ollama") / "models") as running:
        yield running


def build(root: Path, case: Case) -> Path:
    """Lay out a volume with a base, to which the case is done, and data."""
    base = write_toy_base(root / "models" / "base")
    case.break_base(base)
    (root / "data").mkdir()
    (root / "data" / "faq.json").write_text(json.dumps(list(case.rows) or ROWS))
    return root


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_known_failure_is_caught(tmp_path: Path, server: OllamaServer, case: Case) -> None:
    """What people met after hours of training is refused before it, in the stage and with the reason of the table."""
    root = build(tmp_path, case)
    with ollama_proxy(server.url, case.server) as url:
        end = run_until_training(root, url, case.job, case.estimate)
    assert end.failure is not None, end.report
    assert (end.stage, end.failure.reason) == (case.stage, case.reason), end.failure.message
    assert case.says in end.failure.message
    assert end.failure.hint
    assert server.digests() == {}
    if end.report:
        assert [check["passed"] for check in end.report["checks"]].count(False) <= 1


def test_nothing_of_it_is_said_of_a_whole_base(tmp_path: Path, server: OllamaServer) -> None:
    """The base that the cases are done to passes: each of them is caught for what was done to it alone."""
    end = run_until_training(build(tmp_path, WHOLE), server.url, {}, {})
    assert (end.stage, end.failure) == (StageName.TRAIN, None)
    assert all(check["passed"] for check in end.report["checks"])
    assert server.digests() == {}


def test_code_that_comes_with_a_base_is_not_run(tmp_path: Path, server: OllamaServer) -> None:
    """A base that names code of its own is taken for what its architecture is; the code stays where it was, unrun."""
    witness = tmp_path / "witness"

    def bring_code(base: Path) -> None:
        (base / "own.py").write_text(f"open({str(witness)!r}, 'w')\nConfig = Model = Tokenizer = object\n")
        change_json(base, "config.json", auto_map={"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"})
        change_json(base, "tokenizer_config.json", auto_map={"AutoTokenizer": ["own.Tokenizer", None]})

    root = build(tmp_path / "volume", Case("", StageName.TRAIN, "", "", bring_code))
    end = run_until_training(root, server.url, {}, {})
    assert (end.stage, end.failure) == (StageName.TRAIN, None)
    assert not witness.exists()
    assert not list((root / "store").rglob("*.py"))


def test_lora_fits_where_full_training_does_not(tmp_path: Path) -> None:
    """A GPU is too small for what is to be trained on it: with LoRA, the same base fits on the same GPU."""
    case = CASES["a GPU that is too small"]
    job = {**case.job, "spec.training.finetuningType": "LoRA"}
    with ollama_proxy("http://127.0.0.1:9", {"GET /api/version": (503, b"")}) as url:  # looked at after the memory
        end = run_until_training(build(tmp_path, case), url, job, case.estimate)
    (check,) = [check for check in end.report["checks"] if check["name"] == "memory of a GPU"]
    assert check["passed"], check
    assert "it may not suffice" not in check["sentence"], check


def test_bos_is_there_once(tmp_path: Path, server: OllamaServer) -> None:
    """A template that writes a BOS, with a tokenizer that adds one, gives one in training and one on the server.

    People met two of them: abetlen/llama-cpp-python#1501, janhq/cortex.cpp#618.
    """
    root = build(tmp_path, WHOLE)
    shutil.rmtree(root / "models" / "base")
    write_toy_base(root / "models" / "base", bos="<s>", template="{{ bos_token }}" + CHATML)
    end = run_until_training(root, server.url, {}, {})
    assert (end.stage, end.failure) == (StageName.TRAIN, None)
    (prepared,) = root.glob("stages/prepare/*/out")
    bos = json.loads((prepared / "tokens.json").read_text())["bosTokenId"]
    for probe in json.loads((prepared / "probes.json").read_text())["prompts"]:
        assert (probe["ids"][0], probe["ids"].count(bos)) == (bos, 1)


def test_every_case_says_where_people_met_it() -> None:
    """At least 25 cases are taken from public issue trackers, and named by repository and number."""
    named = [case.issue for case in CASES.values() if case.issue]
    assert all(re.fullmatch(r"[\w.-]+/[\w.-]+#\d+", issue) for issue in named)
    assert len(set(named)) >= 25
