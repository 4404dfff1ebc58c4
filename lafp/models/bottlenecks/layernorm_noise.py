"""LayerNorm and noise: a bottleneck that limits how much a continuous latent action tells."""

# Shape suffixes in this file: B batch, Z latent action.

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lafp.config.ranges import check_at_least
from lafp.models.bottlenecks.base import Bottleneck, BottleneckOutput


@dataclass(frozen=True, kw_only=True)
class LayerNormNoiseConfig:
    """LayerNorm without parameters, and Gaussian noise in training, which limit the capacity."""

    name: str = "layernorm_noise"
    noise_std: float = 0.3
    """Standard deviation of the noise, relative to the normalized latent's of 1."""

    def __post_init__(self) -> None:
        check_at_least(self, 0, "noise_std")

    def check(self, latent_action_dim: int) -> None:
        """See ``NoBottleneckConfig.check``."""
        if latent_action_dim < 3:
            raise ValueError(
                f"layernorm_noise needs a latent_action_dim of at least 3, got {latent_action_dim}:"
                " LayerNorm takes two degrees of freedom."
            )


class LayerNormNoise(Bottleneck):
    """Normalizes the IDM's output to z. In training the FDM sees z + noise_std * N(0, I).

    Without the norm, the IDM could enlarge z until the noise does not matter.
    """

    Config = LayerNormNoiseConfig

    def __init__(self, cfg: LayerNormNoiseConfig, latent_action_dim: int) -> None:
        super().__init__()
        cfg.check(latent_action_dim)
        self.noise_std = cfg.noise_std
        self.norm = nn.LayerNorm(latent_action_dim, elementwise_affine=False)

    def normalize(self, latent_BZ: Tensor) -> Tensor:
        """Applies LayerNorm over Z."""
        return self.norm(latent_BZ)

    def forward(self, latent_BZ: Tensor) -> BottleneckOutput:
        """Adds the noise in training mode."""
        if self.training:
            latent_BZ = latent_BZ + self.noise_std * torch.randn_like(latent_BZ)
        return super().forward(latent_BZ)
