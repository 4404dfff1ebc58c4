"""What the latent action model learned: probe with its controls, and the latent views."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from lafp import storage
from lafp.evaluate.results import Result
from lafp.evaluate.run_record import RunRecord
from lafp.objectives.health import CONSTANT, DEAD_CODEBOOK, DEAD_PERPLEXITY, not_above_embedding
from lafp.report import charts
from lafp.report.blocks import (
    NO_VALUE,
    Block,
    Note,
    Section,
    Table,
    Text,
    chart,
    percent,
    picture,
)
from lafp.runs.wording import counted

_FOLDER = "latent_views"
_PROBES = {
    "lam": "Latent action z",
    "embedding": "Control: observation embedding",
    "random_lam": "Control: untrained LAM's z",
    "nothing": "Control: nothing (mean action)",
}


def probe_rows(rows: Sequence[Result], metric: str) -> dict[str, Result]:
    """Subject of the probe -> its row, in the order of the table."""
    found = {row.method: row for row in rows if row.metric == metric}
    return {method: found[method] for method in _PROBES if method in found}


def warnings(
    rows: Sequence[Result], views: Mapping[str, Any] | None, lam: Mapping[str, Any]
) -> list[Note]:
    """Plain words for a LAM that holds nothing, or whose worth is not known.

    Args:
        rows: The result table.
        views: The numbers of ``write_latent_views``.
        lam: Summary of the LAM's stage, with what ``data_remarks`` said.
    """
    signs = []
    codebook = views.get("codebook") if views else None
    if views and views["is_collapsed"]:
        signs.append(CONSTANT)
    elif codebook and codebook["perplexity"] < DEAD_PERPLEXITY:
        signs.append(DEAD_CODEBOOK)
    r2 = probe_rows(rows, "probe_r2")
    latent, embedding = r2.get("lam"), r2.get("embedding")
    if not signs and latent and embedding and not _is_above(latent, embedding):
        signs.append(not_above_embedding(latent.value, embedding.value))
    signs += [lam[remark] for remark in ("little_motion", "no_probe") if lam.get(remark)]
    return [Note(level="warning", text=text) for text in signs]


def headline(rows: Sequence[Result], views: Mapping[str, Any] | None) -> str | None:
    """The main result of a run without rollouts; None before there is one."""
    sentences = []
    r2 = probe_rows(rows, "probe_r2")
    if "lam" in r2:
        against = [
            f"{r2[method].value:.2f} {words}"
            for method, words in (
                ("embedding", "from the observation alone"),
                ("random_lam", "from an untrained model's latents"),
            )
            if method in r2
        ]
        sentences.append(
            f"A linear probe reads the true action from the latent actions with R² "
            f"{_with_interval(r2['lam'])}, against {' and '.join(against)}."
        )
    if views and views["is_collapsed"]:
        sentences.append("The latent actions have collapsed to a constant.")
    elif views and views["prediction_error"] is not None:
        sentences.append(_prediction_in_words(views))
    elif views:
        sentences.append(
            f"The latent actions of {_split_of(views)} clips spread over "
            f"{views['effective_rank']:.1f} effective dimensions of {views['latent_action_dim']}."
        )
    return " ".join(sentences) or None


def _with_interval(row: Result) -> str:
    interval = "" if row.low is None else f" [{row.low:.2f}, {row.high:.2f}]"
    return f"{row.value:.2f}{interval}"


def _prediction_in_words(views: Mapping[str, Any]) -> str:
    error, wrong, copy = (
        max(views[f"{name}_error"], 1e-12) for name in ("prediction", "wrong_latent", "copy")
    )
    compared = (
        f"{percent(1 - error / copy)} less squared error than by assuming no change"
        if error < copy
        else "more squared error than by assuming no change"
    )
    return (
        f"On {_split_of(views)} clips the next frame is predicted with {compared}; with the "
        f"latent action of another pair the error is {wrong / error:.1f} times as large."
    )


def _split_of(views: Mapping[str, Any]) -> str:
    return "held-out" if views["split"] == "val" else "training"


def _is_above(row: Result, control: Result) -> bool:
    low = row.value if row.low is None else row.low
    return low > (control.value if control.high is None else control.high)


def probe_section(rows: Sequence[Result]) -> Section | None:
    """Linear probes as dots with intervals, and as a table."""
    r2 = probe_rows(rows, "probe_r2")
    if "lam" not in r2:
        return None
    errors = probe_rows(rows, "probe_mse")
    dots = [
        charts.Dot(
            label=_PROBES[method],
            value=row.value,
            low=row.low,
            high=row.high,
            color=charts.BLUE if method == "lam" else charts.GREY,
            is_open=method != "lam",
        )
        for method, row in r2.items()
    ]
    body = []
    for method, row in r2.items():
        interval = NO_VALUE if row.low is None else f"[{row.low:.2f}, {row.high:.2f}]"
        error = f"{errors[method].value:.4f}" if method in errors else NO_VALUE
        body.append([_PROBES[method], f"{row.value:.2f}", interval, error, f"{row.n:,}"])
    return Section(
        id="probe",
        short="Probe",
        title="Do the latent actions hold the true ones?",
        blocks=[
            Text(
                text="A linear map is fitted from z to the true action on some labeled episodes "
                "and measured on others. It says little alone: experts' actions are predictable "
                "from the state, so the same probe runs on the observation embedding, on an "
                "untrained LAM of the same shape, and on nothing. z is worth what it has above "
                "them."
            ),
            chart(
                charts.dots(dots, "R² on held-out episodes", form="{:.2f}".format),
                alt="R² of the linear probe and its controls, with 95 % intervals.",
            ),
            Table(
                head=["Probe from", "R²", "95 % interval", "MSE", "Transitions"],
                rows=body,
                emphasized=frozenset([0]),
                caption="Intervals: bootstrap over the held-out episodes. MSE: actions in [-1, 1].",
            ),
        ],
    )


def load_views(run: RunRecord) -> dict[str, Any] | None:
    """The numbers of ``write_latent_views``; None before evaluation."""
    stage = run.complete("evaluation")
    if stage is None or not stage.has(_FOLDER, "latent_views.json"):
        return None
    return json.loads(storage.read_text(stage.path(_FOLDER, "latent_views.json")))


def views_section(run: RunRecord, views: Mapping[str, Any] | None) -> Section | None:
    """Predictions, neighbours, statistics and motion, from ``write_latent_views``."""
    stage = run.complete("evaluation")
    if views is None or stage is None:
        return None
    folder = stage.path(_FOLDER)
    step = f", {1000 * views['step_s']:.0f} ms apart" if views["step_s"] else ""
    blocks: list[Block] = [
        Text(
            text=f"From {counted(views['num_pairs'], 'pair')} of neighbouring frames{step}, drawn "
            f"from {counted(views['num_clips'], f'{_split_of(views)} clip')} of "
            f"{counted(views['num_videos'], 'video')}. No labels needed."
        ),
        *_predictions(folder, views),
        *_neighbours(folder, views),
        *_statistics(views),
        picture(
            storage.read_bytes(storage.join(folder, "motion.png")),
            alt="Clips and heat maps of their motion.",
            caption="Where the motion is: the middle frame of some clips, and the mean "
            "|difference| of their neighbouring frames, each scaled to its own maximum. "
            f"Over all pairs the mean |difference| has median {_median(views['motion']):.4f} "
            "(1 = black to white).",
        ),
    ]
    return Section(
        id="latents",
        short="Latents",
        title="What did the latent action model learn?",
        blocks=blocks,
    )


def _predictions(folder: str, views: Mapping[str, Any]) -> list[Block]:
    if reason := views["skipped"].get("predictions"):
        return [Text(text=f"No predicted frames: {reason}")]
    error, wrong = views["prediction_error"], views["wrong_latent_error"]
    columns = ["now", "next, true", "next, predicted", "change, true", "change, predicted"]
    return [
        picture(
            storage.read_bytes(storage.join(folder, "predictions.png")),
            alt="Next frames as predicted from the latent action, beside the truth.",
            columns=columns * 2,
            caption=f"The FDM's next frame beside the truth, for random pairs of the more "
            "moving half (blue = brighter, orange = darker). "
            f"{_prediction_in_words(views)}"
            + ("" if wrong > 1.1 * error else " So z is hardly used."),
        )
    ]


def _neighbours(folder: str, views: Mapping[str, Any]) -> list[Block]:
    if reason := views["skipped"].get("neighbours"):
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


def _statistics(views: Mapping[str, Any]) -> list[Block]:
    is_constant = views["is_collapsed"]  # then rank and near-null are of rounding alone
    rows = [
        ["Dimensions of z", f"{views['latent_action_dim']}"],
        ["Effective rank", NO_VALUE if is_constant else f"{views['effective_rank']:.1f}"],
        ["Near-null actions", NO_VALUE if is_constant else percent(views["near_null_share"])],
        ["Spread (RMS distance from the mean / RMS norm)", f"{views['spread']:.3g}"],
    ]
    if views["motion_correlation"] is not None:
        rows.append(["Rank correlation of motion with |z - z(o, o)|"])
        rows[-1].append(f"{views['motion_correlation']:.2f}")
    if views["codebook"]:
        rows.append(["Codes in use", percent(views["codebook"]["usage"])])
        rows.append(["Codebook perplexity", f"{views['codebook']['perplexity']:.1f}"])
    return [
        chart(
            charts.latent_statistics(views["norms"], views["spectrum"]),
            alt="Histogram of latent norms and spectrum of their covariance.",
        ),
        Table(
            head=["Latent actions", ""],
            rows=rows,
            caption="Effective rank: participation ratio of the covariance spectrum. Near-null: "
            "closer to the mean latent than a tenth of the RMS distance.",
        ),
    ]


def _median(values: Sequence[float]) -> float:
    ordered = sorted(values)
    return ordered[len(ordered) // 2]
