"""Writes ``report.html``: one self-contained page about a run, finished or not.

Reads the run directory only, local or S3. Each section appears when its stage is complete.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from lafp import storage
from lafp.config import ConfigError
from lafp.evaluate.latents.latent_views import LatentViews
from lafp.evaluate.rows.grouped import Results, read_run
from lafp.report.blocks import Section
from lafp.report.headline import headline, headline_of_latents, sentence, warnings
from lafp.report.page import render_page
from lafp.report.sections import (
    data,
    latent_map,
    latents,
    result_sections,
    rollouts,
    run_facts,
    training,
)
from lafp.report.table_text import write_tables
from lafp.report.training_findings import over_training
from lafp.runs.run_dir import RunDir, StageDir
from lafp.train.metrics.log import read_metrics


@dataclass(frozen=True, kw_only=True)
class ReportConfig:
    """Settings of the report."""

    title: str | None = None
    """Heading of the page; the run's name if null."""


def write_report(cfg: ReportConfig, run_uri: str) -> dict[str, object]:
    """Writes ``report.html`` into the run's folder, and the tables of an evaluation beside it.

    Args:
        cfg: Settings of the report.
        run_uri: The run's folder, local or S3.

    Returns:
        The stage's summary: the report's path, its size, its sections, and the headline.

    Raises:
        ConfigError: No stage of the run is complete.
    """
    run = RunDir(run_uri)
    stages = run.begun_stages()
    if not any(stage.is_complete() for stage in stages):
        raise ConfigError(f"No stage of {run_uri} is complete: there is nothing to report yet.")
    is_evaluated = run.complete("evaluation") is not None
    results = read_run(run) if is_evaluated else Results(by_run={}, outcomes={})
    views = latents.load_views(run)
    lam = run.complete("lam")
    summary = lam.summary() | over_training(read_metrics(lam.uri)) if lam else {}
    lines = headline(results, results.variants[0]) or headline_of_latents(results, views, summary)
    of_results = result_sections(results, results.variants[0])
    if is_evaluated:
        write_tables(run_uri, [s for s in of_results if s], {"": lines} if lines else {})
    sections = _sections(run, stages, results, of_results, views)
    html = render_page(
        run_uri,
        title=cfg.title or run.name,
        kind="run",
        lead=run_facts.in_words(run, stages, results),
        facts=run_facts.facts(stages),
        headlines={"": lines} if lines else {},
        warnings=warnings(results, views, summary),
        sections=sections,
    )
    path = storage.join(run_uri, "report.html")
    storage.write_text(path, html)
    return {
        "report": path,
        "num_bytes": len(html.encode()),
        "sections": [section.id for section in sections],
        "headline": sentence(lines) if lines else "",
    }


def _sections(
    run: RunDir,
    stages: Sequence[StageDir],
    results: Results,
    of_results: Sequence[Section | None],
    views: LatentViews | None,
) -> list[Section]:
    outcome, *others = of_results
    candidates = [
        outcome,
        rollouts.section(run, results),
        *others,
        latent_map.section(run),
        latents.views_section(run, views),
        *data.sections(run),
        training.section(run),
        run_facts.time_section(stages),
        run_facts.files_section(stages),
    ]
    return [section for section in candidates if section]
