"""The stage `quantize`: one GGUF in, one of the asked-for type out; a unit per type.

llama-quantize does the work. What it wrote is read back: the type, and that no tensor is missing. A type that needs
rows of a multiple of 256 silently gives way to another one where a tensor's rows are not; those tensors are named in
the result.

The GGUF is what `convert` made, or a base model that came as one. Such a file is taken as it is, but for a comment in
its chat template that keeps servers from replacing it (:mod:`~tunesmith_stages.chat_template`).
"""

from __future__ import annotations

if __name__ == "__main__":  # before what takes its time
    from tunesmith_stages.early_stop import stop_at_once

    stop_at_once()

import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tunesmith_stages.contract import ExitCode, StageName
from tunesmith_stages.gguf_file import FILE_TYPES, TEMPLATE, GgufFile, read_gguf, write_with_text
from tunesmith_stages.importance_matrix import FILE, ImportanceMatrix, importance_matrix
from tunesmith_stages.processors import usable_threads
from tunesmith_stages.program import Made, StageError, Work, main
from tunesmith_stages.quantization_source import Source, require_possible, source_of
from tunesmith_stages.quantization_types import NAMES, QUANTIZATION_TYPES
from tunesmith_stages.tools import LlamaCpp, llama_cpp, run_tool

_SIZE = re.compile(r"quant size\s*=\s*([0-9.]+) MiB")
_STEP = re.compile(r"^\[\s*(\d+)/\s*(\d+)\]", re.MULTILINE)
_FALLBACK = re.compile(r"^warning: (\S+)\s+- ncols\s+\d+ not divisible by.*?-> falling back to\s+(\S+)", re.MULTILINE)


def make(work: Work) -> Made:
    """Quantize a model to the type that the unit asks for."""
    kind = str(work.params["type"])
    if kind not in QUANTIZATION_TYPES:
        raise StageError(
            ExitCode.BAD_CONFIG,
            f"`type` must be one of {', '.join(NAMES)}, not {kind!r}",
            reason="UnknownQuantization",
        )
    llama = llama_cpp()
    source = source_of(work)
    is_it = source.gguf.metadata.get("general.file_type") == FILE_TYPES[kind]
    outputs: dict[str, Any] = {"type": kind, "fallbackTensors": {}}
    if is_it:
        work.progress.note(f"{kind} is what the model is already: taken as it is")
        _take(work, source)
    else:
        require_possible(source, kind, imatrix=bool(work.params.get("imatrix")))
        matrix = importance_matrix(work, llama, source.gguf) if work.params.get("imatrix") else None
        outputs |= _quantize(work, llama, source, kind, matrix)
    made = _checked(work.out / "model.gguf", source.gguf, kind)
    return Made(
        outputs=outputs,
        numbers={"bitsPerWeight": round(made.bits_per_weight, 3), "bytes": made.size},
        tools={"llama.cpp": llama.version},
    )


def _take(work: Work, source: Source) -> None:
    """Take the model as it is, but for the template that it must have."""
    if source.new_template is None:
        _link(source.gguf.path, work.out / "model.gguf")
    else:
        _retemplate(work, source.gguf, source.new_template)


def _retemplate(work: Work, made: GgufFile, template: str) -> None:
    _require_room_for(work, made.size, "the model with its template")
    write_with_text(made, work.out / "model.gguf", TEMPLATE, template)


def _link(source: Path, target: Path) -> None:
    """Make `target` the same file as `source`, or a copy where the file system has no hard links."""
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _quantize(
    work: Work, llama: LlamaCpp, source: Source, kind: str, matrix: ImportanceMatrix | None
) -> dict[str, Any]:
    """Run llama-quantize; return what the result says of it."""
    again = source.gguf.type_name == "Q8_0"
    options: list[str | Path] = ["--allow-requantize"] if again else []
    options += ["--imatrix", FILE] if matrix else []
    _require_space(work, llama, source.gguf, kind, options, matrix)
    if again:
        work.progress.note(f"the model was converted to Q8_0: {kind} adds its own loss to that of Q8_0")
    log_file = work.logs / "llama-quantize.log"
    target = (work.out if source.new_template is None else work.folder) / "model.gguf"
    work.progress.note(f"quantizing to {kind}")
    run_tool(
        [llama.quantize, *options, source.gguf.path, target, kind, str(usable_threads())],
        log_file,
        what=f"quantizing to {kind}",
        folder=matrix.folder if matrix else None,
        watch=lambda: _tell(work, log_file),
    )
    _tell(work, log_file)
    if source.new_template is not None:
        _retemplate(work, read_gguf(target), source.new_template)
        target.unlink()
    found: dict[str, Any] = {"fallbackTensors": _fallback(work, log_file, kind)}
    found |= {"requantizedFrom": source.gguf.type_name} if again else {}
    return found | ({"imatrix": matrix.as_output()} if matrix else {})


def _fallback(work: Work, log_file: Path, kind: str) -> dict[str, str]:
    """Return the tensors that got another type than `kind` asks for, with that type."""
    found = fallback_tensors(log_file.read_text(encoding="utf-8", errors="replace"))
    if found:
        types = ", ".join(sorted(set(found.values())))
        block = QUANTIZATION_TYPES[kind].block
        work.progress.note(f"{len(found)} tensors have rows that do not fit {kind} ({block} numbers); they are {types}")
    return found


def _require_space(
    work: Work,
    llama: LlamaCpp,
    source: GgufFile,
    kind: str,
    options: Sequence[str | Path],
    matrix: ImportanceMatrix | None,
) -> None:
    """Ask llama-quantize how large the file will be, and refuse if the disk has less.

    Raises:
        StageError: it has less, or a tensor's rows do not fit the type and llama.cpp has no other type for them.
    """
    log_file = work.logs / "llama-quantize-dry-run.log"
    argv = [llama.quantize, "--dry-run", *options, source.path, kind]
    try:
        run_tool(argv, log_file, what=f"asking for the size of {kind}", folder=matrix.folder if matrix else None)
    except StageError as error:
        if "no tensor type fallback" not in error.message:
            raise
        raise StageError(
            ExitCode.BAD_CONFIG,
            f"{kind} needs rows of a multiple of {QUANTIZATION_TYPES[kind].block} numbers; this model has others, and "
            "llama.cpp knows no other type for them",
            reason="QuantizationDoesNotFit",
            hint="Choose another type.",
        ) from None
    sizes = _SIZE.findall(log_file.read_text(encoding="utf-8", errors="replace"))
    _require_room_for(work, source.data_offset + int(float(sizes[-1]) * 2**20) if sizes else source.size, kind)


def _require_room_for(work: Work, needed: int, what: str) -> None:
    free = shutil.disk_usage(work.folder).free
    if needed > free:
        raise StageError(
            ExitCode.NO_SPACE,
            f"{what} needs {needed / 2**30:.2f} GiB on the volume and {free / 2**30:.2f} GiB are free",
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
    if made.is_cut:
        raise StageError(ExitCode.GATE_FAILED, f"{target.name} ends before its tensors do", reason="GgufDiffers")
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
