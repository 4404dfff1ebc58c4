"""Describes which clips a task needs at every step, and each rank's share of them."""

from collections.abc import Iterator
from dataclasses import dataclass

from lafp.config import ConfigError
from lafp.data.order.clips import ClipOrder, ClipRef
from lafp.data.order.mixture import MixedOrder
from lafp.data.order.window_draws import WindowDraws


@dataclass(frozen=True, kw_only=True)
class ClipDemand:
    """Describes a stream of clips that a task needs at every step."""

    order: ClipOrder | MixedOrder
    clips_per_step: int
    """Number over all ranks and all gradient-accumulation rounds of a step."""
    latents: str | None = None
    """URI of a latent set of these clips, which is read too."""
    draws: WindowDraws | None = None
    """The windows that the task cuts from these clips; None if it needs every frame."""


@dataclass(frozen=True, kw_only=True)
class ClipStream:
    """Yields the clips that one rank reads, step by step."""

    order: ClipOrder | MixedOrder
    clips_per_step: int
    """Number over all ranks."""
    rank: int = 0
    world_size: int = 1
    start_step: int = 0

    def __post_init__(self) -> None:
        if self.clips_per_step % self.world_size:
            raise ConfigError(
                f"{self.clips_per_step} clips per step do not divide among {self.world_size} "
                "workers. Change global_batch_size, windows_per_clip or num_workers."
            )

    def refs(self) -> Iterator[ClipRef]:
        """Yields this rank's visits without end: ``clips_per_step / world_size`` for each step."""
        # Ranks share out a step's visits, not the sequence: with another number of workers a step
        # still has the same clips.
        share = self.clips_per_step // self.world_size
        visits = self.order.visits(self.start_step * self.clips_per_step)
        for position, ref in enumerate(visits):
            if (position % self.clips_per_step) // share == self.rank:
                yield ref
