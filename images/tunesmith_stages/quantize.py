"""The stage `quantize`: one GGUF of 16-bit weights in, one of the asked-for type out; a unit per type.

llama-quantize does the work. What it wrote is read back: the type, and that no tensor is missing. A type that needs
rows of a multiple of 256 silently gives way to another one where a tensor's rows are not; those tensors are named in
the result.
"""

from __future__ import annotations

if __name__ == "__main__":  # before what takes its time
    from tunesmith_stages.early_stop import stop_at_once

    stop_at_once()

import os
import re
import shutil
from pathlib import Path

from tunesmith_stages.contract import ExitCode, StageName
from tunesmith_stages.gguf_file import FILE_TYPES, GgufFile, read_gguf
from tunesmith_stages.program import Made, StageError, Work, main
from tunesmith_stages.tools import LlamaCpp, llama_cpp, run_tool

_SIZE = re.compile(r"quant size\s*=\s*([0-9.]+) MiB")
_STEP = re.compile(r"^\[\s*(\d+)/\s*(\d+)\]", re.MULTILINE)
_FALLBACK = re.compile(r"^warning: (\S+)\s+- ncols\s+\d+ not divisible by.*?-> falling back to\s+(\S+)", re.MULTILINE)


def make(work: Work) -> Made:
    """Quantize the converted model."""
    kind = str(work.params["type"])
    if kind not in FILE_TYPES:
        raise StageError(
            ExitCode.BAD_CONFIG,
            f"`type` must be one of {', '.join(sorted(FILE_TYPES))}, not {kind!r}",
            reason="UnknownQuantization",
        )
    llama = llama_cpp()
    source = read_gguf(work.input("converted") / "model.gguf")
    target = work.out / "model.gguf"
    if source.metadata.get("general.file_type") == FILE_TYPES[kind]:
        work.progress.note(f"{kind} is what the model was converted to: taken as it is")
        _link(source.path, target)
        fallback: dict[str, str] = {}
    else:
        fallback = _quantize(work, llama, source, target, kind)
    made = _checked(target, source, kind)
    return Made(
        outputs={"type": kind, "fallbackTensors": fallback},
        numbers={"bitsPerWeight": round(made.bits_per_weight, 3), "bytes": made.size},
        tools={"llama.cpp": llama.version},
    )


def _link(source: Path, target: Path) -> None:
    """Make `target` the same file as `source`, or a copy where the file system has no hard links."""
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _quantize(work: Work, llama: LlamaCpp, source: GgufFile, target: Path, kind: str) -> dict[str, str]:
    """Run llama-quantize; return the tensors that got another type than `kind` asks for, with that type."""
    _require_space(work, llama, source, kind)
    log_file = work.logs / "llama-quantize.log"
    threads = str(len(os.sched_getaffinity(0)))
    work.progress.note(f"quantizing to {kind}")
    run_tool(
        [llama.quantize, source.path, target, kind, threads],
        log_file,
        what=f"quantizing to {kind}",
        watch=lambda: _tell(work, log_file),
    )
    _tell(work, log_file)
    fallback = fallback_tensors(log_file.read_text(encoding="utf-8", errors="replace"))
    if fallback:
        types = ", ".join(sorted(set(fallback.values())))
        work.progress.note(f"{len(fallback)} tensors have rows that do not fit {kind}; they became {types}")
    return fallback


def _require_space(work: Work, llama: LlamaCpp, source: GgufFile, kind: str) -> None:
    """Ask llama-quantize how large the file will be, and refuse if the disk has less."""
    log_file = work.logs / "llama-quantize-dry-run.log"
    run_tool([llama.quantize, "--dry-run", source.path, kind], log_file, what=f"asking for the size of {kind}")
    sizes = _SIZE.findall(log_file.read_text(encoding="utf-8", errors="replace"))
    needed = source.data_offset + int(float(sizes[-1]) * 2**20) if sizes else source.size
    free = shutil.disk_usage(work.folder).free
    if needed > free:
        raise StageError(
            ExitCode.NO_SPACE,
            f"{kind} needs {needed / 2**30:.2f} GiB on the volume and {free / 2**30:.2f} GiB are free",
        )


def _tell(work: Work, log_file: Path) -> None:
    steps = _STEP.findall(log_file.read_text(encoding="utf-8", errors="replace"))
    if steps:
        work.progress.count(int(steps[-1][0]), int(steps[-1][1]), "tensors")


def fallback_tensors(log: str) -> dict[str, str]:
    """Return the tensors that llama-quantize says it could not give the wanted type, and the type they got."""
    return dict(_FALLBACK.findall(log))


def _checked(target: Path, source: GgufFile, kind: str) -> GgufFile:
    """Read the new file back.

    Raises:
        StageError: it is not a GGUF, not of the type asked for, or has not the tensors that it should have.
    """
    try:
        made = read_gguf(target)
    except (OSError, ValueError) as error:
        raise StageError(
            ExitCode.GATE_FAILED, f"what llama-quantize wrote cannot be read: {error}", reason="GgufDiffers"
        ) from error
    file_type = made.metadata.get("general.file_type")
    if file_type != FILE_TYPES[kind]:
        raise StageError(
            ExitCode.GATE_FAILED,
            f"the file's type is {file_type}; {kind} is {FILE_TYPES[kind]}",
            reason="GgufDiffers",
        )
    lost = {tensor.name for tensor in source.tensors} ^ {tensor.name for tensor in made.tensors}
    if lost:
        raise StageError(
            ExitCode.GATE_FAILED,
            f"{len(made.tensors)} tensors were written and {len(source.tensors)} expected; these differ: "
            f"{', '.join(sorted(lost)[:5])}",
            reason="GgufDiffers",
        )
    return made


if __name__ == "__main__":
    main(StageName.QUANTIZE, make)
