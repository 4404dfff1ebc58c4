"""A small vision transformer, trained from scratch."""

# Shape suffixes in this file: B batch, N tokens (patches), D width, H heads.

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lafp.config.ranges import check_at_least
from lafp.models.encoders import Encoder
from lafp.types import ObsSpec


@dataclass(frozen=True, kw_only=True)
class VitConfig:
    """A vision transformer (Dosovitskiy et al., arXiv:2010.11929), pre-norm, mean-pooled."""

    name: str = "vit"
    patch_size_px: int = 8
    """Height and width of a patch; images are padded to whole patches."""
    width: int = 192
    """Size of every token, and of the embedding (E)."""
    depth: int = 6
    """Transformer blocks."""
    num_heads: int = 3
    mlp_ratio: int = 4
    """Width of a block's hidden layer, as a multiple of ``width``."""

    def __post_init__(self) -> None:
        check_at_least(self, 1, "patch_size_px", "width", "depth", "num_heads", "mlp_ratio")
        if self.width % self.num_heads:
            raise ValueError(f"width {self.width} is no multiple of num_heads {self.num_heads}.")


class Vit(Encoder):
    """Turns patches of all stacked frames into tokens, applies blocks, and averages the tokens."""

    Config = VitConfig

    def __init__(self, cfg: VitConfig, obs: ObsSpec) -> None:
        super().__init__(obs)
        self.embed_dim = cfg.width
        self.layers = nn.Sequential(
            PatchTokens(cfg, self.input_shape),
            *(Block(cfg) for _ in range(cfg.depth)),
            nn.LayerNorm(cfg.width),
            MeanOfTokens(),
        )


class PatchTokens(nn.Module):
    """A linear map of each patch, plus a learned position."""

    def __init__(self, cfg: VitConfig, input_shape: tuple[int, int, int]) -> None:
        super().__init__()
        channels, *size = input_shape
        patch = cfg.patch_size_px
        rows, columns = (-(-side // patch) for side in size)
        # Padded at the right and the bottom, so that pixels keep their positions.
        self.padding = (0, columns * patch - size[1], 0, rows * patch - size[0])
        self.projection = nn.Conv2d(channels, cfg.width, patch, stride=patch)
        self.position = nn.Parameter(0.02 * torch.randn(1, rows * columns, cfg.width))

    def forward(self, obs: Tensor) -> Tensor:
        """Maps images, float [B, C, H, W], to tokens, [B, N, D]."""
        patches_BDRC = self.projection(F.pad(obs, self.padding))
        return patches_BDRC.flatten(2).transpose(1, 2) + self.position


class Block(nn.Module):
    """Computes x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, cfg: VitConfig) -> None:
        super().__init__()
        width, hidden = cfg.width, cfg.mlp_ratio * cfg.width
        self.num_heads = cfg.num_heads
        self.attention_norm, self.mlp_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.to_qkv, self.from_heads = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))

    def forward(self, tokens_BND: Tensor) -> Tensor:
        """Maps tokens, [B, N, D], to tokens of the same shape."""
        tokens_BND = tokens_BND + self._attention(self.attention_norm(tokens_BND))
        return tokens_BND + self.mlp(self.mlp_norm(tokens_BND))

    def _attention(self, tokens_BND: Tensor) -> Tensor:
        qkv = self.to_qkv(tokens_BND).unflatten(2, (3, self.num_heads, -1))
        query, key, value = qkv.permute(2, 0, 3, 1, 4)  # each [B, H, N, D / H]
        mixed = F.scaled_dot_product_attention(query, key, value)
        return self.from_heads(mixed.transpose(1, 2).flatten(2))


class MeanOfTokens(nn.Module):
    """Averages tokens: [B, N, D] to [B, D]."""

    def forward(self, tokens_BND: Tensor) -> Tensor:
        """See the class."""
        return tokens_BND.mean(dim=1)
