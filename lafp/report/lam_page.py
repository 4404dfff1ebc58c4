"""``lam_evaluation/report.html``: what a latent action model's z holds, on one page."""

from collections.abc import Sequence

from lafp import storage
from lafp.evaluate.grouped import Results
from lafp.evaluate.lam_evaluation import TRANSFER
from lafp.report.page import render_page
from lafp.report.sections import pair_algebra, probe


def write_lam_page(
    uri: str, title: str, results: Results, findings: Sequence[str], lam: str, shards: str
) -> str:
    """Writes the page into the folder ``uri`` and returns its path.

    Args:
        uri: The evaluation's folder.
        title: Title of the page.
        results: Rows of the evaluation.
        findings: What they mean, in sentences.
        lam: URI of the latent action model.
        shards: URI of the labeled shard set.
    """
    found = [
        probe.section(results, results.variants[0]),
        pair_algebra.algebra_section(results),
        pair_algebra.transfer_section(results, uri, TRANSFER),
    ]
    html = render_page(
        uri,
        title=title,
        kind="evaluation of a latent action model",
        lead=f"The latent action model at `{lam}`, measured on the labeled clips of `{shards}`.",
        sections=[section for section in found if section],
        headlines={"": list(findings)},
    )
    path = storage.join(uri, "report.html")
    storage.write_text(path, html)
    return path
