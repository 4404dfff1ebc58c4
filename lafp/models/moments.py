"""Computes mean and mean square of many batches per dimension, optionally over all ranks."""

# Shape suffixes in this file: N rows, D dimensions.

import torch
import torch.distributed as dist
from torch import Tensor

from lafp.ranks import world_size


class Moments:
    """Sums of many batches.

    They are in float64, so that the order of batches and the number of ranks do not matter.
    """

    def __init__(self) -> None:
        self.num_rows = 0
        self._sums: Tensor | None = None

    @torch.no_grad()
    def add(self, rows_ND: Tensor) -> None:
        """Adds a batch, float [N, D]."""
        # Sums of squares of many rows lose their last digits in float32.
        rows_ND = rows_ND.double()
        sums = torch.stack([rows_ND.sum(0), rows_ND.square().sum(0)])
        self._sums = sums if self._sums is None else self._sums + sums
        self.num_rows += len(rows_ND)

    def all_reduce(self) -> None:
        """Adds up the sums of all ranks. All ranks must call it, after at least one ``add``."""
        if self._sums is None or world_size() == 1:
            return
        count = torch.tensor(float(self.num_rows), dtype=torch.float64, device=self._sums.device)
        dist.all_reduce(self._sums)
        dist.all_reduce(count)
        self.num_rows = int(count)

    def mean_and_mean_square(self) -> tuple[Tensor, Tensor]:
        """Returns mean and mean square per dimension, float64 [D] each.

        Raises:
            ValueError: No rows were added.
        """
        if self._sums is None or not self.num_rows:
            raise ValueError("There are no rows to take a mean of.")
        mean_D, mean_square_D = self._sums / self.num_rows
        return mean_D, mean_square_D
