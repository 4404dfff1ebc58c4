"""How what says how well a policy does is called and written."""

from dataclasses import dataclass

from lafp.evaluate.statistics import Interval


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """One of ``lafp.evaluate.results.OUTCOMES``."""

    title: str
    axis: str
    """What a chart shows."""
    does: str
    """What a policy does, around the value."""
    is_share: bool = True
    """Written in percent."""
    xlim: tuple[float, float] | None = None
    """Of charts; None fits the data: a return may be tiny, or more than the demonstrators'."""

    def written(self, interval: Interval) -> str:
        """``93 % [88, 97]`` or ``3.2 [2.5, 4]``."""
        return interval.in_percent() if self.is_share else interval.written(self.number)

    def number(self, value: float) -> str:
        """``93 %`` or ``3.2``."""
        return f"{100 * value:.0f} %" if self.is_share else f"{value:.3g}"

    def difference(self, gain: Interval) -> str:
        """``+4 points [-2, +9]`` or ``+0.4 [-0.2, +0.9]``."""
        if not self.is_share:
            return gain.written("{:+.3g}".format)
        return gain.written(lambda share: f"{round(100 * share):+d}", " points")  # never "-0"


OUTCOMES = {
    "success": Outcome(
        title="Success",
        axis="success, share of episodes",
        does="succeeds in {}",
        xlim=(-0.02, 1.02),
    ),
    "return_normalized": Outcome(
        title="Return",
        axis="return, share of the demonstrators'",
        does="reaches {} of the demonstrators' return",
    ),
    "return": Outcome(title="Return", axis="return", does="reaches a return of {}", is_share=False),
}
