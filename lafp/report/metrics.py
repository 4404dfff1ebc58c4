"""Names and number formats of metrics, used by all pages, tables and sentences."""

from collections.abc import Callable
from dataclasses import dataclass

from lafp.evaluate.rows.grouped import Group
from lafp.evaluate.rows.results import RETURN_ABOVE_RANDOM
from lafp.evaluate.rows.statistics import Interval
from lafp.report.blocks import NO_VALUE, TIMES


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """One of ``lafp.evaluate.rows.results.OUTCOMES``."""

    title: str
    question: str
    """Heading of its section."""
    axis: str
    """Label of the axis in charts."""
    does: str
    """Says what a policy reaches; ``{}`` is the value."""
    is_share: bool = True
    """Written in percent."""
    xlim: tuple[float, float] | None = None
    """Range of the axis in charts. None fits the data: a return may be tiny, or more than the
    demonstrators', or less than that of random actions."""

    def written(self, interval: Interval) -> str:
        """Writes ``93 % [88, 97]`` or ``3.2 [2.5, 4]``."""
        return interval.in_percent() if self.is_share else interval.written(self.number)

    def number(self, value: float) -> str:
        """Writes ``93 %`` or ``3.2``."""
        return f"{100 * value:.0f} %" if self.is_share else f"{value:.3g}"

    def difference(self, gain: Interval) -> str:
        """Writes ``+4 points [-2, +9]`` or ``+0.4 [-0.2, +0.9]``."""
        if not self.is_share:
            return gain.written("{:+.3g}".format)
        return gain.written(lambda share: f"{round(100 * share):+d}", " points")  # never "-0"


OUTCOMES = {
    "success": Outcome(
        title="Success",
        question="How often does it succeed?",
        axis="success, share of episodes",
        does="succeeds in {}",
        xlim=(-0.02, 1.02),
    ),
    RETURN_ABOVE_RANDOM: Outcome(
        title="Return",
        question="What return does it reach?",
        axis="return, from random actions (0) to demonstrators (1)",
        does="reaches {} of the way from the return of random actions to the demonstrators'",
    ),
    "return": Outcome(
        title="Return",
        question="What return does it reach?",
        axis="return",
        does="reaches a return of {}",
        is_share=False,
    ),
}


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A column of a table."""

    title: str
    number: Callable[[float], str] = "{:z.2f}".format
    meaning: str = ""
    """A sentence below the table."""

    def written(self, group: Group | None) -> str:
        """Writes the mean over seeds."""
        return NO_VALUE if group is None else self.number(group.value)


_CLOSE = "{:.3f}".format
_WAYS = (
    "over the demonstrators'; 1 keeps all ways. Episodes that fail before a fork do not count "
    "there."
)
METRICS = {
    "success": Metric(title="Success"),
    RETURN_ABOVE_RANDOM: Metric(
        title="Return above random, % of demonstrators'",
        meaning="Return above random: 0 % is the mean return of random actions, 100 % that of the "
        "demonstrators, in the same episodes.",
    ),
    "return": Metric(title="Return"),
    "length": Metric(title="Episode, steps", number="{:.1f}".format),
    "mode_coverage": Metric(
        title="Mode coverage", meaning=f"Mode coverage: entropy of the whole path taken, {_WAYS}"
    ),
    "side_entropy": Metric(
        title="Side entropy", meaning="Side entropy: the same for each fork of the path alone."
    ),
    "action_r2": Metric(
        title="Action R²",
        meaning="Action R² and MSE: how near the actions are to the demonstrated ones, on held-out "
        "labeled episodes. A policy that keeps several ways of acting cannot score high there.",
    ),
    "action_mse": Metric(title="Action MSE", number=_CLOSE),
    "action_accuracy": Metric(
        title="Action accuracy",
        meaning="Action accuracy: share of the actions that are the demonstrated ones, on held-out "
        "labeled episodes.",
    ),
    "alignment_to_idm": Metric(title="Distance to IDM latents", number=_CLOSE),
    "alignment_to_deployed": Metric(title="Distance to deployed latents", number=_CLOSE),
    "action_mse_on_idm": Metric(title="Action MSE on IDM latents", number=_CLOSE),
    "action_mse_on_deployed": Metric(title="Action MSE on deployed latents", number=_CLOSE),
    "action_accuracy_on_idm": Metric(title="Accuracy on IDM latents", number=_CLOSE),
    "action_accuracy_on_deployed": Metric(title="Accuracy on deployed latents", number=_CLOSE),
    "latency_b1_ms": Metric(title="Time for 1 observation", number="{:.2f} ms".format),
    "latency_b1_ratio": Metric(title="Ratio to latent BC", number=f"{{:.2f}} {TIMES}".format),
    "latency_b64_ms": Metric(title="Time for 64 observations", number="{:.1f} ms".format),
    "probe_r2": Metric(title="Probe R²"),
    "probe_mse": Metric(title="MSE", number="{:.4f}".format),
    "probe_r2_standardized": Metric(
        title="Standardized",
        meaning="Standardized: the same ridge on features of unit variance, which also finds what "
        "lies in dimensions of little variance.",
    ),
    "probe_r2_mlp": Metric(title="MLP", meaning="MLP: a small network instead of a linear map."),
    "probe_r2_noise": Metric(
        title="Exploration noise",
        meaning="Exploration noise: R² of the part of the actions that no state tells.",
    ),
    "probe_r2_seen": Metric(title="Seen backgrounds"),
    "probe_r2_unseen": Metric(
        title="Unseen backgrounds",
        meaning="Seen and unseen: held-out episodes before videos that training saw, and others.",
    ),
}
