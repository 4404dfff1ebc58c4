"""Latent actions in the LAM's units <-> zero mean and unit variance per dimension."""

# Shape suffixes in this file: B batch, Z latent action.

import torch
import torch.distributed as dist
from torch import Tensor

from lafp.models.exact_buffers import ExactBuffers


class LatentStandardizer(ExactBuffers):
    """Mean and variance of every latent action seen in training, per dimension.

    Cumulative over the whole run, not a moving average: the LAM is frozen, so its latents have one
    distribution, and the estimate only sharpens. The statistics are buffers, so they travel in the
    checkpoint, and they are the same on all ranks. They stay float64: bf16 cannot count beyond 256.
    """

    count: Tensor
    mean: Tensor
    squared_deviation: Tensor

    def __init__(self, latent_action_dim: int) -> None:
        super().__init__()
        zeros_Z = torch.zeros(latent_action_dim, dtype=torch.float64)
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))
        self.register_buffer("mean", zeros_Z)
        self.register_buffer("squared_deviation", zeros_Z.clone())

    @torch.no_grad()
    def update(self, latent_action: Tensor) -> None:
        """Takes in a batch, over all ranks: every rank must call it equally often.

        Args:
            latent_action: float [B, Z], in the LAM's units.
        """
        # Sums are taken around the running mean, so large offsets cancel without loss.
        offset_BZ = latent_action.double() - self.mean
        num_latents = offset_BZ.new_tensor([len(offset_BZ)])
        sums = torch.cat([num_latents, offset_BZ.sum(0), offset_BZ.square().sum(0)])
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(sums)
        num_latents, sum_Z, sum_of_squares_Z = sums.split([1, *[len(self.mean)] * 2])
        self.count += num_latents.squeeze(0)
        shift_Z = sum_Z / self.count
        self.mean += shift_Z
        self.squared_deviation += sum_of_squares_Z - self.count * shift_Z.square()

    def standardize(self, latent_action: Tensor) -> Tensor:
        """[B, Z] in the LAM's units -> float32 with zero mean and unit variance."""
        return (latent_action.float() - self.mean.float()) / self.std()

    def restore(self, standardized: Tensor) -> Tensor:
        """The inverse of ``standardize``."""
        return standardized.float() * self.std() + self.mean.float()

    def std(self) -> Tensor:
        """Standard deviation, float32 [Z]. 1 for constant dimensions and before any update."""
        std_Z = (self.squared_deviation / self.count.clamp_min(1)).sqrt()
        return torch.where(std_Z > 0, std_Z, 1.0).float()
