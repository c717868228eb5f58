"""The importance matrix of a converted model: which of its inputs matter for text like that of the training.

llama-imatrix runs the model on samples of the training data and sums up the squares of what goes into each matrix;
llama-quantize spends its bits accordingly. It is computed once for a model, its data and a release of llama.cpp, and
kept on the volume by these: further types, later attempts and other jobs take it from there.
"""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tunesmith_stages.contract import ExitCode, digest_of
from tunesmith_stages.gguf_file import GgufFile, read_gguf
from tunesmith_stages.processors import usable_threads
from tunesmith_stages.program import StageError, Work
from tunesmith_stages.tools import LlamaCpp, run_tool
from tunesmith_stages.volume import publish, sha256_of, sync, write_whole

FILE = "imatrix.gguf"
_RECORD = "imatrix.json"
_SAMPLES = "samples.txt"

_RECIPE = 1
"""Raise it when another matrix comes of the same inputs."""
_CHUNK = 512
"""Tokens that are looked at together; llama-imatrix's own default."""
_CHUNKS = 128
"""How many chunks are looked at: 65,536 tokens."""
_FEWEST_CHUNKS = 32
_FULL_SAMPLE_UP_TO = 8_000_000_000
"""Weights of a model for which all chunks are looked at; of larger ones fewer, so that it takes no longer."""
_SPARE = 3
"""llama-imatrix wants two chunks at least, and may split the text into fewer tokens than training did."""

_DONE = re.compile(r"\[(\d+)\][0-9.a-z-]+,")


@dataclass(frozen=True)
class ImportanceMatrix:
    """A matrix on the volume."""

    folder: Path
    chunks: int
    chunk_tokens: int
    samples: int
    """Rows of the training data that it was computed on."""

    def as_output(self) -> dict[str, int]:
        """Return what the result says of it."""
        return {"chunks": self.chunks, "tokens": self.chunks * self.chunk_tokens, "samples": self.samples}


@dataclass(frozen=True)
class _Record:
    """What is kept beside the matrix."""

    sha256: str
    chunks: int
    chunk_tokens: int
    samples: int


def importance_matrix(work: Work, llama: LlamaCpp, source: GgufFile) -> ImportanceMatrix:
    """Return the matrix of the converted model `source`, computed if it is not on the volume yet.

    Needs the unit's inputs `converted`, `base` (its tokenizer) and `prepared` (the samples).

    Raises:
        StageError: llama-imatrix is missing or failed, there are no samples, or the disk is full.
    """
    inputs = {role: work.unit.inputs[role].digest for role in ("converted", "base", "prepared")}
    folder = work.volume.importance_matrix(digest_of([_RECIPE, inputs, llama.version]))
    found = _found(folder)
    if found is not None:
        work.progress.note("the importance matrix of this model is there already")
        work.volume.note_use(folder)
        return found
    making = work.folder / "imatrix"
    shutil.rmtree(making, ignore_errors=True)
    making.mkdir()
    _make(work, llama, source, making)
    publish(making, folder, lambda: _found(folder) is not None)
    found = _found(folder)
    if found is None:
        raise StageError(ExitCode.INTERNAL, f"{folder} was written and cannot be read")
    return found


def _found(folder: Path) -> ImportanceMatrix | None:
    """Return the matrix that lies in `folder`; None if there is none, or not the one that was written."""
    try:
        record = _Record(**json.loads((folder / _RECORD).read_text(encoding="utf-8")))
        if sha256_of(folder / FILE) != record.sha256:
            return None
    except (OSError, ValueError, TypeError):
        return None
    return ImportanceMatrix(folder, record.chunks, record.chunk_tokens, record.samples)


def _make(work: Work, llama: LlamaCpp, source: GgufFile, folder: Path) -> None:
    if not llama.imatrix.is_file():
        raise StageError(
            ExitCode.MISSING_INPUT,
            f"llama.cpp's tools in {llama.folder} lack llama-imatrix, which computes importance matrices",
            reason="ToolchainMissing",
            hint="Run `make toolchain`, or use images of the chart's version.",
        )
    _require_space(work, source)
    chunk = min(_CHUNK, int(source.own("context_length") or _CHUNK))
    chunks = chunks_for(sum(tensor.elements for tensor in source.tensors))
    work.progress.note("computing the importance matrix")
    rows = _write_samples(work, folder / _SAMPLES, at_least=_SPARE * chunk, at_most=chunks * chunk)
    _run(work, llama, source, folder, chunk, chunks)
    (folder / _SAMPLES).unlink()
    looked_at = chunks_in(folder / FILE, chunk)
    sync(folder / FILE)
    record = _Record(sha256_of(folder / FILE), looked_at, chunk, rows)
    write_whole(folder / _RECORD, json.dumps(asdict(record), indent=2) + "\n")


def chunks_in(matrix: Path, chunk: int) -> int:
    """Return how many chunks a file of llama-imatrix was computed on.

    Raises:
        StageError: it is cut short, or not of chunks of `chunk` tokens.
    """
    file = read_gguf(matrix)
    if file.is_cut:  # llama-imatrix takes no notice of a full disk; a matrix is kept, so a part of one must not be
        raise StageError(
            ExitCode.INTERNAL, "llama-imatrix wrote a file that ends before its numbers do", reason="ToolFailed"
        )
    count, size = (file.metadata.get(f"imatrix.{key}") for key in ("chunk_count", "chunk_size"))
    if size != chunk or not count:
        raise StageError(
            ExitCode.GATE_FAILED,
            f"llama-imatrix was to look at chunks of {chunk} tokens; its file says {count} of {size}",
            reason="ImatrixFailed",
        )
    return int(count)


def chunks_for(weights: int) -> int:
    """Return how many chunks are looked at in a model of so many weights, so that the time for it has a bound."""
    return max(_FEWEST_CHUNKS, min(_CHUNKS, _CHUNKS * _FULL_SAMPLE_UP_TO // max(weights, 1)))


def _require_space(work: Work, source: GgufFile) -> None:
    """Check that the disk holds the matrix: four bytes for each column of each matrix of a block."""
    matrices = (tensor.shape for tensor in source.tensors if tensor.name.startswith("blk.") and len(tensor.shape) > 1)
    needed = sum(4 * shape[0] * math.prod(shape[2:]) for shape in matrices)
    free = shutil.disk_usage(work.folder).free
    if needed > free:
        raise StageError(
            ExitCode.NO_SPACE,
            f"the importance matrix needs {needed / 2**20:.1f} MiB on the volume and {free / 2**20:.1f} MiB are free",
        )


def _run(work: Work, llama: LlamaCpp, source: GgufFile, folder: Path, chunk: int, chunks: int) -> None:
    log_file = work.logs / "llama-imatrix.log"
    argv: list[str | Path] = [llama.imatrix, "--model", source.path, "--file", _SAMPLES, "--output-file", FILE]
    argv += ["--parse-special", "--chunks", str(chunks)]
    # One chunk at a time: the probabilities of all its tokens are held in memory.
    argv += [word for name in ("ctx", "batch", "ubatch") for word in (f"--{name}-size", str(chunk))]
    argv += ["--threads", str(usable_threads()), "--device", "none", "--offline"]

    def tell() -> None:
        done = _DONE.findall(log_file.read_text(encoding="utf-8", errors="replace"))
        if done:
            work.progress.count(min(int(done[-1]), chunks), chunks, "chunks")

    # Names without a folder, because llama-quantize writes them into the file that it makes.
    run_tool(argv, log_file, what="computing the importance matrix", folder=folder, watch=tell)


# --- the samples -----------------------------------------------------------------------------------------------------


def _write_samples(work: Work, path: Path, *, at_least: int, at_most: int) -> int:
    """Write text of rows from all over the training data; return how many rows it is of.

    If there are fewer than `at_least` tokens, they are written over and over: that changes no mean.
    """
    texts, tokens = [], 0
    decode = _decoder(work.input("base"))
    for ids in spread_rows(work.input("prepared") / "train.arrow"):
        texts.append(decode(ids))
        tokens += len(ids)
        if tokens >= at_most:
            break
    if not tokens:
        raise StageError(
            ExitCode.BAD_DATA,
            "an importance matrix is computed on samples of the training data, and there are none",
            reason="NoSamples",
        )
    path.write_text("\n".join(texts * math.ceil(at_least / tokens)), encoding="utf-8")
    return len(texts)


def spread_rows(path: Path) -> Iterator[list[int]]:
    """Yield the token ids of every row of an Arrow file once, in an order that visits all its parts early."""
    import pyarrow as pa

    with pa.memory_map(str(path)) as file:
        column = pa.ipc.open_file(file).read_all().column("input_ids")
        count = len(column)
        # Steps of the golden section fall evenly at any length; one without a common divisor visits each row once.
        step = max(1, round(count * 0.618))
        while math.gcd(step, count) > 1:
            step += 1
        for number in range(count):
            yield column[number * step % count].as_py()


def _decoder(base: Path) -> Any:
    """Return a function from token ids to their text, control tokens included."""
    if (base / "tokenizer.json").is_file():
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_file(str(base / "tokenizer.json"))
        return lambda ids: tokenizer.decode(ids, skip_special_tokens=False)
    from transformers import AutoTokenizer

    slow = AutoTokenizer.from_pretrained(base, local_files_only=True, trust_remote_code=False)
    return lambda ids: slow.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
