"""Which clips a task wants at every step, and each rank's share of them."""

from collections.abc import Iterator
from dataclasses import dataclass

from lafp.config import ConfigError
from lafp.data.order.clips import ClipOrder, ClipRef
from lafp.data.order.mixture import MixedOrder
from lafp.data.order.window_draws import WindowDraws


@dataclass(frozen=True, kw_only=True)
class ClipDemand:
    """A stream of clips that a task wants at every step."""

    order: ClipOrder | MixedOrder
    clips_per_step: int
    """Over all ranks, all gradient-accumulation rounds of a step included."""
    latents: str | None = None
    """URI of a latent set of these clips, to be read along."""
    draws: WindowDraws | None = None
    """All that the task cuts from these clips; None where it wants every frame."""


@dataclass(frozen=True, kw_only=True)
class ClipStream:
    """The clips that one rank reads, step by step."""

    order: ClipOrder | MixedOrder
    clips_per_step: int
    """Over all ranks."""
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
        """This rank's visits, endless, ``clips_per_step / world_size`` in a row per step."""
        share = self.clips_per_step // self.world_size
        visits = self.order.visits(self.start_step * self.clips_per_step)
        for position, ref in enumerate(visits):
            if (position % self.clips_per_step) // share == self.rank:
                yield ref
