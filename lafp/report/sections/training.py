"""Training curves of the latent action model, the policies and the action decoders."""

from collections.abc import Mapping, Sequence
from typing import Any

from lafp.report import charts, drawings
from lafp.report.blocks import Block, Section, Text, anchored, chart
from lafp.runs.run_dir import RunDir, StageDir
from lafp.train.metrics.log import read_metrics
from lafp.train.transitions import anchor_range

# Panel title -> (metric, label) of its curves.
Panels = Mapping[str, Sequence[tuple[str, str]]]
Config = Mapping[str, Any]
Records = Sequence[Mapping[str, Any]]

LAM_PANELS: Panels = {
    "loss": [("loss", "training"), ("val/loss", "held out")],
    "share of the change explained": [
        ("fdm_explained", "training"),
        ("val/fdm_explained", "held out"),
    ],
    "share of the embeddings' variance explained": [
        ("target_explained", "training"),
        ("val/target_explained", "held out"),
    ],
    "spread of the target embedding": [
        ("target_spread", "training, over the pixels'"),
        ("target_dead_share", "dead units, share"),
    ],
    "supervision's share of the loss": [("supervision_share", "training")],
    "probe R²": [
        ("probe/r2", "z"),
        ("probe/r2_obs_embedding", "observation"),
        ("probe/r2_random_lam", "untrained"),
    ],
    "effective rank of z": [("latent/effective_rank", "training")],
    "share of near-null z": [("latent/near_null_share", "training")],
    "codebook perplexity": [("codebook/perplexity", "training")],
}
POLICY_METRICS = {"loss": "training", "val/loss": "held out"}
"""Metrics of a policy -> labels of their curves."""
DECODER_METRICS = {
    "loss": "action loss, training",
    "val/action_r2_anchored": "action R², anchored",
    "val/action_r2_deployed": "action R², deployed",
}
"""Metrics of an action decoder -> titles of their panels."""


def section(run: RunDir) -> Section | None:
    """Draws all curves. Returns None when nothing was trained."""
    blocks: list[Block] = []
    if (lam := run.complete("lam")) and (panels := _panels_of(read_metrics(lam.uri), LAM_PANELS)):
        config = lam.config()
        blocks.append(
            chart(
                charts.curves(panels, log_y=["loss"]),
                alt="Training curves of the latent action model.",
                caption=f"Latent action model (`{_name(config, 'objective')}`){_mixture(config)}.",
            )
        )
    blocks += _policies(run.complete_below("policy"))
    blocks += _decoders(run.complete_below("decoder"))
    return (
        Section(id="training", short="Training", title="Training", blocks=blocks)
        if blocks
        else None
    )


def points(records: Records, metric: str) -> tuple[list[float], list[float]]:
    """Steps and values of the records of ``metrics.jsonl`` that hold ``metric``."""
    found = [
        (record["step"], record[metric])
        for record in records
        if isinstance(record.get(metric), int | float) and "step" in record
    ]
    # A resumed run repeats the steps behind its last checkpoint: the later record counts.
    ordered = dict(sorted(found, key=lambda item: item[0]))
    return list(ordered), list(ordered.values())


def _mixture(config: Config) -> str:
    """Says which shard sets a LAM was trained on, if several, and their shares of the clips."""
    data = config.get("data") or []
    total = sum(item["weight"] for item in data)
    shares = [
        f"{item['weight'] / total:.0%} {item['shards'] or 'the videos of this run'}"
        for item in data
    ]
    return f", trained on clips of {', '.join(shares)}" if shares else ""


def _panels_of(records: Records, wanted: Panels) -> dict[str, list[charts.Line]]:
    panels = {}
    for title, curves in wanted.items():
        lines = []
        for (metric, name), color in zip(curves, drawings.CYCLE, strict=False):
            steps, values = points(records, metric)
            if steps:
                lines.append(charts.Line(title=name, x=steps, y=values, color=color))
        if lines:
            panels[title] = lines
    return panels


def _policies(stages: Sequence[StageDir]) -> list[Block]:
    panels: dict[str, list[charts.Line]] = {}
    for stage in stages:
        name = stage.name.rpartition("/")[2]
        color = drawings.BLUE if "flow" in _name(stage.config(), "policy") else drawings.GREY
        records = read_metrics(stage.uri)
        lines = [
            charts.Line(title=title, x=steps, y=values, color=color, is_dashed=metric != "loss")
            for metric, title in POLICY_METRICS.items()
            for steps, values in [points(records, metric)]
            if steps
        ]
        if lines:
            panels[f"{name}: loss"] = lines
    if not panels:
        return []
    caption = "Policies, each by its own loss: cloning's squared error and the flow's error at "
    caption += "random times are different quantities. The flow's cannot fall to 0."
    figure = charts.curves(panels, log_y=list(panels))
    return [chart(figure, alt="Training curves of the policies.", caption=caption)]


def _decoders(stages: Sequence[StageDir]) -> list[Block]:
    panels: dict[str, list[charts.Line]] = {}
    trained = sorted(
        ((s.config(), read_metrics(s.uri)) for s in stages), key=lambda s: _decoder_title(s[0])
    )
    for metric, title in DECODER_METRICS.items():
        lines = []
        for config, records in trained:
            steps, values = points(records, metric)
            if steps:
                lines.append(_decoder_line(config, steps, values))
        if lines:
            panels[title] = lines
    if not panels:
        return []
    text = Text(
        text="A decoder is trained on latents of the policy started at τₐ (anchored). At "
        "deployment the policy starts from noise. Where the two panels differ, the decoder meets "
        "latents it was not trained on, or the policy rightly goes another way than the "
        "demonstrator."
    )
    caption = "Action decoders. R² is that of actions on held-out labeled episodes."
    figure = charts.curves(panels, log_y=["action loss, training"])
    return [text, chart(figure, alt="Training curves of the action decoders.", caption=caption)]


def _decoder_line(config: Config, steps: list[float], values: list[float]) -> charts.Line:
    anchors, is_flow = anchor_range(config["anchor_time"]), "flow" in config["policy"]
    color = {(0.0, 0.0): drawings.ORANGE, (1.0, 1.0): drawings.TEAL}.get(anchors, drawings.BLUE)
    return charts.Line(
        title=_decoder_title(config),
        x=steps,
        y=values,
        color=color if is_flow else drawings.GREY,
        is_dashed=not is_flow and anchors == (1, 1),
    )


def _decoder_title(config: Config) -> str:
    return f"{config['policy']}, {anchored(*anchor_range(config['anchor_time']))}"


def _name(config: Config, section_name: str) -> str:
    return str((config.get(section_name) or {}).get("name", "unknown"))
