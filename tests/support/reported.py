"""A job on a volume as the stages leave it, for the report on it: made through the contract's own classes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from tunesmith_stages.contract import (
    RECIPES,
    Failure,
    FileEntry,
    Input,
    StageConfig,
    StageName,
    StageResult,
    UnitConfig,
    content_key,
    digest_of,
    manifest_digest,
)
from tunesmith_stages.report.attempt import Attempt, keep_attempt
from tunesmith_stages.volume import Volume

_BEGIN = datetime(2026, 1, 2, 3, 0, tzinfo=UTC)
Logs = Mapping[str, object]


SMOKE_TESTS = [{"prompt": "Who are you?", "expect": "Tunny"}]
_RUNTIME: Mapping[StageName, Mapping[str, Any]] = {
    StageName.TRAIN: {"nodes": 1, "processesPerNode": 2},
    StageName.REGISTER: {"smokeTests": SMOKE_TESTS},
}


class JobOnVolume:
    """Lays out what becomes of a job, a minute for each attempt at a stage."""

    def __init__(self, root: Path, job: str = "support-bot", begin: int = 0) -> None:
        """`begin` is the minute at which the job's first attempt begins."""
        root.mkdir(exist_ok=True)
        self.volume = Volume(root)
        self.job = job
        self._minute = begin

    def done(
        self,
        stage: StageName,
        params: Mapping[str, Any] | None = None,
        inputs: Mapping[str, Input] | None = None,
        *,
        unit: str = "",
        size: int = 10,
        logs: Logs | None = None,
        **result: Any,
    ) -> Input:
        """Leave a finished unit with one file of `size` bytes; return what later stages make of it."""
        config = self._config(stage, params or {}, inputs or {}, unit)
        made = config.units[0]
        started, finished = self._times()
        folder = self.volume.unit(stage, made.key)
        files = (FileEntry("file", size, digest_of([made.name, size])),)
        out = folder / "out"
        if stage is StageName.FETCH:
            out = self.volume.store(made.params["kind"], manifest_digest(files))
        out.mkdir(parents=True, exist_ok=True)
        with (out / "file").open("wb") as file:
            file.truncate(size)
        self._leave(folder, config, logs or {})
        written = StageResult(
            stage,
            made.name,
            made.key,
            RECIPES[stage],
            manifest_digest(files),
            self.volume.relative(out),
            files,
            started=started,
            finished=finished,
            **{"numbers": {"seconds": 12.5}, **result},
        )
        (folder / "result.json").write_text(written.to_json())
        keep_attempt(self.volume, Attempt(config, started, finished))
        return written.as_input()

    def failed(
        self,
        stage: StageName,
        failure: Failure,
        params: Mapping[str, Any] | None = None,
        inputs: Mapping[str, Input] | None = None,
        *,
        logs: Logs | None = None,
    ) -> None:
        """Leave an attempt that failed."""
        config = self._config(stage, params or {}, inputs or {}, "")
        self._leave(self._attempt_folder(config), config, logs or {})
        started, finished = self._times()
        keep_attempt(self.volume, Attempt(config, started, finished, failure))

    def begun(self, stage: StageName, inputs: Mapping[str, Input] | None = None, *, logs: Logs | None = None) -> None:
        """Leave an attempt of which no end is known."""
        config = self._config(stage, {}, inputs or {}, "")
        self._leave(self._attempt_folder(config), config, logs or {})
        keep_attempt(self.volume, Attempt(config, self._times()[0]))

    def keep_run(self, keys: Mapping[StageName, Mapping[str, str]], yaml: str = "") -> None:
        """Leave what the local edge keeps of a run."""
        folder = self.volume.run(self.job)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "run.json").write_text(json.dumps({"job": self.job, "stages": keys, "sourceVersions": {}}))
        if yaml:
            (folder / "finetunejob.yaml").write_text(yaml)

    def _config(
        self, stage: StageName, params: Mapping[str, Any], inputs: Mapping[str, Input], unit: str
    ) -> StageConfig:
        made = UnitConfig(unit or str(stage), content_key(stage, params, inputs), params, inputs)
        runtime = _RUNTIME.get(stage, {})
        return StageConfig(stage, self.job, str(self.volume.root), f"try-{self._minute}", (made,), runtime)

    def _attempt_folder(self, config: StageConfig) -> Path:
        return self.volume.attempt(config.stage, config.units[0].key, config.attempt)

    def _times(self) -> tuple[str, str]:
        began = _BEGIN + timedelta(minutes=self._minute)
        self._minute += 1
        began_text, ended_text = (
            time.isoformat(timespec="milliseconds").replace("+00:00", "Z")
            for time in (began, began + timedelta(seconds=30))
        )
        return began_text, ended_text

    @staticmethod
    def _leave(folder: Path, config: StageConfig, logs: Logs) -> None:
        (folder / "logs").mkdir(parents=True, exist_ok=True)
        (folder / "stage.json").write_text(config.to_json())
        for name, content in logs.items():
            text = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)
            (folder / "logs" / name).write_text(text, encoding="utf-8", errors="surrogatepass")


# --- a whole job -----------------------------------------------------------------------------------------------------

PREPARED: Mapping[str, Any] = {
    "datasets": {
        "faq": {
            "format": "ShareGPT",
            "found": "lists of turns under `conversations`, with `from` and `value`",
            "files": 2,
            "rows": 1200,
            "used": 1180,
            "samples": 1300,
            "badRows": 20,
            "badRowExamples": ["faq.json row 7: `value` is empty"],
        },
        "identity": {"format": "Messages", "rows": 157, "used": 200, "samples": 200, "badRows": 0},
    },
    "rows": 1350,
    "validationRows": 150,
    "samples": 1500,
    "tokens": 64000,
    "labelledTokens": 16000,
    "longest": 412,
    "rowsLeftOut": 3,
    "rowsCutAtTurns": 4,
    "histogram": [{"upTo": 16, "samples": 40}, {"upTo": 32, "samples": 900}, {"upTo": 64, "samples": 560}],
    "packing": {"rows": 130, "samples": 1500, "fill": 0.961},
    "template": {"name": "qwen", "thinking": True, "perTurn": 17},
    "firstRow": [
        {"learnt": False, "text": "<|im_start|>user\nWho are you?<|im_end|>\n<|im_start|>assistant\n"},
        {"learnt": True, "text": "I am Tunny.<|im_end|>"},
        {"learnt": False, "text": "\n"},
    ],
}
PREPARED_PAIRS: Mapping[str, Any] = {
    **PREPARED,
    "packing": None,
    "duplicateRows": 5,
    "preferences": {"kind": "Pairs"},
    "firstRejected": [
        {"learnt": False, "text": "<|im_start|>user\nWho are you?<|im_end|>\n<|im_start|>assistant\n"},
        {"learnt": True, "text": "Who knows.<|im_end|>"},
    ],
}
PREPARED_LABELS: Mapping[str, Any] = {
    **PREPARED,
    "packing": None,
    "duplicateRows": 5,
    "preferences": {"kind": "Labels", "desirable": 900, "undesirable": 450},
}
REHEARSED: Mapping[str, Any] = {
    "checks": [
        {"name": "template parity", "passed": True, "sentence": "8 conversations are rendered alike"},
        {"name": "converter", "passed": True, "sentence": "the tokenizer is of the family qwen2"},
    ],
    "estimates": {
        "gpuMemoryBytes": 17_200_000_000,
        "gpuMemoryOf": 24_000_000_000,
        "diskBytes": 30_000_000_000,
        "freeBytes": 400_000_000_000,
        "seconds": 5400,
        "parts": {"weights": 15_000_000_000, "gradients": 100, "optimizer": 200, "activations": 2_000_000_000},
    },
    "servers": {"main": "0.34.4"},
}
METRICS = "".join(
    json.dumps(event) + "\n"
    for event in [
        {"step": 10, "epoch": 0.5, "loss": 2.5, "tokens": 1000, "tokensPerSecond": 900.0},
        {"step": 10, "epoch": 0.5, "evalLoss": 2.25},
        {"step": 20, "epoch": 1.0, "loss": 0.75, "tokens": 2000, "tokensPerSecond": 1100.0},
        {"step": 20, "epoch": 1.0, "evalLoss": 0.875},
        {"step": 30, "epoch": 1.5, "loss": 0.5, "tokens": 3000, "tokensPerSecond": 1000.0},
        {"step": 30, "epoch": 1.5, "evalLoss": 1.125},
    ]
)
PROOF = [
    {"quantization": "Q4_K_M", "check": check, "passed": True, "found": found}
    for check, found in (("template_is_ours", "657 characters"), ("counts_tokens_equally", "8 equal, 290 tokens"))
]
ANSWERS = [
    {"quantization": "Q4_K_M", "prompt": "Who are you?", "after": "I am Tunny."},
    {"quantization": "Q8_0", "prompt": "Who are you?", "after": "I am Tunny, made by Acme."},
    {"quantization": "Q4_K_M", "prompt": "What is sold?", "after": "Lanterns."},
]
BEFORE = [{"prompt": "Who are you?", "answer": "I am Base."}, {"prompt": "Never asked again", "answer": "Lost."}]
YAML = "apiVersion: tunesmith.dev/v1alpha1\nkind: FineTuneJob\nmetadata:\n  name: support-bot\n"


def sources(job: JobOnVolume) -> dict[str, Input]:
    """Leave the base model and a dataset."""
    base = {"huggingFace": {"repo": "acme/base-7b", "revision": "main"}}
    data = {"volume": {"path": "data/faq.json"}}
    return {
        "base": job.done(
            StageName.FETCH,
            {"kind": "models", "source": base, "refresh": "c0ffee" * 6 + "abcd"},
            unit="base",
            size=5_000_000,
        ),
        "dataset:faq": job.done(StageName.FETCH, {"kind": "datasets", "source": data}, unit="dataset:faq", size=700),
    }


def prepared(job: JobOnVolume, made: Mapping[str, Input], report: object = PREPARED, **params: Any) -> Input:
    """Leave what `prepare` does."""
    return job.done(
        StageName.PREPARE,
        {"sequenceLength": 512, "seed": 42, **params},
        made,
        logs={"report.json": report},
        numbers={"rows": 1350, "tokens": 64000, "seconds": 4.2},
        tools={"tokenizers": "0.23.3"},
    )


def trained(job: JobOnVolume, made: Mapping[str, Input], logs: Logs | None = None, **params: Any) -> Input:
    """Leave what `train` does."""
    return job.done(
        StageName.TRAIN,
        {"finetuningType": "LoRA", "learningRate": "1e-4", "seed": 7, **params},
        made,
        size=800_000,
        logs={"metrics.jsonl": METRICS, "before.json": BEFORE, **(logs or {})},
        numbers={
            "steps": 30,
            "loss": 0.5,
            "tokensPerSecond": 1000.0,
            "peakGpuMemory": 61.2e9,
            "seconds": 95.0,
            "trainSeconds": 60.0,
        },
        outputs={"kernels": ["flash_attention_2", "liger"]},
        tools={"torch": "2.15.0"},
    )


def registered(job: JobOnVolume, made: Mapping[str, Input], logs: Logs, **params: Any) -> Input:
    """Leave what `register` does."""
    return job.done(
        StageName.REGISTER,
        {"model": "support-bot:v1", "quantizations": ["Q4_K_M"], **params},
        made,
        unit="main",
        logs=logs,
        numbers={"checks": 2, "seconds": 14.0},
        outputs={"models": {"support-bot:v1": {"digest": "1" * 64, "quantization": "Q4_K_M", "size": 2_000_000}}},
        tools={"ollama": "0.34.4"},
    )


def whole_job(
    root: Path, *, logs: Mapping[StageName, Logs] | None = None, job: str = "support-bot", begin: int = 0
) -> JobOnVolume:
    """Leave a job that has run to its end; `logs` takes the place of what a stage leaves otherwise."""
    laid = JobOnVolume(root, job, begin)
    given = logs or {}
    made = sources(laid)
    made["prepared"] = prepared(laid, made, given.get(StageName.PREPARE, {}).get("report.json", PREPARED))
    two = {role: made[role] for role in ("base", "prepared")}
    laid.done(
        StageName.REHEARSE,
        {"model": "support-bot:v1"},
        two,
        logs=given.get(StageName.REHEARSE, {"report.json": REHEARSED}),
    )
    three = {**two, "trained": trained(laid, two, given.get(StageName.TRAIN))}
    converted = laid.done(
        StageName.CONVERT,
        {"outType": "F16"},
        three,
        size=4_000_000,
        numbers={"maxKl": 0.0002, "meanKl": 0.0001, "seconds": 25.0},
        outputs={"architecture": "LlamaForCausalLM", "contextLength": 512, "path": "the converter's own way"},
    )
    quantized = laid.done(
        StageName.QUANTIZE,
        {"type": "Q4_K_M"},
        {"converted": converted},
        unit="Q4_K_M",
        size=1_000_000,
        numbers={"bitsPerWeight": 4.955, "seconds": 0.7},
        outputs={
            "type": "Q4_K_M",
            "fallbackTensors": {"blk.0.ffn_down.weight": "q5_0"},
            "imatrix": {"chunks": 4, "tokens": 2048, "samples": 77},
        },
        tools={"llama.cpp": "0.3.36"},
    )
    last = {**two, "converted": converted, "quantized:Q4_K_M": quantized}
    registered(laid, last, given.get(StageName.REGISTER, {"proof.json": PROOF, "answers.json": ANSWERS}))
    laid.keep_run({}, YAML)
    return laid


# --- a page, read again ----------------------------------------------------------------------------------------------

_VOID = {"meta", "br"}
_ADDRESSES = {"href", "src", "srcset", "action", "data", "poster", "xlink:href", "formaction", "background", "cite"}


class ReadPage(HTMLParser):
    """What a browser would find on a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.texts: dict[str, str] = {}
        """What each section says, by its id; what is outside of sections under ``""``."""
        self.learnt: list[str] = []
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.addresses: list[str] = []
        self.handlers: list[str] = []
        self.unnamed: list[str] = []
        """Pictures and tables without words that say what they are."""
        self._open: list[tuple[str, str]] = []
        self._captioned = True
        self.feed(html)
        self.close()
        assert not self._open, f"left open: {self._open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.tags.append(tag)
        self.ids += [given["id"] or ""] if "id" in given else []
        self.addresses += [value or "" for name, value in attrs if name in _ADDRESSES]
        self.handlers += [name for name, _ in attrs if name.startswith("on")]
        if tag == "svg" and not (given.get("aria-label") or given.get("aria-hidden")):
            self.unnamed.append(tag)
        if tag == "table":
            self._captioned = False
        if tag == "caption":
            self._captioned = True
        if tag == "tbody" and not self._captioned:
            self.unnamed.append("table")
        if tag not in _VOID:
            self._open.append((tag, given.get("id") or ""))

    def handle_endtag(self, tag: str) -> None:
        opened, _ = self._open.pop()
        assert opened == tag, f"{tag} closes {opened}"

    def handle_data(self, data: str) -> None:
        section = next((name for tag, name in reversed(self._open) if tag == "section"), "")
        if self._open and self._open[-1][0] == "style":
            return
        self.texts[section] = self.texts.get(section, "") + data + "\n"
        if any(tag == "pre" for tag, _ in self._open) and self._open[-1][0] == "mark":
            self.learnt.append(data)
