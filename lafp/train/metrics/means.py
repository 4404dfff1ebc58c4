"""Averages losses and metrics during training without making the host wait for the device."""

from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor

from lafp.losses.forward_dynamics import explained_change
from lafp.ranks import world_size
from lafp.storage.strict_json import defined
from lafp.types import LossOutput


class Means:
    """Averages metrics over micro-batches and ranks. Sums stay on the device until they are read.

    A metric that is not finite is undefined in its micro-batch, and is left out of the mean.

    Args:
        device: Device of the losses.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._sums: dict[str, Tensor] = {}
        self._num_rounds: dict[str, Tensor] = {}

    def add(self, outs: Iterable[LossOutput]) -> None:
        """Adds micro-batches."""
        for out in outs:
            for name, value in {"loss": out.loss, **out.metrics}.items():
                is_defined = torch.isfinite(value.detach())
                for sums, addend in (
                    (self._sums, torch.where(is_defined, value.detach(), 0.0)),
                    (self._num_rounds, is_defined),
                ):
                    total = sums.setdefault(name, torch.zeros((), device=self._device))
                    total += addend

    def read(self) -> dict[str, float]:
        """Returns the means since the last call. All ranks call it.

        Metrics that were undefined in all micro-batches are absent.
        """
        sums, num_rounds, self._sums, self._num_rounds = self._sums, self._num_rounds, {}, {}
        names = sorted(sums)
        if not names:
            return {}
        totals = torch.stack(
            [torch.stack([of[name] for name in names]) for of in (sums, num_rounds)]
        )
        if world_size() > 1:
            dist.all_reduce(totals)
        means = totals[0] / totals[1]  # only the next line waits for the device
        values = defined(dict(zip(names, means.tolist(), strict=True)))
        return values | explained_change(values)
