"""Finite scalar quantization: each dimension is rounded to one of a few levels."""

# Shape suffixes in this file: B batch, Z latent action, L discrete latents.

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from lafp.device_constants import device_constant
from lafp.models.bottlenecks.base import Bottleneck, BottleneckOutput
from lafp.models.codebook_usage import usage_of_choices

# float32 holds all whole numbers up to here, and indices are int64.
_MAX_LEVEL = 1 << 24
_MAX_CODES = (1 << 63) - 1


@dataclass(frozen=True, kw_only=True)
class FsqConfig:
    """Finite scalar quantization (Mentzer et al., arXiv:2309.15505)."""

    name: str = "fsq"
    levels: tuple[int, ...] = (8, 5, 5, 5)
    """Number of values of each dimension of a discrete latent. Z must be a multiple of the number
    of dimensions."""

    def __post_init__(self) -> None:
        if not self.levels or not all(2 <= level <= _MAX_LEVEL for level in self.levels):
            raise ValueError(
                f"levels must be numbers from 2 to {_MAX_LEVEL} (the limit of float32), "
                f"got {self.levels}."
            )
        if math.prod(self.levels) > _MAX_CODES:
            raise ValueError(
                f"levels {self.levels} make {math.prod(self.levels):.2g} codes, more than an int64 "
                "counts. A discrete latent takes fewer levels or fewer dimensions; a latent action "
                "may hold several discrete latents."
            )

    def check(self, latent_action_dim: int) -> None:
        """See ``NoBottleneckConfig.check``."""
        if latent_action_dim % len(self.levels):
            raise ValueError(
                f"latent_action_dim must be a multiple of the number of fsq levels "
                f"({len(self.levels)}), got {latent_action_dim}."
            )


class Fsq(Bottleneck):
    """Rounds each bounded dimension to one of its levels, with straight-through gradients."""

    Config = FsqConfig

    def __init__(self, cfg: FsqConfig, latent_action_dim: int) -> None:
        super().__init__()
        cfg.check(latent_action_dim)
        self.levels = cfg.levels
        self.num_codes = math.prod(cfg.levels)

    def forward(self, latent_BZ: Tensor) -> BottleneckOutput:
        """Quantizes to values in [-1, 1]."""
        bounded = self._bound(latent_BZ)
        # The value is rounded, and the gradient passes straight through.
        level_index = bounded + (bounded.round() - bounded).detach()
        codes_BZ = level_index / (self._levels(latent_BZ) // 2)
        with torch.no_grad():
            metrics = usage_of_choices(self.codes_to_indices(codes_BZ).flatten(), self.num_codes)
        return BottleneckOutput(latent=codes_BZ, loss=latent_BZ.new_zeros(()), metrics=metrics)

    def codes_to_indices(self, codes_BZ: Tensor) -> Tensor:
        """Maps quantized values, float [B, Z], to indices of discrete latents, int64 [B, L]."""
        levels = self._levels(codes_BZ)
        half = levels // 2
        digits = (codes_BZ * half + half).round().long().unflatten(-1, (-1, len(self.levels)))
        return (digits * self._basis(digits)).sum(-1)

    def _bound(self, latent_BZ: Tensor) -> Tensor:
        """Squashes each dimension so that rounding gives exactly its number of levels."""
        levels = self._levels(latent_BZ)
        # A little wider than the levels, because the shift for two levels would otherwise be
        # infinite.
        half_width = (levels - 1) * (1 + 1e-3) / 2
        # With an even number of levels, no level is at 0, so the values are shifted by half a
        # level.
        offset = torch.where(levels % 2 == 0, 0.5, 0.0)
        shift = (offset / half_width).atanh()
        return (latent_BZ + shift).tanh() * half_width - offset

    def _levels(self, like_BZ: Tensor) -> Tensor:
        repeats = like_BZ.shape[-1] // len(self.levels)
        return device_constant(self.levels * repeats, like_BZ.device)

    def _basis(self, like: Tensor) -> Tensor:
        return device_constant((1, *self.levels[:-1]), like.device).cumprod(0)
