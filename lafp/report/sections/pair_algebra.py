"""Shows whether z acts like a displacement: sums, reversals, S-PCFC, codes, other clips."""

from lafp import storage
from lafp.evaluate.latents.representations import LAM
from lafp.evaluate.rows.grouped import Results
from lafp.report import charts, drawings
from lafp.report.blocks import Block, Note, Section, Table, Text, chart, picture
from lafp.report.sections.probe import PROBED, side_by_side

_METRICS = {
    "additivity_error": "Error of sums",
    "reversal_error": "Error of reversals",
    "s_pcfc": "S-PCFC",
    "s_pcfc_centered": "S-PCFC, centred",
}
_OF_LAM = {
    "codebook_usage": "Codes in use, share",
    "codebook_perplexity": "Codebook perplexity",
    "transfer_error_own": "Error of z found again, own frame",
    "transfer_error": "Error of z found again, other clip",
}


def algebra_section(results: Results) -> Section | None:
    """Shows the errors of sums and reversals, and S-PCFC, of z and of its controls."""
    found = {name: results.of_variant(results.variants[0], name) for name in _METRICS}
    names = [name for name in PROBED if any(name in groups for groups in found.values())]
    if LAM not in names:
        return None
    panels, rows = side_by_side(found, names, _METRICS)
    return Section(
        id="algebra",
        short="Sums",
        title="Do latent actions add up and turn round?",
        blocks=[
            Text(
                text="Take three observations a, b, c of a clip. If z is a displacement, "
                "z(a, c) = z(a, b) + z(b, c) and z(b, a) = -z(a, b), but for a constant. A z that "
                "describes the second frame has neither."
            ),
            chart(
                charts.dots(panels, len(panels), width_in=drawings.PAGE_WIDTH_IN),
                alt="Errors of sums and reversals, and S-PCFC, with 95 % intervals.",
            ),
            Table(
                head=["Latents of two observations", *_METRICS.values()],
                rows=rows,
                emphasized=frozenset([0]),
                caption="Errors: squared, over the variance of what is predicted; 0 is exact, 1 no "
                "better than the mean. S-PCFC (CoMo): mean cosine of z from the past and from the "
                "future to the same frame; 1 where z describes that frame, below 0 where it tells "
                "a steady motion. Centred: without the constant that all latents share, which "
                "alone may bring the cosine to 1. A difference of pixels adds up exactly, so sums "
                "alone prove nothing: z is worth what its probe finds too. Intervals: 95 %, over "
                "episodes.",
            ),
        ],
    )


def transfer_section(results: Results, folder: str, picture_name: str) -> Section | None:
    """Shows z of clips on frames of other clips, and the numbers of the LAM alone."""
    rows = [
        [title, str(found[LAM].interval)]
        for name, title in _OF_LAM.items()
        if LAM in (found := results.of_variant(results.variants[0], name))
    ]
    blocks: list[Block] = []
    path = storage.join(folder, picture_name)
    if storage.is_file(path):
        blocks += [
            Text(
                text="Three rows for each clip. First: the clip. Second: its first frame, moved on "
                "by the forward model with the clip's own z. Third: a frame of another clip, moved "
                "on with the same z. If z is an action, the third row moves as the first does; if "
                "z describes frames, it turns into the first."
            ),
            picture(storage.read_bytes(path), alt="Clips, and z of them on other frames."),
        ]
    if rows:
        caption = (
            "z found again: inferred from a frame and the one that is predicted from it and z."
        )
        blocks.append(Table(head=["Latent action model", ""], rows=rows, caption=caption))
    if not blocks:
        return None
    if len(blocks) == 1:
        blocks.insert(0, Note(text="There are no predicted frames to show."))
    return Section(
        id="transfer", short="Transfer", title="What does z do elsewhere?", blocks=blocks
    )
