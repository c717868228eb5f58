"""What a report says, section by section; each module is about what one or two stages left."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tunesmith_stages.report.blocks import Section
from tunesmith_stages.report.facts import Facts
from tunesmith_stages.report.sections.course import course
from tunesmith_stages.report.sections.data import data
from tunesmith_stages.report.sections.lineage import lineage
from tunesmith_stages.report.sections.preflight import preflight
from tunesmith_stages.report.sections.proof import proof
from tunesmith_stages.report.sections.sizes import sizes
from tunesmith_stages.report.sections.training import training

_SECTIONS: Sequence[Callable[[Facts], Section]] = (course, data, preflight, training, sizes, proof, lineage)


def sections_of(facts: Facts) -> list[Section]:
    """Return all sections, in the order of the stages. What is missing is said in words."""
    return [section(facts) for section in _SECTIONS]
