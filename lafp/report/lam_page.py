"""``lam_evaluation/report.html``: what z or a frozen encoder's features hold, on one page."""

from collections.abc import Sequence

from lafp import storage
from lafp.evaluate.latents.measurements import TRANSFER
from lafp.evaluate.latents.representations import LAM
from lafp.evaluate.rows.grouped import Results
from lafp.report.page import render_page
from lafp.report.sections import lary, pair_algebra, probe, swapped_backgrounds


def write_lam_page(
    uri: str, title: str, results: Results, findings: Sequence[str], model: str, shards: str
) -> str:
    """Writes the page into the folder ``uri`` and returns its path.

    Args:
        uri: The evaluation's folder.
        title: Title of the page.
        results: Rows of the evaluation.
        findings: What they mean, in sentences.
        model: URI of the latent action model, or folder of the frozen encoder.
        shards: URI of the labeled shard set.
    """
    is_lam = LAM in results.of_variant(results.variants[0], "probe_r2")
    kind = "latent action model" if is_lam else "frozen encoder"
    found = [
        probe.section(results, results.variants[0]),
        lary.regression_section(results),
        lary.classification_section(results),
        swapped_backgrounds.section(results),
        pair_algebra.algebra_section(results),
        pair_algebra.transfer_section(results, uri, TRANSFER),
    ]
    html = render_page(
        uri,
        title=title,
        kind=f"evaluation of a {kind}",
        lead=f"The {kind} at `{model}`, measured on the labeled clips of `{shards}`.",
        sections=[section for section in found if section],
        headlines={"": list(findings)},
    )
    path = storage.join(uri, "report.html")
    storage.write_text(path, html)
    return path
