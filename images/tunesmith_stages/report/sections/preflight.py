"""The section on what was proven before any training, by what `rehearse` left."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from tunesmith_stages.byte_size import size
from tunesmith_stages.contract import StageName
from tunesmith_stages.report.blocks import BAD, GOOD, NOTE, Block, Says, Section, Table
from tunesmith_stages.report.facts import Facts, Unit
from tunesmith_stages.report.reading import listed, mapping, number, text
from tunesmith_stages.report.shown import duration, line

_MOST_CHECKS = 40
_FAILED, _NOT_MADE, _PASSED = "✗ failed", "– not made", "✓ passed"
_ORDER = (_FAILED, _NOT_MADE, _PASSED)


def preflight(facts: Facts) -> Section:
    """Say what was checked, and what the training will take."""
    unit = facts.one(StageName.REHEARSE)
    report = mapping(facts.log(unit, "report.json")) if unit else {}
    if unit is None or not (report or unit.result):
        nothing = "There was no rehearsal of this job yet, or none was needed because its model was there already."
        return Section("preflight", "Preflight", (Says(nothing, NOTE),))
    on_gpus = mapping(unit.runtime.get("estimate")).get("gpusPerNode") != 0
    estimates = _estimates(mapping(report.get("estimates")), "GPU" if on_gpus else "process")
    blocks = [*_checks(report), *estimates, *_servers(unit, report)]
    return Section("preflight", "Preflight", tuple(blocks))


def _checks(report: Mapping[str, Any]) -> Iterator[Block]:
    checks = [mapping(item) for item in listed(report.get("checks"))]
    if not checks:
        return
    outcomes = [_outcome(check) for check in checks]
    failed, left = outcomes.count(_FAILED), outcomes.count(_NOT_MADE)
    if failed:
        yield Says(f"{failed} of {len(checks)} checks failed.", BAD)
    elif left:
        yield Says(f"{len(checks) - left} checks passed, {left} could not be made.", NOTE)
    else:
        yield Says(f"All {len(checks)} checks passed.", GOOD)
    rows = [
        (line(text(check.get("name")), 80), _outcome(check), line(text(check.get("sentence")), 400))
        for check in sorted(checks, key=lambda check: _ORDER.index(_outcome(check)))[:_MOST_CHECKS]
    ]
    yield Table(
        "Checks before the training", ("check", "outcome", "found"), rows, more=max(0, len(checks) - _MOST_CHECKS)
    )


def _outcome(check: Mapping[str, Any]) -> str:
    passed = check.get("passed", False)
    return _NOT_MADE if passed is None else _PASSED if passed is True else _FAILED


def _estimates(estimates: Mapping[str, Any], device: str) -> Iterator[Block]:
    rows = []
    needed, there = number(estimates.get("gpuMemoryBytes")), number(estimates.get("gpuMemoryOf"))
    if needed is not None:
        rows.append((f"memory of each {device}", size(needed), f"of {size(there)}" if there else "not known"))
        parts = {str(name): number(value) or 0.0 for name, value in mapping(estimates.get("parts")).items()}
        parts["everything else"] = needed - sum(parts.values())
        rows += [(f"of that, {line(name, 40)}", size(part), "") for name, part in parts.items() if part > 0]
    needed, there = number(estimates.get("diskBytes")), number(estimates.get("freeBytes"))
    if needed is not None:
        rows.append(("disk", size(needed), f"of {size(there)} free" if there is not None else ""))
    seconds = number(estimates.get("seconds"))
    if seconds is not None:
        rows.append(("time of the training", duration(seconds), ""))
    if rows:
        yield Table("Estimates", ("what", "needed", "there is"), rows[:20], frozenset({1}))


def _servers(unit: Unit, report: Mapping[str, Any]) -> Iterator[Block]:
    servers = mapping(report.get("servers")) or mapping(unit.result.outputs.get("servers") if unit.result else None)
    rows = [(line(str(name), 80), line(text(version) or "–", 80)) for name, version in list(servers.items())[:16]]
    if rows:
        yield Table("Ollama servers that took a model of this kind", ("server", "Ollama"), rows)
