"""Writes the results of a study: ``results.parquet``, tables, a plot, a page.

The sections of a study whose runs differ in their share of the labels are curves.
"""

from collections.abc import Mapping, Sequence

from markupsafe import Markup

from lafp import storage
from lafp.evaluate.rows.grouped import Results
from lafp.evaluate.rows.results import write_results
from lafp.report import charts
from lafp.report.blocks import Block, Figure, Heading, Note, Section, Table, Text
from lafp.report.drawings import Drawing
from lafp.report.headline import best_run, headline, headline_of_probes, sentence
from lafp.report.methods import policies
from lafp.report.page import render_page
from lafp.report.sections import curves, outcome, over_tasks, overview, result_sections
from lafp.report.table_text import write_tables


def write_study(
    uri: str,
    name: str,
    results: Results,
    *,
    missing: Mapping[str, str] | None = None,
    sharing: Mapping[str, tuple[int, int]] | None = None,
) -> dict[str, object]:
    """Writes the files of a study into its folder.

    Args:
        uri: Folder of the study.
        name: Name of the study, the title of its page.
        results: Results of the complete runs.
        missing: Run or stage -> the reason for which its results are missing.
        sharing: Job -> how often it was done, and how often it would be if runs shared nothing.

    Returns:
        A summary: what was found, in words, and where the page is. A study over shares of
        the labels names its best run too.
    """
    write_results(storage.join(uri, "results.parquet"), results.rows)
    labels = curves.over_labels(results)
    headlines = {
        variant or "": lines
        for variant in ([] if results.label_fractions else results.variants)
        if (lines := headline(results, variant))
    }
    of_probes = [] if results.label_fractions else headline_of_probes(results)
    if of_probes:
        headlines = {"": of_probes}
    of_variants = labels or _of_variants(results)
    shared = [] if labels else [s for s in (overview.section(results),) if s]
    tasks = [s for s in (over_tasks.section(results),) if s]
    told = headlines if of_probes or not shared else {}
    write_tables(uri, [*tasks, *(shared or of_variants)], told)
    if plot := _plot(results, shared or labels):
        storage.write_bytes(storage.join(uri, "plot.png"), plot.png())
    best = best_run(results) if labels else {}
    path = storage.join(uri, "report.html")
    notes = [f"Best run: {best['best']} ({best['best_run']})."] if best else []
    notes += [f"Not in the results: {run}: {why}" for run, why in (missing or {}).items()]
    runs = [run.rpartition("/")[2] for run in results.by_run]
    page = render_page(
        uri,
        title=name,
        kind="study",
        lead=f"{len(runs)} runs, seeds {', '.join(map(str, results.seeds))}. Intervals are "
        "95 %: Student's t over training seeds, and a bootstrap over seeds and episodes where that "
        "is wider. Differences are between the same seeds and episodes.",
        headlines=headlines,
        warnings=[Note(text=text) for text in notes],
        sections=[
            *tasks,
            *shared,
            *of_variants,
            *([] if labels else curves.over_methods(results)),
            *([_sharing(sharing)] if sharing else []),
            _links(runs),
        ],
    )
    storage.write_text(path, page)
    findings = [f"{variant or name}: {sentence(lines)}" for variant, lines in headlines.items()]
    return {"findings": findings, "report": path, **best}


def _of_variants(results: Results) -> list[Section]:
    """Makes one section per variant; for a single variant, a section per question."""
    found = {v: [s for s in result_sections(results, v) if s] for v in results.variants}
    if len(found) == 1:
        return next(iter(found.values()))
    folded = []
    for index, (variant, sections) in enumerate(found.items()):
        blocks: list[Block] = []
        for section in sections:
            # Explanations are the same in all variants: the first one has them.
            kept = [b for b in section.blocks if index == 0 or not isinstance(b, Text)]
            blocks += [Heading(text=section.title), *kept]
        name = variant or ""
        folded.append(Section(id=f"variant-{name}", short=name, title=name, blocks=blocks))
    return folded


def _plot(results: Results, sections: Sequence[Section]) -> Drawing | None:
    """Returns the first chart of the sections, or the outcomes of all variants side by side."""
    for section in sections:
        for block in section.blocks:
            if isinstance(block, Figure) and block.drawing:
                return block.drawing
    variants = [v for v in results.variants if policies(results, v, results.outcome)]
    if not variants:
        return None
    panels = [outcome.panel(results, variant, variant or "") for variant in variants]
    return charts.dots(panels, width_in=3.4 + 3.2 * min(3, len(panels)))


def _sharing(sharing: Mapping[str, tuple[int, int]]) -> Section:
    table = Table(
        head=["Job", "Computed", "Without sharing"],
        rows=[[job, str(once), str(each)] for job, (once, each) in sharing.items()],
        caption="What two runs would do alike is computed once, in the folder stages/.",
    )
    return Section(id="sharing", short="Sharing", title="What the runs share", blocks=[table])


def _links(runs: Sequence[str]) -> Section:
    links = [Markup('<a href="runs/{0}/report.html">{0}</a>').format(run) for run in runs]
    table = Table(head=["Run, with its own report"], rows=[[link] for link in links])
    return Section(id="runs", short="Runs", title="The runs", blocks=[table])
