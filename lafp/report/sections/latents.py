"""Latent views: predicted frames, nearest neighbours, statistics of z, where the motion is."""

from collections.abc import Sequence

from lafp import storage
from lafp.evaluate.latents.latent_views import LatentViews, has_latent_views, read_latent_views
from lafp.report import distributions
from lafp.report.blocks import NO_VALUE, Block, Section, Table, Text, chart, percent, picture
from lafp.report.headline import view_findings
from lafp.runs.run_dir import RunDir
from lafp.runs.wording import counted

_FOLDER = "latent_views"


def load_views(run: RunDir) -> LatentViews | None:
    """Reads the numbers of ``write_latent_views``; None before the evaluation."""
    stage = run.complete("evaluation")
    if stage is None or not has_latent_views(stage.path(_FOLDER)):
        return None
    return read_latent_views(stage.path(_FOLDER))


def views_section(run: RunDir, views: LatentViews | None) -> Section | None:
    """Shows predictions, neighbours, statistics and motion, from ``write_latent_views``."""
    stage = run.complete("evaluation")
    if views is None or stage is None:
        return None
    folder = stage.path(_FOLDER)
    num_damaged = views.num_damaged_clips
    damaged = f" {counted(num_damaged, 'damaged clip')} left out." if num_damaged else ""
    step = f", {1000 * views.step_s:.0f} ms apart" if views.step_s else ""
    blocks: list[Block] = [
        Text(
            text=f"From {counted(views.num_pairs, 'pair')} of neighbouring frames{step}, drawn "
            f"from {counted(views.num_clips, f'{_split_of(views)} clip')} of "
            f"{counted(views.num_videos, 'video')}.{damaged} No labels needed."
        ),
        *_predictions(folder, views),
        *_neighbours(folder, views),
        *_statistics(views),
        picture(
            storage.read_bytes(storage.join(folder, "motion.png")),
            alt="Clips and heat maps of their motion.",
            caption="Where the motion is: the middle frame of some clips, and the mean "
            "|difference| of their neighbouring frames, each scaled to its own maximum. "
            f"Over all pairs the mean |difference| has median {_median(views.motion):.4f} "
            "(1 = black to white).",
        ),
    ]
    return Section(
        id="latents",
        short="Latents",
        title="What did the latent action model learn?",
        blocks=blocks,
    )


def _predictions(folder: str, views: LatentViews) -> list[Block]:
    if reason := views.skipped.get("predictions"):
        return [Text(text=f"No predicted frames: {reason}")]
    columns = ["now", "next, true", "next, predicted", "change, true", "change, predicted"]
    return [
        picture(
            storage.read_bytes(storage.join(folder, "predictions.png")),
            alt="Next frames as predicted from the latent action, beside the truth.",
            columns=columns * 2,
            caption=f"The forward model's next frame beside the truth, for random pairs of the "
            "more moving half (blue = brighter, orange = darker). "
            f"{view_findings(views)[-1]}",
        )
    ]


def _neighbours(folder: str, views: LatentViews) -> list[Block]:
    if reason := views.skipped.get("neighbours"):
        return [Text(text=f"No nearest neighbours: {reason}")]
    return [
        picture(
            storage.read_bytes(storage.join(folder, "neighbours.png")),
            alt="Frame pairs and their nearest neighbours in latent-action space.",
            columns=["query pair", *(f"nearest {n}" for n in range(1, 6))],
            caption="Each row: a query pair and the pairs of other videos whose latent actions "
            "are nearest to it (Euclidean). A pair is shown as its first frame, and its second "
            "in grey with what changed in colour. If z means action, the changes in a row look "
            "alike while the scenes differ; if the scenes look alike instead, z holds appearance.",
        )
    ]


def _statistics(views: LatentViews) -> list[Block]:
    is_constant = views.is_collapsed  # then rank and near-null are of rounding alone
    rows = [
        ["Dimensions of z", f"{views.latent_action_dim}"],
        ["Effective rank", NO_VALUE if is_constant else f"{views.effective_rank:.1f}"],
        ["Near-null actions", NO_VALUE if is_constant else percent(views.near_null_share)],
        ["Spread (RMS distance from the mean / RMS norm)", f"{views.spread:.3g}"],
    ]
    caption = (
        "Effective rank: participation ratio of the covariance spectrum. Near-null: closer to the "
        "mean latent than a tenth of the RMS distance. z(o, o): the latent action of a frame "
        "paired with itself."
    )
    if views.motion_correlation is not None:
        rows.append(["Rank correlation of motion with |z - z(o, o)|"])
        rows[-1].append(f"{views.motion_correlation:.2f}")
    if views.codebook:
        rows.append(["Codes in use", percent(views.codebook["usage"])])
        rows.append(["Codebook perplexity", f"{views.codebook['perplexity']:.1f}"])
        caption += " Codebook perplexity: the number of codes that, used equally often, would be "
        caption += "as varied."
    return [
        chart(
            distributions.latent_statistics(views.norms, views.spectrum),
            alt="Histogram of latent norms and spectrum of their covariance.",
        ),
        Table(
            head=["Latent actions", ""],
            rows=rows,
            caption=caption,
        ),
    ]


def _split_of(views: LatentViews) -> str:
    return "held-out" if views.split == "val" else "training"


def _median(values: Sequence[float]) -> float:
    ordered = sorted(values)
    return ordered[len(ordered) // 2]
