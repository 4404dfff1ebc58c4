"""Forward dynamics models, which predict the next observation from a latent action."""

# Shape suffixes in this file: B batch, C channels, H height, W width, E embedding,
# Z latent action.

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lafp.config.ranges import check_at_least
from lafp.models.encoders import ResidualBlock
from lafp.models.idm import HeadConfig
from lafp.models.mlp import RereadingMlp
from lafp.types import ObsSpec


@dataclass(frozen=True, kw_only=True)
class UNetConfig:
    """Size of a convolutional U-Net."""

    channels: tuple[int, ...] = (32, 64, 128, 256)
    """Width of each level; each level after the first halves height and width."""
    num_res_blocks: int = 1
    """Residual blocks per level, on the way down and on the way up."""

    def __post_init__(self) -> None:
        if len(self.channels) < 2 or min(self.channels) < 1:
            raise ValueError(f"channels must be two or more positive widths, got {self.channels}.")
        check_at_least(self, 0, "num_res_blocks")


class UNetFdm(nn.Module):
    """LAPO's FDM: a U-Net from (o_t, z_t) to pixels of o_{t+1}.

    As in LAPO (arXiv:2312.10812), z_t enters at the first level and in the middle. Our deviations:
    at the first level z_t is a bias per channel, which equals a convolution over a constant map. In
    the middle a linear layer maps z_t to a whole feature map, so that z_t can tell where something
    moves. There is no batch normalisation, whose statistics would depend on the micro-batch and on
    the rank.
    """

    def __init__(
        self, cfg: UNetConfig, obs: ObsSpec, latent_action_dim: int, is_half_size: bool
    ) -> None:
        super().__init__()
        height, width = obs.height_px, obs.width_px
        if is_half_size:
            height, width = (height + 1) // 2, (width + 1) // 2
        stem_stride = 2 if is_half_size else 1
        first, last = cfg.channels[0], cfg.channels[-1]

        self.stem = nn.Conv2d(obs.num_channels, first, 3, stride=stem_stride, padding=1)
        self.stem_bias = nn.Linear(latent_action_dim, first)
        self.stem_blocks = _res_blocks(first, cfg.num_res_blocks)
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        for fine, coarse in zip(cfg.channels, cfg.channels[1:], strict=False):
            self.down.append(
                nn.Sequential(
                    nn.ReLU(),
                    nn.Conv2d(fine, coarse, 3, stride=2, padding=1),
                    _res_blocks(coarse, cfg.num_res_blocks),
                )
            )
            self.up.append(_UpLevel(coarse, fine, cfg.num_res_blocks))
            height, width = (height + 1) // 2, (width + 1) // 2
        self.middle_shape = (last, height, width)
        self.middle = nn.Linear(latent_action_dim, last * height * width)
        self.merge = nn.Conv2d(2 * last, last, 1)
        self.output = nn.Sequential(nn.ReLU(), nn.Conv2d(first, 3, 3, padding=1))

    def forward(self, obs: Tensor, latent_action: Tensor) -> Tensor:
        """Predicts the newest frame of o_{t+1}, or its change.

        Args:
            obs: o_t, float [B, 3 F, H, W] in [-1, 1].
            latent_action: z_t, float [B, Z].

        Returns:
            float [B, 3, H, W], or half of H and W (rounded up); unbounded.
        """
        features = self.stem(obs) + self.stem_bias(latent_action)[:, :, None, None]
        features = self.stem_blocks(features)
        skips = []
        for level in self.down:
            skips.append(features)
            features = level(features)
        action_map = self.middle(latent_action).view(-1, *self.middle_shape)
        # All layers that follow keep this format, and would be slow in a mixed one.
        action_map = action_map.contiguous(memory_format=torch.channels_last)
        features = self.merge(torch.cat([features, action_map], dim=1))
        for level, skip in zip(reversed(self.up), reversed(skips), strict=True):
            features = level(features, skip)
        return self.output(features)


class _UpLevel(nn.Module):
    """Upsamples features to the size of the skip connection and merges both."""

    def __init__(self, coarse: int, fine: int, num_res_blocks: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(coarse, fine, 1)
        self.merge = nn.Conv2d(2 * fine, fine, 3, padding=1)
        self.blocks = _res_blocks(fine, num_res_blocks)

    def forward(self, features: Tensor, skip: Tensor) -> Tensor:
        # Reduced before upsampling, because the 1x1 convolution costs a quarter at the coarse size.
        # The size and not a factor of 2, because halving an odd size has rounded it up.
        features = F.interpolate(self.reduce(F.relu(features)), size=skip.shape[-2:])
        return self.blocks(self.merge(torch.cat([features, skip], dim=1)))


def _res_blocks(channels: int, num_blocks: int) -> nn.Sequential:
    return nn.Sequential(*(ResidualBlock(channels) for _ in range(num_blocks)))


class EmbeddingFdm(nn.Module):
    """LAOM's FDM: predicts the embedding of o_{t+1} from that of o_t and z_t.

    Every block reads z_t again.
    """

    def __init__(self, cfg: HeadConfig, embed_dim: int, latent_action_dim: int) -> None:
        super().__init__()
        self.mlp = RereadingMlp(
            embed_dim, latent_action_dim, cfg.hidden_dim, embed_dim, cfg.num_blocks
        )

    def forward(self, obs_BE: Tensor, latent_action: Tensor) -> Tensor:
        """Maps the embedding [B, E] and z_t [B, Z] to the predicted embedding, float [B, E]."""
        return self.mlp(obs_BE, latent_action)
