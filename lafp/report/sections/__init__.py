"""The report's sections: each a function that returns a Section, or None without its data."""

from collections.abc import Callable, Sequence

from lafp.evaluate.results import Result
from lafp.report.blocks import Section
from lafp.report.sections import alignment, latents, result

RESULT_SECTIONS: list[Callable[[Sequence[Result]], Section | None]] = [
    result.success_section,
    alignment.section,
    result.latency_section,
    latents.probe_section,
]
"""The sections made from a run's results alone, in the order of the page."""
