"""The report on a job: what was found, made and proven, read from the volume; a page of HTML, and text for a terminal.

It is made from what the stages left there, by the standard library alone, so that it can be made wherever the volume is
mounted. :func:`gather` reads, :func:`sections_of` says what there is to say, :func:`page_of` and :func:`text_of` show
it.
"""

from __future__ import annotations

from tunesmith_stages.path_name import is_name
from tunesmith_stages.report.facts import Facts, gather
from tunesmith_stages.report.page import keep_page, page_of
from tunesmith_stages.report.sections import sections_of
from tunesmith_stages.report.terminal import summary_of, text_of
from tunesmith_stages.report.verdict import Verdict, verdict_of

__all__ = [
    "Facts",
    "Verdict",
    "gather",
    "is_name",
    "keep_page",
    "page_of",
    "sections_of",
    "summary_of",
    "text_of",
    "verdict_of",
]
