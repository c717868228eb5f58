"""The section on what was made and how large it is."""

from __future__ import annotations

from collections.abc import Iterator

from tunesmith_stages.byte_size import size
from tunesmith_stages.contract import StageName
from tunesmith_stages.report.blocks import NOTE, Bars, Block, Items, Says, Section, Table
from tunesmith_stages.report.facts import Facts, Unit
from tunesmith_stages.report.reading import mapping, number, text
from tunesmith_stages.report.shown import count, figure, line, shown

_MOST_TENSORS = 20


def sizes(facts: Facts) -> Section:
    """Say how large the GGUF, each quantization, and what was trained are."""
    quantized = [unit for unit in facts.of(StageName.QUANTIZE) if unit.result]
    converted = [unit for unit in facts.of(StageName.CONVERT) if unit.result]
    if not quantized and not converted:
        return Section("sizes", "Sizes", (Says("No model file has been made yet.", NOTE),))
    made = [*converted, *sorted(quantized, key=lambda unit: -_bytes(unit))]
    names = {unit.name: _name(unit) for unit in made}
    rows = [_row(unit) for unit in [*facts.of(StageName.TRAIN), *made] if unit.result]
    parts = ", ".join(f"{names[unit.name]} {size(_bytes(unit))}" for unit in made)
    bars = Bars(
        "Size of each model file",
        f"Sizes: {parts}.",
        [(names[unit.name], float(_bytes(unit)), size(_bytes(unit))) for unit in made],
    )
    head = ("file", "size", "bytes", "bits per weight", "of the unquantized")
    table = Table("What was made", head, _with_shares(rows, converted), frozenset({1, 2, 3, 4}))
    return Section("sizes", "Sizes", (bars, table, *_remarks(made), *_fallbacks(quantized), *_how(converted)))


def _remarks(made: list[Unit]) -> Iterator[Block]:
    """Say of each file what is out of the ordinary about how it was made."""
    for unit in made:
        outputs = mapping(unit.result.outputs if unit.result else None)
        matrix, again = mapping(outputs.get("imatrix")), text(outputs.get("requantizedFrom"))
        if matrix:
            tokens, samples = count(number(matrix.get("tokens"))), count(number(matrix.get("samples")))
            yield Says(f"{_name(unit)}: weighed by an importance matrix of {tokens} tokens from {samples} samples.")
        if again:
            yield Says(f"{_name(unit)}: made from {line(again, 20)}, which had been quantized before.", NOTE)
        if outputs.get("keepsMerged") is True:
            yield Says("The merged model is kept beside the GGUF, as safetensors.")


def _bytes(unit: Unit) -> int:
    return unit.result.bytes if unit.result else 0


def _name(unit: Unit) -> str:
    if unit.stage is StageName.CONVERT:
        return f"GGUF {line(text(unit.config.params.get('outType')), 20)}".rstrip()
    if unit.stage is StageName.TRAIN:
        adapter = unit.config.params.get("lora") is not None
        return "trained adapter" if adapter else "trained weights"
    return line(unit.name, 20)


def _row(unit: Unit) -> tuple[str, str, str, str, int]:
    bits = number(unit.figures.get("bitsPerWeight"))
    return _name(unit), size(_bytes(unit)), count(_bytes(unit)), figure(bits), _bytes(unit)


def _with_shares(rows: list[tuple[str, str, str, str, int]], converted: list[Unit]) -> list[tuple[str, ...]]:
    whole = _bytes(converted[0]) if converted else 0
    return [(*row[:4], f"{row[4] / whole:.0%}" if whole and not row[0].startswith("trained") else "–") for row in rows]


def _fallbacks(quantized: list[Unit]) -> Iterator[Block]:
    for unit in quantized:
        tensors = mapping(unit.result.outputs.get("fallbackTensors") if unit.result else None)
        if tensors:
            items = [f"{line(str(name), 120)}: {line(text(kind), 20)}" for name, kind in sorted(tensors.items())]
            caption = f"{shown(unit.name, 20)}: tensors of another type, because their rows do not fit it"
            yield Items(caption, items[:_MOST_TENSORS], max(0, len(items) - _MOST_TENSORS))


def _how(converted: list[Unit]) -> Iterator[Block]:
    for unit in converted:
        outputs = mapping(unit.result.outputs if unit.result else None)
        rows = [
            (words, line(text(outputs.get(name)), 300)) for name, words in _FACTS.items() if text(outputs.get(name))
        ]
        if rows:
            yield Table("The GGUF", ("property", "value"), rows)


_FACTS = {
    "architecture": "architecture",
    "ggufArchitecture": "llama.cpp's name of it",
    "contextLength": "longest context, in tokens",
    "vocabSize": "vocabulary, in tokens",
    "path": "way of conversion",
    "pathReason": "why this way",
}
