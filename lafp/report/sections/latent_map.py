"""Pictures of latent actions: the LAM's beside those of the policies, coloured by action."""

from collections.abc import Sequence
from typing import Any

from lafp.evaluate.acting.latent_map import IDM
from lafp.report import distributions
from lafp.report.blocks import Block, Section, Text, chart
from lafp.runs.run_dir import RunDir
from lafp.storage.tables import read_rows

FILE = "latent_map.parquet"
_TITLES = {
    IDM: "inferred from two frames (IDM)",
    "latent_bc": "latent cloning, from one frame",
    "latent_flow": "flow policy, from one frame",
}
_AXES = {
    "pca": "The axes are the two leading principal components of the latents that the latent "
    "action model infers (IDM), standardized.",
    "umap": "UMAP of the same latents: distances within a group say more than those between.",
}


def section(run: RunDir) -> Section | None:
    """Shows a row of panels per projection. Returns None where no policy was evaluated."""
    stage = run.complete("evaluation")
    if stage is None or not stage.has(FILE):
        return None
    rows = read_rows(stage.path(FILE))
    if not rows:
        return None
    text = Text(
        text="Each point is the latent action of one frame of the held-out labeled episodes, "
        "coloured by what the demonstrator did there. The first panel shows what there is to be "
        "imitated. Where demonstrators take several ways, a policy that averages them fills the "
        "space between the groups; a policy that keeps them has the same groups, with mixed "
        "colours where it draws another way than the demonstrator took."
    )
    blocks: list[Block] = [text]
    for projection in dict.fromkeys(row["projection"] for row in rows):
        blocks.append(_panels(projection, [r for r in rows if r["projection"] == projection]))
    return Section(
        id="latent-map",
        short="Map of z",
        title="Do policies keep what was inferred?",
        blocks=blocks,
    )


def _panels(projection: str, rows: Sequence[dict[str, Any]]) -> Block:
    panels = {
        _TITLES.get(source, source): [
            (row["x"], row["y"], row["action"]) for row in rows if row["source"] == source
        ]
        for source in dict.fromkeys(row["source"] for row in rows)
    }
    num, is_discrete = len(next(iter(panels.values()))), rows[0]["is_discrete"]
    color = "the choice" if is_discrete else "its first principal component"
    return chart(
        distributions.maps(panels, is_discrete=is_discrete),
        alt="Latent actions of the latent action model and of each policy, coloured by action.",
        caption=f"{_AXES[projection]} Colour: the demonstrated action, {color}. {num:,} frames.",
    )
