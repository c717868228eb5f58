"""The order of events of `convert`: merge, assemble, convert, prove."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunesmith_stages.architectures import require_supported
from tunesmith_stages.chat_template import guarded
from tunesmith_stages.contract import ExitCode
from tunesmith_stages.convert.corpus import TEXTS, with_control_tokens
from tunesmith_stages.convert.folder import assemble, link_weights, read_config, token_text
from tunesmith_stages.convert.read_back import adds_bos, require_as_trained
from tunesmith_stages.convert.reference_gate import ProbeFigures, as_record, mean_of, measure, require_same_model
from tunesmith_stages.convert.safetensors_file import SafetensorsFile, weight_files
from tunesmith_stages.convert.token_gate import left_out, require_same_prompts, require_same_tokens
from tunesmith_stages.gguf_file import GgufFile, read_gguf
from tunesmith_stages.llama_server import llama_server
from tunesmith_stages.program import Made, StageError, Work
from tunesmith_stages.tools import LlamaCpp, llama_cpp, run_tool

METHOD = "llama.cpp convert_hf_to_gguf"
_SLACK = 64 * 1024 * 1024
_CONTEXT_MARGIN = 64


@dataclass(frozen=True)
class Source:
    """Everything that is read from the inputs."""

    base: Path
    trained: Path
    model: Path
    """Whose config.json counts: the base's for an adapter, else that of the fine-tuned model."""
    config: Mapping[str, Any]
    chat_template: str
    """Guarded."""
    tokens: Mapping[str, Any]
    prompts: list[dict[str, Any]]
    reference: Mapping[str, Any]
    add_bos: bool

    @property
    def is_adapter(self) -> bool:
        """Whether training left an adapter rather than whole weights."""
        return self.model == self.base


@dataclass(frozen=True)
class Sizes:
    """How much is to be written, in bytes."""

    weights: int
    gguf: int
    """Two bytes for each weight; a few are written in four, but they are small."""


def make(work: Work) -> Made:
    """Merge the adapter into the base, write a GGUF and prove that it is the model that was trained."""
    llama = llama_cpp()
    source = _read(work)
    require_supported(source.config, llama)
    sizes = _require_space(work, source)
    merged = work.folder / "merged"
    shutil.rmtree(merged, ignore_errors=True)
    merged.mkdir()
    try:
        changed = _weights(work, source, merged, sizes)
        assemble(merged, source.model, source.base, source.chat_template)
        report = _convert(work, llama, source, merged, sizes)
    finally:
        shutil.rmtree(merged, ignore_errors=True)
    gguf = read_gguf(work.out / "model.gguf")
    require_as_trained(
        gguf,
        chat_template=source.chat_template,
        config=source.config,
        tokens=source.tokens,
        add_bos=source.add_bos,
        tensors=report["tensors"],
    )
    skipped = left_out(_texts(source), report["normalizer"])
    figures = _prove(work, llama, source, report, skipped)
    return Made(
        outputs=_outputs(work, source, gguf, report, skipped),
        numbers={
            "gib": round(gguf.size / 2**30, 3),
            "tensors": len(gguf.tensors),
            "mergedTensors": changed,
            "maxKl": round(max((figure.kl for figure in figures), default=0.0), 6),
            "meanKl": round(mean_of(figures, "kl"), 6),
            "meanSpread": round(mean_of(figures, "spread"), 4),
        },
        tools={"llama.cpp": llama.version, **report["tools"]},
    )


def _read(work: Work) -> Source:
    base, prepared, trained = work.input("base"), work.input("prepared"), work.input("trained")
    model = base if (trained / "adapter_config.json").is_file() else trained
    tokens = _json(prepared / "tokens.json")
    prompts = _json(prepared / "probes.json")["prompts"]
    template = (prepared / "chat_template.jinja").read_bytes().decode("utf-8")
    return Source(
        base=base,
        trained=trained,
        model=model,
        config=read_config(model),
        chat_template=guarded(template),
        tokens=tokens,
        prompts=prompts,
        reference=_json(trained / "reference.json"),
        add_bos=adds_bos(tokens, prompts, token_text(base, tokens["bosTokenId"])),
    )


def _require_space(work: Work, source: Source) -> Sizes:
    """Check that what is to be written fits on the volume; return how much that is."""
    tensors = [info for path in weight_files(source.model) for info in SafetensorsFile(path).tensors.values()]
    sizes = Sizes(sum(info.size for info in tensors), sum(2 * info.elements for info in tensors))
    needed = sizes.gguf + _SLACK + (sizes.weights if source.is_adapter else 0)
    free = shutil.disk_usage(work.folder).free
    if needed > free:
        raise StageError(
            ExitCode.NO_SPACE,
            f"converting needs {needed / 2**30:.2f} GiB on the volume and {free / 2**30:.2f} GiB are free",
        )
    return sizes


def _weights(work: Work, source: Source, merged: Path, sizes: Sizes) -> int:
    """Put the final weights into `merged`; return how many tensors an adapter changed."""
    if not source.is_adapter:
        link_weights(merged, source.trained)
        return 0
    from tunesmith_stages.convert.adapter import Adapter
    from tunesmith_stages.convert.merge import merge

    work.progress.note("merging the adapter into the base")
    return merge(source.base, Adapter(source.trained), merged, work.progress.counter(sizes.weights, "bytes merged"))


def _convert(work: Work, llama: LlamaCpp, source: Source, merged: Path, sizes: Sizes) -> dict[str, Any]:
    """Run the converter and return its report (:class:`~tunesmith_stages.convert.run_converter.Report`)."""
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
        "texts": _texts(source),
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
        run_tool(
            [sys.executable, "-P", "-m", "tunesmith_stages.convert.run_converter", task_file],
            work.logs / "converter.log",
            what="llama.cpp's converter",
            environ={**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"},
            watch=tell,
        )
    except StageError:
        reason = _json(report_file)["reason"] if report_file.is_file() else ""
        if not reason:
            raise
        raise StageError(
            ExitCode.BAD_CONFIG,
            f"llama.cpp {llama.version} has no rule for how the base's tokenizer splits text: {reason}",
            reason="PreTokenizerUnknown",
            hint="Choose a base model whose tokenizer llama.cpp knows.",
        ) from None
    report: dict[str, Any] = _json(report_file)
    return report


def _texts(source: Source) -> list[str]:
    """Return the texts on which transformers and llama.cpp must agree."""
    end, eos = source.tokens["endOfTurn"]["text"], token_text(source.base, source.tokens["eosTokenId"])
    return [*TEXTS, *with_control_tokens(sorted({text for text in (end, eos) if text}))]


def _prove(
    work: Work, llama: LlamaCpp, source: Source, report: Mapping[str, Any], skipped: list[str]
) -> list[ProbeFigures]:
    """Compare tokens and next-token probabilities of the finished file with those of training."""
    work.progress.note("comparing with the trained model")
    compared = [(text, ids) for text, ids in zip(_texts(source), report["ids"], strict=True) if text not in skipped]
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


def _outputs(
    work: Work, source: Source, gguf: GgufFile, report: Mapping[str, Any], skipped: list[str]
) -> dict[str, Any]:
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
        "method": METHOD,
        "outType": work.params["outType"],
        "tensors": len(gguf.tensors),
    }


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise StageError(ExitCode.MISSING_INPUT, f"{path} cannot be read: {error.strerror}") from error
