"""The report page: what it says of a job, that it harms nobody, and that it is there however far a job has come."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from support.reported import (
    ANSWERS,
    PREPARED,
    PREPARED_LABELS,
    PREPARED_PAIRS,
    PROOF,
    REHEARSED,
    JobOnVolume,
    Logs,
    ReadPage,
    prepared,
    registered,
    sources,
    trained,
    whole_job,
)
from tunesmith_stages.contract import ExitCode, Failure, StageName
from tunesmith_stages.report import gather, page_of
from tunesmith_stages.report.blocks import Says, Section
from tunesmith_stages.report.page import MOST_BYTES, _section

SECTIONS = ("stages", "data", "preflight", "training", "sizes", "proof", "lineage")
BAD_ROW = Failure(ExitCode.BAD_DATA, "BadRow", "dataset `faq`, faq.json row 3: `value` is empty", "Mend that row.")


def page(job: JobOnVolume) -> str:
    facts = gather(job.volume, job.job)
    assert facts is not None
    return page_of(facts)


def says(job: JobOnVolume, section: str) -> str:
    return ReadPage(page(job)).texts[section]


# --- a job that is done ----------------------------------------------------------------------------------------------

SAID = {
    "the job": ("", "support-bot"),
    "how it stands": ("", "Succeeded"),
    "the verdict": ("", "support-bot:v1 answers in Ollama; all 2 checks passed"),
    "the base": ("", "Hugging Face acme/base-7b"),
    "how to run it": ("", "ollama run support-bot:v1"),
    "when": ("", "2026-01-02 03:07:30 UTC"),
    "time of a stage": ("stages", "1 min 35 s"),
    "rows of a dataset": ("data", "1,180"),
    "what was recognised": ("data", "lists of turns under `conversations`"),
    "a bad row": ("data", "faq.json row 7: `value` is empty"),
    "bad rows that are not shown": ("data", "and 19 more"),
    "share that is learnt": ("data", "16,000 (25%)"),
    "histogram": ("data", "Samples by tokens: most, 900, have up to 32 tokens."),
    "packing": ("data", "1,500 samples in 130 rows, 96.1% filled"),
    "template": ("data", "Chat template: qwen."),
    "samples per turn": ("data", "17 conversations became one sample for each answer"),
    "a check of the preflight": ("preflight", "the tokenizer is of the family qwen2"),
    "all checks": ("preflight", "All 2 checks passed."),
    "GPU memory": ("preflight", "17.2 GB"),
    "time estimate": ("preflight", "1 h 30 min"),
    "curve": ("training", "Training loss by step: from 2.5 to 0.5."),
    "lowest of the held-out rows": ("training", "0.875 at step 20"),
    "last of the held-out rows": ("training", "it ends at 1.125"),
    "a setting": ("training", "learningRate"),
    "processes": ("training", "processesPerNode"),
    "size": ("sizes", "Q4_K_M 1 MB"),
    "bits": ("sizes", "4.955"),
    "share": ("sizes", "25%"),
    "fallback": ("sizes", "blk.0.ffn_down.weight: q5_0"),
    "importance matrix": ("sizes", "Q4_K_M: weighed by an importance matrix of 2,048 tokens from 77 samples."),
    "way of conversion": ("sizes", "the converter's own way"),
    "divergence": ("proof", "0.0002 at most"),
    "a check": ("proof", "prompts have as many tokens as in training"),
    "before": ("proof", "I am Base."),
    "after": ("proof", "I am Tunny, made by Acme."),
    "what was expected": ("proof", "✓ Tunny"),
    "commit": ("lineage", "c0ffee" * 6 + "abcd"),
    "tool": ("lineage", "0.3.36"),
    "seeds": ("lineage", "Seeds: prepare 42, train 7."),
    "text of the job": ("lineage", "kind: FineTuneJob"),
}


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> JobOnVolume:
    return whole_job(tmp_path_factory.mktemp("job") / "volume")


@pytest.mark.parametrize("name", SAID)
def test_everything_is_told(done: JobOnVolume, name: str) -> None:
    """What the stages left is on the page, in the section where people look for it."""
    section, words = SAID[name]
    assert words in says(done, section)


def test_keys_and_digests_are_told_in_full(done: JobOnVolume) -> None:
    """Every unit of the job is in the lineage with its key and its digest, as they lie on the volume."""
    lineage = says(done, "lineage")
    for result in done.volume.root.glob("stages/*/*/result.json"):
        made = json.loads(result.read_text())
        assert made["key"] in lineage
        assert made["digest"] in lineage


def test_what_is_learnt_is_marked(done: JobOnVolume) -> None:
    """Of the first sample exactly the learnt runs are marked, by an element and not by a colour alone."""
    assert ReadPage(page(done)).learnt == ["I am Tunny.<|im_end|>"]


PREFERENCES = {
    "pairs": (PREPARED_PAIRS, "pairs of answers to train on 1,350"),
    "pairs that are held back": (PREPARED_PAIRS, "pairs held back to evaluate 150"),
    "prompts of several pairs": (PREPARED_PAIRS, "rows with the prompt of an earlier one: trained on together"),
    "tokens of pairs": (PREPARED_PAIRS, "tokens of the answers 16,000 (25%)"),
    "lengths of pairs": (PREPARED_PAIRS, "Pairs by tokens: most, 900, have up to 32 tokens."),
    "both answers": (PREPARED_PAIRS, "The first pair: the rejected answer"),
    "desirable rows": (PREPARED_LABELS, "rows to train on with an answer that is desirable 900"),
    "undesirable rows": (PREPARED_LABELS, "rows to train on with an answer that is undesirable 450"),
    "what a label is about": (PREPARED_LABELS, "is the answer that the label is about"),
}


@pytest.mark.parametrize("name", PREFERENCES)
def test_what_people_prefer(tmp_path: Path, name: str) -> None:
    """Pairs and labelled rows are counted as what they are."""
    report, words = PREFERENCES[name]
    job = whole_job(tmp_path / "volume", logs={StageName.PREPARE: {"report.json": report}})
    assert words in " ".join(says(job, "data").split())


def test_both_answers_of_a_pair_are_shown(tmp_path: Path) -> None:
    """Of the first pair the chosen answer is marked and then the rejected one; neither is called learnt."""
    job = whole_job(tmp_path / "volume", logs={StageName.PREPARE: {"report.json": PREPARED_PAIRS}})
    assert ReadPage(page(job)).learnt == ["I am Tunny.<|im_end|>", "Who knows.<|im_end|>"]
    assert "what is learnt" not in says(job, "data")


def test_page_needs_nothing_else(done: JobOnVolume) -> None:
    """No address but places on the page itself, no script, and the browser is told to load nothing."""
    html = page(done)
    read = ReadPage(html)
    assert all(address.startswith("#") for address in read.addresses)
    assert not {"script", "link", "img", "iframe", "object", "base", "form"} & set(read.tags)
    assert not read.handlers
    assert "default-src &#x27;none&#x27;" in html
    assert not re.search(r"https?:|//|@import|url\(", html)


def test_page_can_be_read_aloud(done: JobOnVolume) -> None:
    """Every section has a heading, every link a target, every picture and table says what it is; ids are unique."""
    html = page(done)
    read = ReadPage(html)
    assert read.tags.count("h1") == 1
    assert read.tags.count("h2") == len(SECTIONS)
    assert not read.unnamed
    assert len(set(read.ids)) == len(read.ids)
    assert {address[1:] for address in read.addresses} <= set(read.ids)
    assert 'lang="en"' in html


def test_same_volume_gives_the_same_page(done: JobOnVolume) -> None:
    """Nothing of the page comes from the moment at which it is made."""
    assert page(done) == page(done)


# --- texts of strangers ----------------------------------------------------------------------------------------------

HOSTILE = {
    "markup": ("<script>alert(1)</script><img src=x onerror=alert(1)>", "<script>alert(1)</script><img src=x"),
    "end of an attribute": ('" onmouseover="alert(1)', '" onmouseover="alert(1)'),
    "text that runs backwards": ("abc\u202egpj.exe", "abc⟨U+202E⟩gpj.exe"),
    "control characters": ("a\x00b\x1b[31mc", "a⟨U+0000⟩b⟨U+001B⟩[31mc"),
    "half a character": ("a\ud800b", "a⟨U+D800⟩b"),
    "tags that nobody sees": ("a\U000e0041b", "a⟨U+E0041⟩b"),
    "an entity": ("&lt;b&gt;", "&lt;b&gt;"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_texts_are_shown_as_they_are(tmp_path: Path, name: str) -> None:
    """Whatever stands in data, answers or messages is text on the page; what does not show is spelled out."""
    text, expected = HOSTILE[name]
    report = {
        **PREPARED,
        "datasets": {text: {"found": text, "badRows": 1, "badRowExamples": [text]}},
        "firstRow": [{"learnt": True, "text": text}],
        "template": {"name": text},
    }
    answers = [{"prompt": text, "after": text, "quantization": text}]
    proof = [{"quantization": text, "check": text, "passed": True, "found": text}]
    rehearsed = {"checks": [{"name": text, "sentence": text, "passed": False}], "servers": {text: text}}
    logs: dict[StageName, Logs] = {
        StageName.PREPARE: {"report.json": json.dumps(report)},
        StageName.REHEARSE: {"report.json": json.dumps(rehearsed)},
        StageName.TRAIN: {"before.json": [{"prompt": text, "answer": text}]},
        StageName.REGISTER: {"proof.json": json.dumps(proof), "answers.json": json.dumps(answers)},
    }
    job = whole_job(tmp_path / "volume", logs=logs)
    html = page(job)
    read = ReadPage(html)
    html.encode("utf-8")
    for section in ("data", "preflight", "proof"):
        assert expected in read.texts[section]
    assert not {"script", "img"} & set(read.tags)
    assert not read.handlers


def test_page_is_of_bounded_size(tmp_path: Path) -> None:
    """Huge data make no huge page: everything is cut, and says how much was."""
    huge = "<&&&\u202e" * 1_000
    report = {
        **PREPARED,
        "datasets": {
            f"{number} {huge[:999]}": {"found": huge, "format": huge, "badRows": 10**9, "badRowExamples": [huge]}
            for number in range(300)
        },
        "histogram": [{"upTo": 2**power, "samples": 1} for power in range(4, 400)],
        "firstRow": [{"learnt": bool(number % 2), "text": huge[:50]} for number in range(20_000)],
    }
    metrics = "".join(json.dumps({"step": step, "loss": 1 + step % 7, "evalLoss": 2}) + "\n" for step in range(30_000))
    logs: dict[StageName, Logs] = {
        StageName.PREPARE: {"report.json": report},
        StageName.TRAIN: {
            "metrics.jsonl": metrics,
            "before.json": [{"prompt": f"{number}{huge}", "answer": huge} for number in range(200)],
        },
        StageName.REHEARSE: {"report.json": {"checks": [{"name": huge, "sentence": huge}] * 5}},
        StageName.REGISTER: {
            "proof.json": [{"quantization": huge[:9], "check": huge[:99], "found": huge[:9999]}] * 500,
            "answers.json": [
                dict.fromkeys(("prompt", "after", "quantization"), f"{number}{huge}") for number in range(200)
            ],
        },
    }
    job = whole_job(tmp_path / "volume", logs=logs)
    job.keep_run({}, huge * 1000)
    html = page(job)
    assert len(html.encode()) < MOST_BYTES
    assert "more characters" in html
    assert "left out" not in html.replace("rows left out", "")
    ReadPage(html)


def test_no_section_is_larger_than_its_share() -> None:
    """However much there is to say in a section: what does not fit is left out, and that is said."""
    section = Section("s", "S", [Says("&" * 20_000), Says("kept")] * 100)
    html = str(_section(section))
    assert len(html) * len(SECTIONS) < MOST_BYTES
    assert "kept" in html
    assert "Too long for this page, and left out: 99 of 200 parts." in html


ODD_LOGS = {
    "no JSON": "{",
    "a list": "[1, 2]",
    "nothing": "null",
    "no numbers": '{"rows": "many", "histogram": [{"upTo": null, "samples": -1}, 3], "packing": {"fill": NaN}}',
    "wrong kinds": '{"datasets": [1], "firstRow": {"a": 1}, "template": "x", "checks": {"a": 1}, "estimates": [1]}',
    "a nesting bomb": "[" * 100_000,
    "a number that no float holds": '{"rows": 1' + "0" * 400 + "}",
}


@pytest.mark.parametrize("name", ODD_LOGS)
def test_odd_logs_do_no_harm(tmp_path: Path, name: str) -> None:
    """A log of another shape, of an older version say, costs its own part of the page and nothing else."""
    odd = ODD_LOGS[name]
    metrics = '{"step": 1, "loss": NaN}\n{"step": "x", "loss": 1}\nno JSON\n{"step": 2, "loss": 1e999}\n'
    logs = {
        StageName.PREPARE: {"report.json": odd},
        StageName.REHEARSE: {"report.json": odd},
        StageName.TRAIN: {"metrics.jsonl": metrics},
        StageName.REGISTER: {"proof.json": odd, "answers.json": odd},
    }
    read = ReadPage(page(whole_job(tmp_path / "volume", logs=logs)))
    assert "Succeeded" in read.texts[""]
    assert "tokens per second" in read.texts["training"]


def test_what_a_training_took_and_was_computed_with(tmp_path: Path) -> None:
    """The report says how much memory of a GPU was taken, and which kernels were used."""
    told = ReadPage(page(whole_job(tmp_path / "volume"))).texts["training"]
    assert "61.2 GB" in told
    assert "flash_attention_2, liger" in told


def test_rewards_have_a_curve(tmp_path: Path) -> None:
    """What a preference method reports besides the loss is drawn, and its loss has no unit."""
    events = [{"step": step, "loss": 0.7 - step / 100, "rewardMargin": step / 8} for step in range(1, 9)]
    metrics = "".join(json.dumps(event) + "\n" for event in events)
    html = page(whole_job(tmp_path / "volume", logs={StageName.TRAIN: {"metrics.jsonl": metrics}}))
    assert "Rewards by step" in html
    assert "chosen and rejected answers ends at 1." in html
    assert "in nats per token" not in html
    assert "Rewards by step" not in page(whole_job(tmp_path / "other"))


# --- a job that is not done ------------------------------------------------------------------------------------------


def only_sources(job: JobOnVolume) -> None:
    sources(job)


def up_to_training(job: JobOnVolume) -> None:
    made = sources(job)
    made["prepared"] = prepared(job, made)
    two = {role: made[role] for role in ("base", "prepared")}
    job.done(StageName.REHEARSE, {"model": "m:v1"}, two, logs={"report.json": REHEARSED})


def in_training(job: JobOnVolume) -> None:
    made = sources(job)
    made["prepared"] = prepared(job, made)
    job.begun(StageName.TRAIN, made, logs={"metrics.jsonl": '{"step": 10, "loss": 2.5}\n{"step": 20, "lo'})


def failed_in_prepare(job: JobOnVolume) -> None:
    job.failed(StageName.PREPARE, BAD_ROW, {}, sources(job))


def stopped_in_fetch(job: JobOnVolume) -> None:
    job.failed(StageName.FETCH, Failure(ExitCode.INTERRUPTED, "Interrupted", "stopped by SIGTERM", "Run it again."))


def failed_in_register(job: JobOnVolume) -> None:
    made = sources(job)
    made["prepared"] = prepared(job, made)
    made["trained"] = trained(job, made)
    failure = Failure(ExitCode.GATE_FAILED, "SmokeTestFailed", "asked 'Who are you?', ...", "Train longer.")
    proof = [*PROOF, {"quantization": "Q4_K_M", "check": "passes_smoke_tests", "passed": False, "found": "said Base"}]
    job.failed(StageName.REGISTER, failure, {"model": "m:v1"}, made, logs={"proof.json": proof})


UNFINISHED: dict[str, tuple[Callable[[JobOnVolume], None], dict[str, str]]] = {
    "only the sources are there": (
        only_sources,
        {
            "": "Done up to fetch. The stage prepare has not begun.",
            "data": "The data have not been prepared",
            "training": "The training has not begun.",
            "sizes": "No model file has been made yet.",
            "proof": "Nothing has been proven of the model yet",
        },
    ),
    "the rehearsal passed": (
        up_to_training,
        {"": "The rehearsal passed: what comes after it can work.", "training": "The training has not begun."},
    ),
    "it trains, or was killed": (
        in_training,
        {
            "": "The stage train began at 2026-01-02 03:03:00 UTC, and no end of it is recorded",
            "training": "The training has no result. The record ends at step 10.",
            "stages": "no end recorded",
        },
    ),
    "the data are bad": (
        failed_in_prepare,
        {
            "": "The stage prepare failed, BadRow: dataset `faq`, faq.json row 3",
            "stages": "What to do: Mend that row.",
            "data": "The data have not been prepared",
        },
    ),
    "it was stopped": (
        stopped_in_fetch,
        {"": "The stage fetch was stopped, Interrupted: stopped by SIGTERM", "lineage": "not made"},
    ),
    "a proof failed": (
        failed_in_register,
        {
            "": "m:v1 (not there yet)",
            "proof": "a check failed, so the model did not get its name",
            "stages": "SmokeTestFailed",
        },
    ),
}


@pytest.mark.parametrize("name", UNFINISHED)
def test_unfinished_job_has_a_page(tmp_path: Path, name: str) -> None:
    """A job has a page from its first stage on. What is missing is said in words, what failed with its reason."""
    lay_out, expected = UNFINISHED[name]
    job = JobOnVolume(tmp_path / "volume")
    lay_out(job)
    html = page(job)
    read = ReadPage(html)
    assert read.tags.count("h2") == len(SECTIONS)
    assert "Succeeded" not in html
    for section, words in expected.items():
        assert words in read.texts[section]


def test_gguf_as_base_trains_nothing(tmp_path: Path) -> None:
    """A job whose base is a GGUF file says that nothing was trained, and what was made of it."""
    job = JobOnVolume(tmp_path / "volume")
    base = job.done(StageName.FETCH, {"kind": "models", "source": {"gguf": {"path": "m.gguf"}}}, unit="base")
    quantized = job.done(StageName.QUANTIZE, {"type": "Q8_0"}, {"base": base}, unit="Q8_0", size=3_000_000)
    registered(job, {"base": base, "quantized:Q8_0": quantized}, {"proof.json": PROOF, "answers.json": ANSWERS})
    read = ReadPage(page(job))
    assert "Succeeded" in read.texts[""]
    assert "Nothing is trained: the base is a GGUF file." in read.texts["training"]
    assert "GGUF on the volume m.gguf" in read.texts["lineage"]
    assert "Q8_0 3 MB" in read.texts["sizes"]
