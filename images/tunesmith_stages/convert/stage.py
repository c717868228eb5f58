"""The order of events of `convert`: merge, assemble, convert, prove; and once more in another way if that was wrong.

The converter reads a vocabulary from ``tokenizer.model`` where a model has that file. Some are of a kind that it can't
read, or have aged: then the vocabulary is taken from ``tokenizer.json``, which training used, and all is proven again.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tunesmith_stages.architectures import require_supported
from tunesmith_stages.contract import ExitCode
from tunesmith_stages.convert.folder import assemble, link_weights
from tunesmith_stages.convert.kept_model import keep
from tunesmith_stages.convert.read_back import require_as_trained
from tunesmith_stages.convert.reference_gate import ProbeFigures, as_record, mean_of, measure, require_same_model
from tunesmith_stages.convert.room import Sizes, require_space
from tunesmith_stages.convert.safetensors_file import SafetensorsFile, weight_files
from tunesmith_stages.convert.source import Source, read_json, read_source
from tunesmith_stages.convert.token_gate import left_out, require_same_prompts, require_same_tokens
from tunesmith_stages.gguf_file import GgufFile, read_gguf
from tunesmith_stages.llama_server import llama_server
from tunesmith_stages.program import Made, StageError, Work
from tunesmith_stages.tools import LlamaCpp, llama_cpp, run_tool

METHOD = "llama.cpp convert_hf_to_gguf"
CONVERTER = "llama.cpp's converter"
_CONTEXT_MARGIN = 64
_OF_THE_VOCABULARY = frozenset(
    {"ToolFailed", "TokenizerMismatch", "PreTokenizerUnknown", "GgufDiffers", "EndOfTurnNotEog"}
)
"""Reasons that another way of reading the vocabulary may cure."""


@dataclass(frozen=True)
class Exported:
    """A GGUF that was proven."""

    gguf: GgufFile
    report: Mapping[str, Any]
    """:class:`~tunesmith_stages.convert.run_converter.Report`"""
    skipped: list[str]
    """Texts that could not be compared."""
    figures: list[ProbeFigures]
    reason: str
    """Why it was made in this way."""


Watch = Callable[[], None]
RunConverter = Callable[[Path, Path, Watch], None]
"""Runs :mod:`~tunesmith_stages.convert.run_converter` on a task; then come its log and what is called meanwhile."""


def _in_a_new_process(task: Path, log_file: Path, watch: Watch) -> None:
    run_tool(
        [sys.executable, "-P", "-m", "tunesmith_stages.convert.run_converter", task],
        log_file,
        what=CONVERTER,
        environ={**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"},
        watch=watch,
    )


def make(work: Work, run_converter: RunConverter = _in_a_new_process) -> Made:
    """Merge the adapter into the base, write a GGUF and prove that it is the model that was trained."""
    llama = llama_cpp()
    source = read_source(work)
    require_supported(source.config, llama)
    tensors = (info for path in weight_files(source.model) for info in SafetensorsFile(path).tensors.values())
    sizes = require_space(work.folder, tensors, work.params["outType"], merges=source.is_adapter)
    merged = work.folder / "merged"
    shutil.rmtree(merged, ignore_errors=True)
    merged.mkdir()
    try:
        changed = _weights(work, source, merged, sizes)
        assemble(merged, source.model, source.base, source.chat_template)
        exported = _export(work, llama, source, merged, sizes, run_converter)
        if work.params.get("keepMerged"):
            end = source.tokens["endOfTurn"]["id"]
            keep(work.out / "merged", merged, source.base, chat_template=source.template, end_of_turn=end)
    finally:
        shutil.rmtree(merged, ignore_errors=True)
    figures = exported.figures
    return Made(
        outputs=_outputs(work, source, exported),
        numbers={
            "gib": round(exported.gguf.size / 2**30, 3),
            "tensors": len(exported.gguf.tensors),
            "mergedTensors": changed,
            "maxKl": round(max((figure.kl for figure in figures), default=0.0), 6),
            "meanKl": round(mean_of(figures, "kl"), 6),
            "meanSpread": round(mean_of(figures, "spread"), 4),
        },
        tools={"llama.cpp": llama.version, **exported.report["tools"]},
    )


def _weights(work: Work, source: Source, merged: Path, sizes: Sizes) -> int:
    """Put the final weights into `merged`; return how many tensors an adapter changed."""
    if not source.is_adapter:
        link_weights(merged, source.trained)
        return 0
    from tunesmith_stages.convert.adapter import Adapter
    from tunesmith_stages.convert.merge import merge

    work.progress.note("merging the adapter into the base")
    return merge(source.base, Adapter(source.trained), merged, work.progress.counter(sizes.weights, "bytes merged"))


def _export(
    work: Work, llama: LlamaCpp, source: Source, merged: Path, sizes: Sizes, run_converter: RunConverter
) -> Exported:
    """Write the GGUF and prove it; if its vocabulary is wrong, once more with that of ``tokenizer.json`` alone.

    Raises:
        StageError: it can't be made, or is not the model that was trained, in either way.
    """
    by_model = merged / "tokenizer.model"
    try:
        return _export_once(work, llama, source, merged, sizes, run_converter)
    except StageError as error:
        again = by_model.is_file() and (merged / "tokenizer.json").is_file()
        if error.reason not in _OF_THE_VOCABULARY or not again:
            raise
        first = error
    work.progress.note(f"with the vocabulary of tokenizer.model: {first.message}; now with that of tokenizer.json")
    by_model.unlink()
    try:
        exported = _export_once(work, llama, source, merged, sizes, run_converter)
    except StageError as second:
        message = f"{first.message}\nWith the vocabulary of tokenizer.json alone: {second.message}"
        raise StageError(first.code, message, reason=first.reason, hint=first.hint) from second
    return replace(exported, reason=f"with tokenizer.model: {first.message}")


def _export_once(
    work: Work, llama: LlamaCpp, source: Source, merged: Path, sizes: Sizes, run_converter: RunConverter
) -> Exported:
    report = _convert(work, llama, source, merged, sizes, run_converter)
    gguf = read_gguf(work.out / "model.gguf")
    require_as_trained(
        gguf,
        chat_template=source.chat_template,
        config=source.config,
        tokens=source.tokens,
        add_bos=source.add_bos,
        tensors=report["tensors"],
    )
    skipped = left_out(source.texts, report["normalizer"])
    figures = _prove(work, llama, source, report, skipped)
    held = "has" if (merged / "tokenizer.model").is_file() else "has no"
    return Exported(gguf, report, skipped, figures, f"the base {held} tokenizer.model")


def _convert(
    work: Work, llama: LlamaCpp, source: Source, merged: Path, sizes: Sizes, run_converter: RunConverter
) -> dict[str, Any]:
    """Run the converter and return its report."""
    work.progress.note("writing the GGUF")
    out = work.out / "model.gguf"
    task_file, report_file = merged / "task.json", merged / "report.json"
    task = {
        "converter": str(llama.converter),
        "model": str(merged),
        "out": str(out),
        "out_type": work.params["outType"],
        "report": str(report_file),
        "add_bos": source.add_bos,
        "end_of_turn": source.tokens["endOfTurn"]["id"],
        "texts": source.texts,
    }
    task_file.write_text(json.dumps(task), encoding="utf-8")

    told = 0

    def tell() -> None:
        nonlocal told
        written = min(out.stat().st_size, sizes.gguf) if out.is_file() else 0
        if written > told:
            told = written
            work.progress.count(written, sizes.gguf, "bytes written")

    try:
        run_converter(task_file, work.logs / "converter.log", tell)
    except StageError:
        reason = read_json(report_file)["reason"] if report_file.is_file() else ""
        if not reason:
            raise
        raise StageError(
            ExitCode.BAD_CONFIG,
            f"llama.cpp {llama.version} has no rule for how the base's tokenizer splits text: {reason}",
            reason="PreTokenizerUnknown",
            hint="Choose a base model whose tokenizer llama.cpp knows.",
        ) from None
    report: dict[str, Any] = read_json(report_file)
    return report


def _prove(
    work: Work, llama: LlamaCpp, source: Source, report: Mapping[str, Any], skipped: list[str]
) -> list[ProbeFigures]:
    """Compare tokens and next-token probabilities of the finished file with those of training."""
    work.progress.note("comparing with the trained model")
    compared = [(text, ids) for text, ids in zip(source.texts, report["ids"], strict=True) if text not in skipped]
    prompts = [prompt for prompt in source.prompts if not left_out([prompt["text"]], report["normalizer"])]
    longest = max((len(probe["ids"]) for probe in source.reference["prompts"]), default=0)
    model = work.out / "model.gguf"
    with llama_server(llama, model, work.logs / "llama-server.log", context=longest + _CONTEXT_MARGIN) as server:
        require_same_tokens(server, [text for text, _ in compared], [ids for _, ids in compared])
        require_same_prompts(server, [prompt["text"] for prompt in prompts], [prompt["ids"] for prompt in prompts])
        figures = measure(server, source.reference, source.tokens["vocabSize"])
    record = json.dumps(as_record(figures), indent=2)
    (work.logs / "reference_check.json").write_text(record + "\n", encoding="utf-8")
    require_same_model(figures)
    return figures


def _outputs(work: Work, source: Source, exported: Exported) -> dict[str, Any]:
    gguf, report, skipped = exported.gguf, exported.report, exported.skipped
    weights = "the adapter merged into the base" if source.is_adapter else "the trained weights"
    return {
        "architecture": report["architecture"],
        "ggufArchitecture": gguf.architecture,
        "contextLength": gguf.own("context_length"),
        "vocabSize": len(gguf.metadata["tokenizer.ggml.tokens"]),
        "eosTokenId": source.tokens["eosTokenId"],
        "endOfTurnId": source.tokens["endOfTurn"]["id"],
        "addsBos": source.add_bos,
        "preTokenizer": {
            "name": gguf.metadata.get("tokenizer.ggml.pre", ""),
            "foundBy": report["pre_tokenizer_by"],
        },
        "textsNotCompared": {"count": len(skipped), "why": "decomposed accents; llama.cpp does not normalise to NFC"}
        if skipped
        else {"count": 0, "why": ""},
        "path": f"{METHOD}: {weights}, vocabulary of {report['vocabulary']}",
        "pathReason": exported.reason,
        "outType": work.params["outType"],
        "keepsMerged": bool(work.params.get("keepMerged")),
        "tensors": len(gguf.tensors),
    }
