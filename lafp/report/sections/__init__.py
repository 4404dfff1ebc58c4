"""Sections of a page: each is a function that returns a Section, or None without its data."""

from collections.abc import Callable

from lafp.evaluate.rows.grouped import Results
from lafp.report.blocks import Section
from lafp.report.sections import alignment, latency, outcome, per_task, probe

RESULT_SECTIONS: list[Callable[[Results, str | None], Section | None]] = [
    outcome.section,
    per_task.section,
    alignment.section,
    latency.section,
    probe.section,
]
"""Sections made from results alone, in the order of a page. Runs and studies have the same ones."""


def result_sections(results: Results, variant: str | None) -> list[Section | None]:
    """Makes the sections about the results of one variant."""
    return [section(results, variant) for section in RESULT_SECTIONS]
