"""Writes one self-contained page about two or more runs, side by side."""

from collections.abc import Sequence

from lafp import storage
from lafp.report.comparison import data, results, settings, training
from lafp.report.comparison.compared import Part, common_stages, open_runs
from lafp.report.page import render_page
from lafp.runs.wording import counted


def write_comparison(uris: Sequence[str], out: str) -> list[str]:
    """Compares runs, and writes the page to ``out``.

    Args:
        uris: Folders of the runs, local or S3. The others are compared with the first.
        out: URI of the page.

    Returns:
        Lines for the terminal. They bound their own number; the page holds the rest.

    Raises:
        ConfigError: A folder holds no run, is named twice, or the runs have no stage in common.
    """
    runs = open_runs(uris)
    names = common_stages(runs)
    candidates: list[Part | None] = [
        settings.stages_part(runs),
        settings.configs_part(runs),
        settings.versions_part(runs),
        *(data.part(runs, name) for name in names if name.startswith("shards/")),
        *training.parts(runs, names),
        *(results.part(runs, name) for name in names if name in results.STAGES),
    ]
    parts = [part for part in candidates if part]
    labels = [each.label for each in runs]
    page = render_page(
        ", ".join(uris),
        title=" and ".join(labels),
        kind="comparison",
        lead=f"{len(runs)} runs side by side. Compared: {counted(len(names), 'stage')} that all "
        "of them have.",
        sections=[part.section for part in parts],
        headlines={},
    )
    storage.write_text(out, page)
    return [f"runs: {' | '.join(labels)}", *(line for part in parts for line in part.lines)]
