"""Converts latent actions between the LAM's units and the units that networks read."""

# Shape suffixes in this file: B batch, N latent actions, Z latent action.

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from lafp.config.ranges import check_at_least
from lafp.models.exact_buffers import ExactBuffers
from lafp.ranks import world_size


@dataclass(frozen=True, kw_only=True)
class StdConfig:
    """Zero mean and unit variance in each dimension, over all latent actions of training."""

    name: str = "std"


class LatentStandardizer(ExactBuffers):
    """Standardizes latent actions by the mean and variance of all latent actions of training.

    The statistics cover the whole run and are no moving average: the LAM is frozen, so its latents
    have one distribution, and the estimate gets more exact with every batch. They are buffers, so
    checkpoints store them, and they are equal on all ranks. They stay in float64, because bf16
    cannot count beyond 256.
    """

    Config: Any = StdConfig
    num_fit_latents = 0
    """Number of latent actions, over all ranks, that ``fit`` needs before training; may be 0."""
    count: Tensor
    mean: Tensor
    squared_deviation: Tensor

    def __init__(self, latent_action_dim: int, cfg: object = None) -> None:
        super().__init__()
        del cfg
        zeros_Z = torch.zeros(latent_action_dim, dtype=torch.float64)
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))
        self.register_buffer("mean", zeros_Z)
        self.register_buffer("squared_deviation", zeros_Z.clone())

    def fit(self, latent_action: Tensor) -> None:
        """Does nothing: these statistics are learned during training."""

    @torch.no_grad()
    def update(self, latent_action: Tensor) -> None:
        """Adds a batch of every rank to the statistics. All ranks must call it equally often.

        Args:
            latent_action: float [B, Z], in the LAM's units.
        """
        # Sums are taken relative to the running mean, so that a large mean costs no precision.
        offset_BZ = latent_action.double() - self.mean
        num_latents = offset_BZ.new_full((1,), len(offset_BZ))
        sums = torch.cat([num_latents, offset_BZ.sum(0), offset_BZ.square().sum(0)])
        if world_size() > 1:
            dist.all_reduce(sums)
        num_latents, sum_Z, sum_of_squares_Z = sums.split([1, *[len(self.mean)] * 2])
        self.count += num_latents.squeeze(0)
        shift_Z = sum_Z / self.count
        self.mean += shift_Z
        self.squared_deviation += sum_of_squares_Z - self.count * shift_Z.square()

    def standardize(self, latent_action: Tensor) -> Tensor:
        """Maps [B, Z] in the LAM's units to float32 with zero mean and unit variance."""
        return (latent_action.float() - self.mean.float()) / self.std()

    def denormalize(self, standardized: Tensor) -> Tensor:
        """Maps standardized values to the LAM's units: the inverse of ``standardize``."""
        return standardized.float() * self.std() + self.mean.float()

    def std(self) -> Tensor:
        """Returns the standard deviation, float32 [Z]; 1 if constant and before any update."""
        std_Z = (self.squared_deviation / self.count.clamp_min(1)).sqrt()
        return torch.where(std_Z > 0, std_Z, 1.0).float()


@dataclass(frozen=True, kw_only=True)
class GlobalScaleConfig:
    """Zero mean in each dimension and one scale for all, so that wide dimensions count more."""

    name: str = "global"


class GlobalScaleStandardizer(LatentStandardizer):
    """Divides all dimensions by one number, the root of their mean variance.

    Dimensions keep their proportions. After a PCA, unit variance in every dimension would give
    components of little variance the same weight as the leading ones.
    """

    Config = GlobalScaleConfig

    def std(self) -> Tensor:
        """Returns the scale, repeated for each dimension, float32 [Z]; 1 before any update."""
        std = (self.squared_deviation / self.count.clamp_min(1)).mean().sqrt()
        return torch.where(std > 0, std, 1.0).float().expand(len(self.mean))


@dataclass(frozen=True, kw_only=True)
class RangeConfig:
    """LAFP's normalization: centred on the middle of the range, and fixed before training."""

    name: str = "range"
    num_fit_latents: int = 16_384
    """Number of latent actions, of the first training batches, that range and deviation are
    computed from."""

    def __post_init__(self) -> None:
        check_at_least(self, 2, "num_fit_latents")


class RangeStandardizer(LatentStandardizer):
    """Computes (z - (max + min) / 2) / std per dimension (LAFP, arXiv:2606.10517).

    The paper uses the whole training set, we use its first ``num_fit_latents``. A single outlier
    moves the centre of a range, but hardly the mean; ``centre_offset`` measures it. All results
    are NaN before ``fit``.
    """

    Config = RangeConfig

    def __init__(self, latent_action_dim: int, cfg: RangeConfig) -> None:
        super().__init__(latent_action_dim)
        self.num_fit_latents = cfg.num_fit_latents
        # NaN shows if anything is standardized before ``fit``.
        self.mean.fill_(torch.nan)
        self.register_buffer("centre_offset", torch.tensor(torch.nan))

    centre_offset: Tensor
    """Largest distance between centre and mean of a dimension, in standard deviations. If it
    exceeds about 3, a few outliers determine the centre."""

    @torch.no_grad()
    def fit(self, latent_action: Tensor) -> None:
        """Computes range and deviation. All ranks must call it, and all get the same values.

        Args:
            latent_action: This rank's share of training latents, float [N, Z].
        """
        latent_NZ = latent_action.double()
        low_Z, high_Z = latent_NZ.amin(0), latent_NZ.amax(0)
        sums = torch.stack([torch.full_like(low_Z, len(latent_NZ)), latent_NZ.sum(0)])
        if world_size() > 1:
            dist.all_reduce(low_Z, dist.ReduceOp.MIN)
            dist.all_reduce(high_Z, dist.ReduceOp.MAX)
            dist.all_reduce(sums)
        # The deviation is summed about the mean in a second pass. A difference of two large sums
        # would lose the digits of a small deviation.
        mean_Z = sums[1] / sums[0]
        squares_Z = (latent_NZ - mean_Z).square().sum(0)
        if world_size() > 1:
            dist.all_reduce(squares_Z)
        self.mean.copy_((low_Z + high_Z) / 2)
        self.count.copy_(sums[0, 0])
        self.squared_deviation.copy_(squares_Z)
        self.centre_offset.copy_(((self.mean - mean_Z).abs() / self.std()).max())

    def update(self, latent_action: Tensor) -> None:
        """Does nothing: ``fit`` has fixed the statistics before training."""
