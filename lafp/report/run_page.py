"""``report.html``: a finished (or half finished) run, told on one self-contained page.

Reads the run directory only, local or S3. Each section appears when its stage is complete. Images
are data URIs and nothing is fetched, so the file can be mailed and opens offline.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from lafp import storage
from lafp.config import ConfigError
from lafp.evaluate.results import Result
from lafp.evaluate.run_record import RunRecord
from lafp.report.blocks import Note, Section
from lafp.report.sections import (
    RESULT_SECTIONS,
    data,
    latents,
    result,
    rollouts,
    run_facts,
    training,
)


@dataclass(frozen=True, kw_only=True)
class ReportConfig:
    """What the report says beyond what the run's stages measured."""

    title: str | None = None
    """Heading of the page; the run's name if null."""


def write_report(cfg: ReportConfig, run_uri: str) -> dict[str, Any]:
    """Writes ``report.html`` into the run's folder.

    Args:
        cfg: See ``ReportConfig``.
        run_uri: The run's folder, local or S3.

    Returns:
        The stage's summary: the report's path, its size, its sections, and the headline.

    Raises:
        ConfigError: No stage of the run is complete.
    """
    run = RunRecord.read(run_uri)
    if not any(stage.summary for stage in run.stages):
        raise ConfigError(f"No stage of {run_uri} is complete: there is nothing to report yet.")
    rows, views = result.load_results(run), latents.load_views(run)
    headline = result.headline(rows, result.load_outcomes(run)) or latents.headline(rows, views)
    sections = _sections(run, rows, views)
    lam = run.complete("lam")
    html = render_page(
        run_uri,
        title=cfg.title or run.name,
        eyebrow="lafp run report",
        lead=run_facts.in_words(run),
        facts=run_facts.facts(run),
        headline=headline,
        warnings=latents.warnings(rows, views, lam.summary or {} if lam else {}),
        sections=sections,
    )
    path = storage.join(run_uri, "report.html")
    storage.write_text(path, html)
    return {
        "report": path,
        "num_bytes": len(html.encode()),
        "sections": [section.id for section in sections],
        "headline": headline or "",
    }


def _sections(run: RunRecord, rows: list[Result], views: dict[str, Any] | None) -> list[Section]:
    outcome, alignment, *others = [section(rows) for section in RESULT_SECTIONS]
    candidates = [
        outcome,
        alignment,
        rollouts.section(run, rows),
        *others,
        latents.views_section(run, views),
        *data.sections(run),
        training.section(run),
        run_facts.time_section(run),
        run_facts.files_section(run),
    ]
    return [section for section in candidates if section]


def render_page(
    uri: str,
    *,
    title: str,
    eyebrow: str,
    lead: str,
    sections: Sequence[Section],
    warnings: Sequence[Note] = (),
    facts: Sequence[tuple[str, str]] = (),
    headline: str | None = None,
) -> str:
    """The page that reports of runs, studies and sweeps share, as HTML.

    Args:
        uri: Folder that it is about.
        title: In the largest letters.
        eyebrow: What kind of page it is.
        lead: One paragraph.
        sections: What there is to see.
        warnings: What a reader must know first.
        facts: Of a run.
        headline: Its result in a sentence.
    """
    environment = Environment(
        loader=PackageLoader("lafp.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["code"] = _code
    return environment.get_template("report.html.j2").render(
        title=title,
        eyebrow=eyebrow,
        uri=uri,
        version=version("lafp"),
        css=Markup(files("lafp.report").joinpath("templates/report.css").read_text()),
        lead=lead,
        facts=facts,
        headline=headline,
        warnings=warnings,
        sections=sections,
    )


def _code(text: str | Markup) -> Markup:
    """`Text` in backticks as code; everything else is escaped unless it is markup already."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))
