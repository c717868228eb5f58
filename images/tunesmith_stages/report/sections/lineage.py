"""The section on what everything was made from, and by what."""

from __future__ import annotations

from collections.abc import Iterator

from tunesmith_stages.byte_size import size
from tunesmith_stages.contract import StageName
from tunesmith_stages.report.blocks import NOTE, Block, Code, Folded, Says, Section, Table
from tunesmith_stages.report.facts import Facts, Unit
from tunesmith_stages.report.reading import mapping, text
from tunesmith_stages.report.shown import count, line, moment, shown
from tunesmith_stages.report.verdict import place_of

_MOST_UNITS = 60
_YAML = 20_000


def lineage(facts: Facts) -> Section:
    """Say where everything is from: sources, keys, recipes, digests, tools, seeds, and the job's text."""
    blocks = [*_sources(facts), *_units(facts), *_tools(facts), *_seeds(facts), *_yaml(facts)]
    return Section("lineage", "Lineage", tuple(blocks))


def _sources(facts: Facts) -> Iterator[Block]:
    rows = []
    for unit in facts.of(StageName.FETCH)[:_MOST_UNITS]:
        outputs = mapping(unit.result.outputs if unit.result else None)
        source = unit.config.params.get("source")
        version = text(outputs.get("commit")) or text(outputs.get("revision")) or _version(unit)
        made = (
            (unit.result.digest, size(unit.result.bytes), count(len(unit.result.files))) if unit.result else ("–",) * 3
        )
        rows.append((line(unit.name, 80), place_of(source), line(version, 80) or "–", *made))
    if rows:
        head = ("source", "from", "version", "digest (sha256)", "size", "files")
        yield Table("Sources", head, rows, frozenset({4, 5}))
    else:
        yield Says("No source has been fetched yet.", NOTE)


def _version(unit: Unit) -> str:
    """Return the version of a source by its key's parameters: a commit, or what changes with the files of a volume."""
    return text(unit.config.params.get("refresh"))


def _units(facts: Facts) -> Iterator[Block]:
    units = [unit for stage in StageName for unit in facts.of(stage)]
    rows = []
    for unit in units[:_MOST_UNITS]:
        made = unit.result
        by = "" if unit.job == facts.job else f", for the job {line(unit.job, 80)}"
        rows.append(
            (
                unit.stage,
                line(unit.name, 80),
                unit.config.key,
                str(made.recipe) if made else "–",
                made.digest if made else "not made",
                (moment(made.finished) + by) if made else "–",
            )
        )
    if rows:
        head = ("stage", "unit", "content key", "recipe", "digest (sha256)", "made")
        yield Table("Units of work", head, rows, frozenset({3}), max(0, len(units) - _MOST_UNITS))


def _tools(facts: Facts) -> Iterator[Block]:
    found: dict[tuple[str, str], list[str]] = {}
    for unit in facts.units.values():
        for name, version in sorted(mapping(unit.result.tools if unit.result else None).items()):
            found.setdefault((line(name, 60), line(text(version), 80)), []).append(unit.stage)
    rows = [
        (name, version, ", ".join(stage for stage in StageName if stage in stages))
        for (name, version), stages in sorted(found.items())
    ]
    if rows:
        yield Table("Tools", ("tool", "version", "used by"), rows[:_MOST_UNITS])


def _seeds(facts: Facts) -> Iterator[Block]:
    seeds = {
        stage: text(unit.config.params["seed"])
        for stage in (StageName.PREPARE, StageName.TRAIN)
        for unit in facts.of(stage)
        if "seed" in unit.config.params
    }
    if seeds:
        yield Says("Seeds: " + ", ".join(f"{stage} {shown(seed, 40)}" for stage, seed in seeds.items()) + ".")


def _yaml(facts: Facts) -> Iterator[Block]:
    if facts.yaml:
        yield Folded("The FineTuneJob", (Code("As it was given", shown(facts.yaml, _YAML)),))
    else:
        yield Says("The FineTuneJob's text is not kept on this volume; the cluster has it.", NOTE)
