"""Writes the model card of a latent action model: facts, training data, and measurements."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lafp.config import config_to_yaml
from lafp.data.shards.format import ShardSet
from lafp.objectives.health import signs_of_collapse
from lafp.runs.provenance import provenance
from lafp.types import ObsSpec

FILE = "model_card.md"

_INTENDED_USE = """\
- The model infers what changed between two frames of video, without labels. Use it to make targets
  for a latent policy (`train_policy`), to label videos (`label_latents`), or as a start
  (`init_from`).
- Its observations must be as in the table above. Frames at another rate or size, or of other kinds
  of scenes than the training videos, were not measured.
- A latent action is not a robot action. An action decoder, trained on labeled episodes, turns it
  into one.
- z contains whatever helps to predict the next frame, including motion of the camera and of other
  agents.
- Safety was not assessed. Do not let the model act on people or machines without separate checks.
"""


@dataclass(frozen=True, kw_only=True)
class TrainedOn:
    """One shard set that a LAM was trained on."""

    uri: str
    spec: ShardSet
    use: str
    """A description of its use, for the card."""


def lam_card(
    config: Any,
    *,
    obs: ObsSpec,
    num_parameters: int,
    data: Sequence[TrainedOn],
    init_from: str | None,
    metrics: Mapping[str, float],
) -> str:
    """Writes the card in Markdown.

    Args:
        config: The job's config.
        obs: The observations of the LAM.
        num_parameters: Number of parameters of the saved model.
        data: The shard sets that it was trained on.
        init_from: The LAM whose weights it started from; None for random weights.
        metrics: Last value of every metric.
    """
    facts = provenance()
    rows = [
        ("Objective", f"`{config.objective.name}`"),
        ("Parameters", f"{num_parameters:,}"),
        (
            "Observation",
            f"{obs.frame_stack} RGB frames of {obs.height_px}x{obs.width_px} px at "
            f"{obs.fps:g} per second",
        ),
        ("Steps", f"{metrics.get('step', 0):,.0f} of {config.train.global_batch_size} windows"),
        ("Started from", f"`{init_from}`" if init_from else "random weights"),
        ("Made by", f"lafp {facts['packages']['lafp']}, revision {facts['git_revision']}"),
    ]
    parts = [
        "# Latent action model",
        "It infers a latent action z from two frames, so that the first frame and z predict the "
        "second. Load it with `lafp.load_lam(FOLDER)`.",
        table(("", ""), rows),
        "## Training data",
        table(
            ("Shard set", "Source", "Clips", "Hours", "Use"),
            [
                (
                    f"`{item.uri}`",
                    item.spec.source,
                    f"{item.spec.num_clips.get('train', 0):,} (held out: "
                    f"{item.spec.num_clips.get('val', 0):,})",
                    f"{item.spec.num_hours:.3g}",
                    item.use,
                )
                for item in data
            ],
        ),
        "## What was measured",
        measured(metrics),
        "## Intended use and limits",
        _INTENDED_USE.rstrip(),
        "## Config",
        f"```yaml\n{config_to_yaml(config).rstrip()}\n```",
    ]
    return "\n\n".join(parts) + "\n"


_CONTROLS = {
    "probe/r2_obs_embedding": "observation embedding",
    "probe/r2_random_lam": "untrained LAM's z",
}
"""Metric of each of the probe's controls, with its name on the card. Undefined ones are absent."""


def measured(metrics: Mapping[str, float]) -> str:
    """Writes what the metrics of a LAM say: signs of collapse, the probe with its interval."""
    parts = [f"**Warning.** {words}" for words in signs_of_collapse(metrics).values()]
    if "probe/r2" in metrics:
        interval = f"[{metrics['probe/r2_low']:.3f}, {metrics['probe/r2_high']:.3f}]"
        rows = [
            ("latent action z", f"{metrics['probe/r2']:.3f}", interval),
            *(
                (f"control: {words}", f"{metrics[name]:.3f}", "")
                for name, words in _CONTROLS.items()
                if name in metrics
            ),
            ("control: nothing (mean action)", "0.000", ""),
        ]
        parts += [
            "Linear probe of the true action, fitted on labeled training episodes, R² on "
            f"{metrics['probe/num_episodes']:.0f} held-out ones ({metrics['probe/n']:,.0f} "
            "transitions; interval: 95 % bootstrap over episodes):",
            table(("Probed", "R²", "Interval"), rows),
        ]
    else:
        parts.append(
            "No labeled episodes were given, or all their actions are equal, so the information of "
            "z about actions was not measured."
        )
    held_out = {
        name.removeprefix("val/"): value
        for name, value in sorted(metrics.items())
        if name.startswith("val/")
    }
    if held_out:
        parts += [
            "On held-out clips:",
            table(
                ("Metric", "Value"),
                [(f"`{name}`", f"{value:.4g}") for name, value in held_out.items()],
            ),
        ]
    return "\n\n".join(parts)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Writes a table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
