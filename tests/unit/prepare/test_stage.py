from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import transformers

from support.builders import messages, stage_config, work_of
from support.preparing import ROWS, arrow, dataset, done, failed, notes, prepared, progress, report, write_rows
from support.templates import DATED, INST_LIKE, LLAMA_LIKE, NO_END, THINKING
from tunesmith_stages.contract import ExitCode, Input, StageName
from tunesmith_stages.prepare import stage, workers
from tunesmith_stages.prepare.base import load_base
from tunesmith_stages.prepare.labels import IGNORED
from tunesmith_stages.prepare.stage import prepare
from tunesmith_stages.program import StageError
from tunesmith_stages.register.reference import Reference

pytestmark = pytest.mark.usefixtures("llama_cpp_folder")

ODD_END = INST_LIKE.replace("'</s>'", "('</s>' if 'odd' not in message.content else '<|im_end|>')")


# --- what it writes --------------------------------------------------------------------------------------------------


def test_what_lies_in_out(root: Path) -> None:
    """The files are those of design note 0001, and every row decodes to its conversation."""
    result = done(prepared(root))
    out = root / result.path
    assert {entry.path for entry in result.files} == {
        "train.arrow",
        "chat_template.jinja",
        "tokens.json",
        "probes.json",
    }
    base = load_base(root / "base", None)
    rows = arrow(out / "train.arrow")
    assert [base.tokenizer.decode(row["input_ids"]) for row in rows] == [
        f"<|im_start|>user\n{row['instruction']}<|im_end|>\n<|im_start|>assistant\n{row['output']}<|im_end|>\n"
        for row in ROWS
    ]
    for row, source in zip(rows, ROWS, strict=True):
        learnt = [label for label in row["labels"] if label != IGNORED]
        assert base.tokenizer.decode(learnt) == f"{source['output']}<|im_end|>"
    assert result.numbers["rows"] == 40
    assert result.numbers["tokens"] == sum(len(row["input_ids"]) for row in rows)
    assert result.numbers["labelledTokens"] == sum(label != IGNORED for row in rows for label in row["labels"])
    assert result.numbers["longestRow"] == max(len(row["input_ids"]) for row in rows)
    assert result.outputs["datasets"] == {"faq": {"format": "Alpaca", "rows": 40, "used": 40}}
    assert (out / "chat_template.jinja").read_text() == base.template


def test_columns_of_the_arrow_files(root: Path) -> None:
    """Training maps the rows into memory by this schema."""
    out = root / done(prepared(root)).path
    with pa.memory_map(str(out / "train.arrow")) as source:
        schema = pa.ipc.open_file(source).schema
    assert schema == pa.schema([("input_ids", pa.list_(pa.int32())), ("labels", pa.list_(pa.int32()))])


def test_tokens(root: Path) -> None:
    """What later stages must know of the tokenizer is written down once."""
    base = load_base(root / "base", None)
    end = base.tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert json.loads((root / done(prepared(root)).path / "tokens.json").read_text()) == {
        "endOfTurn": {"id": end, "text": "<|im_end|>"},
        "bosTokenId": None,
        "eosTokenId": end,
        "vocabSize": 512,
        "addsBos": False,
    }


def test_probes(root: Path) -> None:
    """Eight different prompts are kept, with the ids that the served model will be given."""
    probes = json.loads((root / done(prepared(root)).path / "probes.json").read_text())["prompts"]
    base = load_base(root / "base", None)
    assert len({probe["text"] for probe in probes}) == 8
    for probe in probes:
        assert probe["messages"][-1]["role"] == "user"
        assert probe["text"].endswith("<|im_start|>assistant\n")
        assert probe["ids"] == base.tokenizer(probe["text"], add_special_tokens=False)["input_ids"]


def test_fewer_probes_than_eight(root: Path) -> None:
    """Data with fewer different prompts gives as many probes."""
    write_rows(root, "faq", [ROWS[0], ROWS[1], ROWS[0]])
    probes = json.loads((root / done(prepared(root)).path / "probes.json").read_text())["prompts"]
    assert len(probes) == 2


def test_same_input_same_digest(root: Path, tmp_path: Path) -> None:
    """Two runs, here of two volumes, make the same bytes: nothing after them is done again."""
    write_rows(root, "talk", [{"messages": messages("Hi", "你好 {{name}}", system="Be kind.")}] * 9)
    shutil.copytree(root, tmp_path / "other")
    datasets = dataset(maxSamples=11), dataset("talk", builtin=True, maxSamples=20, substitutions={"name": "Tunny"})
    one = done(prepared(root, *datasets, validationFraction="0.2"))
    two = done(prepared(tmp_path / "other", *datasets, validationFraction="0.2", attempt="2"))
    assert one.digest == two.digest
    assert one.files == two.files
    assert one.digest != done(prepared(root, *datasets, validationFraction="0.2", seed=2)).digest


def test_several_datasets_in_their_order(root: Path) -> None:
    """Rows stand in the order of the datasets, each capped on its own; built-in ones are repeated."""
    write_rows(root, "talk", [{"messages": messages("Who are you?", "I am {{name}}.")}])
    result = done(
        prepared(
            root, dataset(maxSamples=3), dataset("talk", builtin=True, maxSamples=2, substitutions={"name": "Tunny"})
        )
    )
    base = load_base(root / "base", None)
    texts = [base.tokenizer.decode(row["input_ids"]) for row in arrow(root / result.path / "train.arrow")]
    assert ["I am Tunny." in text for text in texts] == [False, False, False, True, True]
    assert result.outputs["datasets"]["faq"] == {"format": "Alpaca", "rows": 40, "used": 3}
    assert result.outputs["datasets"]["talk"] == {"format": "Messages", "rows": 1, "used": 2}


def test_validation_rows_are_held_back(root: Path) -> None:
    """The rows to measure with are others than those to train on, and together they are all."""
    result = done(prepared(root, validationFraction="0.1"))
    train, held = (arrow(root / result.path / f"{name}.arrow") for name in ("train", "validation"))
    assert (len(train), len(held)) == (36, 4)
    assert (result.numbers["rows"], result.numbers["validationRows"]) == (36, 4)
    everything = arrow(root / done(prepared(root)).path / "train.arrow")
    assert sorted(row["input_ids"] for row in train + held) == sorted(row["input_ids"] for row in everything)


def test_equal_rows_are_on_one_side(root: Path) -> None:
    """Rows that the data hold several times, here in two datasets, are trained on or measured with; that is told."""
    write_rows(root, "talk", [{"messages": messages(row["instruction"], row["output"])} for row in ROWS[:15]])
    result = done(prepared(root, dataset(), dataset("talk"), validationFraction="0.2"))
    train, held = (arrow(root / result.path / f"{name}.arrow") for name in ("train", "validation"))
    assert (len(train), len(held)) == (44, 11)
    assert not {tuple(row["input_ids"]) for row in train} & {tuple(row["input_ids"]) for row in held}
    assert len({tuple(row["input_ids"]) for row in held}) < 11
    content = report(root, result)
    assert (content["duplicateRows"], content["validationRowsTrainedOn"]) == (15, 0)
    assert "15 rows equal an earlier one" in notes(root, result)


def test_validation_rows_that_are_trained_on_are_counted(root: Path) -> None:
    """Rows that are there to measure with are measured with, and those that equal one that is trained on are told."""
    write_rows(root, "own", [*ROWS[:3], {"instruction": "What else?", "output": "Nothing."}, ROWS[0]])
    result = done(prepared(root, dataset(), dataset("own", use="Validation")))
    content = report(root, result)
    assert (content["rows"], content["validationRows"]) == (40, 5)
    assert (content["duplicateRows"], content["validationRowsTrainedOn"]) == (0, 4)
    assert "4 validation rows are trained on, too" in notes(root, result)


def test_template_of_the_job_takes_the_place_of_the_tokenizers(root: Path) -> None:
    """What is trained with is what is written down for serving."""
    template = LLAMA_LIKE.replace("<|eot_id|>", "<|im_end|>")
    result = done(prepared(root, chatTemplate={"jinja": template}))
    assert (root / result.path / "chat_template.jinja").read_text() == template
    assert report(root, result)["firstRow"] == [
        {
            "learnt": False,
            "text": "<s><|header|>user<|/header|>\n\nWhat is 0?<|im_end|><|header|>assistant<|/header|>\n\n",
        },
        {"learnt": True, "text": "It is shop 0 in Lyon.<|im_end|>"},
    ]


def test_template_that_writes_the_date(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same inputs make the same rows on any day: the template is told one that is always the same. It is named."""
    result = done(prepared(root, chatTemplate={"jinja": DATED}))
    base = load_base(root / "base", None)
    texts = [base.tokenizer.decode(row["input_ids"]) for row in arrow(root / result.path / "train.arrow")]
    assert {text.partition("<|im_end|>")[0] for text in texts} == {"<|im_start|>system\n26 Jul 2024"}
    assert report(root, result)["template"]["date"] == "2024-07-26"
    assert "the chat template writes the date: 2024-07-26 in training" in notes(root, result)
    # A later stage, on whatever day, finds that it renders and tokenizes as the data were.
    monkeypatch.setitem(vars(transformers), "AutoTokenizer", None)  # would be needed if it did not
    today_is = datetime.now().strftime("%d %b %Y")  # noqa: DTZ005 - as transformers does it
    reference = Reference(root / "base", root / result.path)
    prompt = reference.prompt([{"role": "user", "content": "Hello"}], None)
    assert prompt is not None
    assert prompt.text.startswith(f"<|im_start|>system\n{today_is}<|im_end|>\n")


def test_long_rows_are_left_out_and_counted(root: Path) -> None:
    """A row that does not fit is left out whole, never cut: a cut one would teach an answer without an end."""
    write_rows(root, "faq", [*ROWS[:3], {"instruction": "Hi", "output": "shop " * 300}])
    result = done(prepared(root, sequenceLength=128))
    assert result.numbers["rows"] == 3
    assert result.outputs["rowsLeftOut"] == 1


def test_row_of_just_the_length_is_kept(root: Path) -> None:
    """The bound itself is allowed."""
    longest = int(done(prepared(root)).numbers["longestRow"])
    assert done(prepared(root, sequenceLength=longest)).outputs["rowsLeftOut"] == 0
    assert done(prepared(root, sequenceLength=longest - 1)).outputs["rowsLeftOut"] > 0


def test_template_that_rewrites_earlier_turns(root: Path) -> None:
    """Each answer of a conversation becomes a sample of its own then, as it is written when it is the last one."""
    talks = [messages("Hi", "<think>What?</think>Hello", f"Who {n}?", "<think>I know.</think>Me") for n in range(10)]
    write_rows(root, "faq", [{"messages": talk} for talk in talks])
    result = done(prepared(root, chatTemplate={"jinja": THINKING}, validationFraction="0.2"))
    content = report(root, result)
    assert (content["rows"], content["validationRows"], content["samples"]) == (16, 4, 20)
    assert content["template"]["perTurn"] == 10
    assert content["datasets"]["faq"]["samples"] == 20


def test_bad_rows_are_skipped_and_counted(root: Path) -> None:
    """With `onBadRow: Skip` what cannot be used is left out, counted, and shown; what can be is used."""
    write_rows(root, "faq", [ROWS[0], {"instruction": "Hi", "output": ""}, ROWS[1]])
    result = done(prepared(root, dataset(onBadRow="Skip")))
    found = report(root, result)["datasets"]["faq"]
    assert (found["rows"], found["used"], found["badRows"]) == (3, 2, 1)
    assert "row 2" in found["badRowExamples"][0]
    assert result.numbers["rows"] == 2


def test_bad_row_for_the_template_is_skipped_too(root: Path) -> None:
    """A row that the template refuses is a bad row as any other; the dataset is named once."""
    write_rows(root, "faq", [{"messages": messages("Hi", "Hello")}, {"messages": messages("Hi", "Ho", system="x")}])
    template = {"jinja": INST_LIKE}
    found = report(root, done(prepared(root, dataset(onBadRow="Skip"), chatTemplate=template)))["datasets"]["faq"]
    assert found["badRows"] == 1
    assert found["badRowExamples"][0].startswith("faq.json, row 2: ")
    assert failed(prepared(root, chatTemplate=template)).message.startswith("dataset `faq`, faq.json, row 2: ")


def test_weight_repeats_rows(root: Path) -> None:
    """A dataset of weight 2 stands in the data twice, one time after the other."""
    write_rows(root, "talk", ROWS[:2])
    result = done(prepared(root, dataset("talk", weight="2"), dataset(maxSamples=1)))
    rows = [row["input_ids"] for row in arrow(root / result.path / "train.arrow")]
    assert len(rows) == 5
    assert rows[:2] == rows[2:4]
    assert report(root, result)["samples"] == 5


def test_packed_rows(root: Path) -> None:
    """Packed rows hold every sample whole, once, and say how long each is; no sample's first token is learnt."""
    plain = arrow(root / done(prepared(root)).path / "train.arrow")
    result = done(prepared(root, packing=True, sequenceLength=128))
    packed = arrow(root / result.path / "train.arrow")
    samples = []
    for row in packed:
        assert len(row["input_ids"]) == sum(row["lengths"]) <= 128
        ends = np.cumsum(row["lengths"]).tolist()
        samples += [(row["input_ids"][i:j], row["labels"][i:j]) for i, j in zip([0, *ends], ends, strict=False)]
    assert sorted(samples) == sorted((row["input_ids"], row["labels"]) for row in plain)
    assert all(labels[0] == IGNORED for _, labels in samples)
    assert result.numbers["rows"] == len(packed) < 40
    assert report(root, result)["packing"] == {
        "rows": len(packed),
        "samples": 40,
        "fill": pytest.approx(result.numbers["tokens"] / (len(packed) * 128), abs=1e-4),
    }


def test_plain_text_is_cut_not_left_out(root: Path) -> None:
    """A text that is longer than a row may be becomes several samples; nothing of it is lost."""
    write_rows(root, "faq", [{"text": "shop in Lyon. " * 100}, {"text": "It is."}])
    result = done(prepared(root, dataset(format="Text"), sequenceLength=64))
    rows = arrow(root / result.path / "train.arrow")
    base = load_base(root / "base", None)
    text = "".join(base.tokenizer.decode(row["input_ids"]) for row in rows)
    assert text.replace("<|im_end|>", "") == "shop in Lyon. " * 100 + "It is."
    assert all(len(row["input_ids"]) <= 64 for row in rows)
    assert result.outputs["rowsLeftOut"] == 0


def test_data_without_questions_have_probes_too(root: Path) -> None:
    """Later proofs ask the model something, also where it learns from plain text."""
    write_rows(root, "faq", [{"text": "shop in Lyon. " * 10}, {"text": "It is."}])
    result = done(prepared(root))
    probes = json.loads((root / result.path / "probes.json").read_text())["prompts"]
    assert probes[0]["messages"] == [{"role": "user", "content": "Hello"}]
    assert all(probe["ids"] for probe in probes)


def test_all_drawn_rows_are_bad(root: Path) -> None:
    """Where every row that was drawn is skipped, that is what is said, not that rows are too long."""
    write_rows(root, "faq", [{"instruction": "", "output": ""}] * 9)
    failure = failed(prepared(root, dataset(format="Alpaca", maxSamples=3, onBadRow="Skip")))
    assert failure.reason == "NoUsableRows"


def test_rows_that_were_not_drawn_make_no_dataset_unusable(root: Path) -> None:
    """Bad rows beside enough good ones are skipped, however few rows are drawn."""
    write_rows(root, "faq", [*ROWS[:10], *[{"instruction": "", "output": ""}] * 5])
    assert done(prepared(root, dataset(format="Alpaca", maxSamples=2, onBadRow="Skip"))).numbers["rows"] >= 1


def test_validation_rows_that_are_all_too_long(root: Path) -> None:
    """A set to validate on of which nothing is left is named: otherwise there would be no validation, unsaid."""
    write_rows(root, "own", [{"instruction": "What is it?", "output": "shop " * 2000}])
    failure = failed(prepared(root, dataset(), dataset("own", use="Validation")))
    assert (failure.reason, "dataset `own` has `use: Validation`" in failure.message) == ("NoRowsLeft", True)


def test_histogram(root: Path) -> None:
    """Every sample is in the bar of its length."""
    result = done(prepared(root))
    lengths = [len(row["input_ids"]) for row in arrow(root / result.path / "train.arrow")]
    lower = 0
    for bar in report(root, result)["histogram"]:
        assert bar["samples"] == sum(lower < length <= bar["upTo"] for length in lengths)
        lower = bar["upTo"]
    assert lower >= max(lengths)


def test_any_number_of_processes_makes_the_same(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One process, two or three make the same bytes."""
    rows = [{"instruction": f"What is {number}?", "output": f"It is {number % 7} in Lyon."} for number in range(1800)]
    write_rows(root, "faq", rows)
    monkeypatch.setattr(workers, "_WORTH_A_PROCESS", 1)
    digests = set()
    for processes in (1, 2, 3):
        monkeypatch.setattr(stage, "usable_processors", lambda processes=processes: processes)
        shutil.rmtree(root / "stages", ignore_errors=True)
        digests.add(done(prepared(root, dataset(weight="1.1"), packing=True, validationFraction="0.1")).digest)
    assert len(digests) == 1


def test_first_bad_row_is_told(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of several bad rows the first in the data is told, whichever process has found its own first."""
    lines = [json.dumps({"instruction": f"What is {number}?", "output": "It is."}) for number in range(1800)]
    lines[1000] = lines[1200] = lines[1700] = json.dumps({"instruction": "", "output": ""})
    shutil.rmtree(root / "faq")
    (root / "faq").mkdir()
    (root / "faq" / "faq.jsonl").write_text("\n".join(lines))
    monkeypatch.setattr(workers, "_WORTH_A_PROCESS", 1)
    monkeypatch.setattr(stage, "usable_processors", lambda: 2)
    assert "faq.jsonl, line 1001" in failed(prepared(root)).message


# --- what it refuses -------------------------------------------------------------------------------------------------


def _config(root: Path, **changes: Any) -> None:
    path = root / "base" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def _settings(root: Path, **changes: Any) -> None:
    path = root / "base" / "tokenizer_config.json"
    merged = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({name: value for name, value in merged.items() if value is not None}))


Spoil = Callable[[Path], object]
BAD: dict[str, tuple[Spoil, dict[str, Any], ExitCode, str, str]] = {
    "an empty dataset": (
        lambda root: write_rows(root, "faq", []),
        {},
        ExitCode.BAD_DATA,
        "EmptyDataset",
        "dataset `faq` is empty: it holds no rows",
    ),
    "an empty file": (
        lambda root: (root / "faq" / "faq.json").write_text(""),
        {},
        ExitCode.BAD_DATA,
        "EmptyDataset",
        "dataset `faq` is empty",
    ),
    "a bad row": (
        lambda root: write_rows(root, "faq", [*ROWS, {"instruction": "Hi", "output": ""}]),
        {},
        ExitCode.BAD_DATA,
        "BadRow",
        "faq.json, row 41: `output` is empty",
    ),
    "all rows too long": (
        lambda _root: None,
        {"sequenceLength": 16},
        ExitCode.BAD_DATA,
        "NoRowsLeft",
        "no row is left: all 40 are longer than `sequenceLength` 16; the longest has ",
    ),
    "an input that is gone": (
        lambda root: shutil.rmtree(root / "faq"),
        {},
        ExitCode.MISSING_INPUT,
        "InputLost",
        "`dataset:faq`",
    ),
    "a template with an error": (
        lambda _root: None,
        {"chatTemplate": {"jinja": "{% if %}"}},
        ExitCode.BAD_CONFIG,
        "BadTemplate",
        "the chat template is not Jinja",
    ),
    "a template that forgets to ask for an answer": (
        lambda _root: None,
        {
            "chatTemplate": {
                "jinja": "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}"
                "{% endfor %}"
            }
        },
        ExitCode.BAD_CONFIG,
        "NoGenerationPrompt",
        "'<|im_start|>assistant\\n' before the assistant's words",
    ),
    "a template that breaks out": (
        lambda _root: None,
        {"chatTemplate": {"jinja": "{{ ''.__class__.__mro__ }}"}},
        ExitCode.BAD_CONFIG,
        "UnsafeTemplate",
        "the chat template tries what a template may not do",
    ),
    "a template without an end of turn": (
        lambda _root: None,
        {"chatTemplate": {"jinja": NO_END}},
        ExitCode.BAD_CONFIG,
        "NoEndOfTurn",
        "the chat template does not end the assistant's turn",
    ),
    "a template that refuses a row": (
        lambda root: write_rows(root, "faq", [{"messages": messages("Hi", "Hello", system="x")}]),
        {"chatTemplate": {"jinja": INST_LIKE}},
        ExitCode.BAD_DATA,
        "TemplateRefusesRow",
        "Only user and assistant are supported!",
    ),
    "an end of turn at which the model would not stop": (
        lambda _root: None,
        {"chatTemplate": {"jinja": INST_LIKE.replace("</s>", "<|/header|>")}},
        ExitCode.BAD_CONFIG,
        "EndOfTurnNotEog",
        "ends answers with '<|/header|>'",
    ),
    "ends that differ from row to row": (
        lambda root: write_rows(root, "faq", [*ROWS, {"instruction": "Hi", "output": "odd"}]),
        {"chatTemplate": {"jinja": ODD_END}},
        ExitCode.BAD_CONFIG,
        "NoEndOfTurn",
        "dataset `faq`, faq.json, row 41: the chat template ends this answer with '<|im_end|>', others with '</s>'",
    ),
    "no template": (
        lambda root: _settings(root, chat_template=None),
        {},
        ExitCode.BAD_CONFIG,
        "TemplateMissing",
        "no chat template",
    ),
    "several templates": (
        lambda root: _settings(root, chat_template=[{"name": n, "template": "x"} for n in ("rag", "tool_use")]),
        {},
        ExitCode.BAD_CONFIG,
        "TemplateMissing",
        "several chat templates",
    ),
    "no eos_token": (
        lambda root: _settings(root, eos_token=None),
        {},
        ExitCode.BAD_CONFIG,
        "EosTokenMissing",
        "has no eos_token",
    ),
    "a damaged tokenizer": (
        lambda root: (root / "base" / "tokenizer.json").write_text('{"model": {}}'),
        {},
        ExitCode.BAD_DATA,
        "TokenizerMissing",
        "tokenizer cannot be loaded: ",
    ),
    "a tokenizer that is not JSON": (
        lambda root: (root / "base" / "tokenizer.json").write_text("{"),
        {},
        ExitCode.BAD_DATA,
        "TokenizerMissing",
        "tokenizer cannot be loaded: ",
    ),
    "an architecture that llama.cpp does not know": (
        lambda root: _config(root, architectures=["BertForCausalLM"]),
        {},
        ExitCode.BAD_CONFIG,
        "UnsupportedArchitecture",
        "BertForCausalLM",
    ),
    "no vocabulary's size": (
        lambda root: _config(root, vocab_size=None),
        {},
        ExitCode.BAD_DATA,
        "NotAModel",
        "has no `vocab_size`",
    ),
    "an embedding too small for the tokenizer": (
        lambda root: _config(root, vocab_size=100),
        {},
        ExitCode.BAD_DATA,
        "TokensBeyondEmbedding",
        "the model's embedding has 100 rows",
    ),
    "a generation_config.json that is not JSON": (
        lambda root: (root / "base" / "generation_config.json").write_text("{"),
        {},
        ExitCode.BAD_DATA,
        "NotAModel",
        "generation_config.json of the base model is not JSON",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input(root: Path, name: str) -> None:
    """Data, template or base that cannot work end here, before anything is trained, in one clear sentence."""
    spoil, params, code, reason, words = BAD[name]
    spoil(root)
    failure = failed(prepared(root, **params))
    assert (failure.code, failure.reason) == (code, reason)
    assert words in failure.message
    assert failure.hint
    assert not list((root / "stages" / "prepare").glob("*/out"))


def test_architecture_that_only_llama_cpp_knows(root: Path, llama_cpp_folder: Path) -> None:
    """What transformers cannot train as a causal language model is refused, too."""
    table = llama_cpp_folder / "convert" / "conversion" / "__init__.py"
    table.write_text("TEXT_MODEL_MAP: dict[str, str] = {'T5EncoderModel': 't5'}\n")
    _config(root, architectures=["T5EncoderModel"])
    assert "T5EncoderModel" in failed(prepared(root)).message


def test_ends_that_the_model_knows_are_taken(root: Path) -> None:
    """An end-of-turn token that generation_config.json names stops the model, whatever it is called."""
    base = load_base(root / "base", None)
    token = base.tokenizer.convert_tokens_to_ids("<|/header|>")
    (root / "base" / "generation_config.json").write_text(json.dumps({"eos_token_id": [1, token]}))
    result = done(prepared(root, chatTemplate={"jinja": INST_LIKE.replace("</s>", "<|/header|>")}))
    assert json.loads((root / result.path / "tokens.json").read_text())["endOfTurn"]["id"] == token


def test_progress_is_told(root: Path) -> None:
    """People see what goes on: reading, then rows out of all rows."""
    result = done(prepared(root))
    events = progress(root, result)
    assert notes(root, result) == [
        "reading the tokenizer",
        "reading faq",
        "writing",
    ]
    assert (events[-2]["done"], events[-2]["total"], events[-2]["of"]) == (40, 40, "rows")


def test_stage_function_leaves_publishing_to_the_frame(root: Path) -> None:
    """A stage function called by itself writes in its attempt's folder alone."""
    plain = {"datasets": [dataset()], "chatTemplate": None, "sequenceLength": 256, "validationFraction": "0", "seed": 1}
    inputs = {"base": Input("base", "b" * 64), "dataset:faq": Input("faq", "d" * 64)}
    work = work_of(stage_config(root, StageName.PREPARE, params=plain, inputs=inputs))
    before = {path for path in root.rglob("*") if not path.is_relative_to(work.folder)}
    prepare(work)
    assert {path for path in root.rglob("*") if not path.is_relative_to(work.folder)} == before


def test_missing_toolchain_is_told(root: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without llama.cpp the way out cannot be checked: that is said before the training, with the cure."""
    monkeypatch.setenv("TUNESMITH_LLAMA_CPP", str(tmp_path / "none"))
    with pytest.raises(StageError, match=r"llama\.cpp") as caught:
        load_base(root / "base", None)
    assert caught.value.reason == "ToolchainMissing"
