"""Observation encoders, which map stacked frames to one vector."""

# Shape suffixes in this file: B batch, C channels (3 F), H height, W width, E embedding.

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lafp.config.ranges import check_at_least
from lafp.types import ObsSpec


class Encoder(nn.Module):
    """Embeds observations. Subclasses set ``embed_dim`` and ``layers``."""

    Config: Any
    embed_dim: int
    """E, size of the embedding."""
    layers: nn.Sequential
    map_size: tuple[int, int] | None = None
    """Height and width of the feature map, if the embedding is a flattened map [C, h, w]."""

    def __init__(self, obs: ObsSpec) -> None:
        super().__init__()
        self.input_shape = (obs.num_channels, obs.height_px, obs.width_px)

    def forward(self, obs: Tensor) -> Tensor:
        """Embeds o_t.

        Args:
            obs: float [B, 3 F, H, W] in [-1, 1].

        Returns:
            float [B, E].

        Raises:
            ValueError: The observation has another shape than the encoder was made for.
        """
        self.check_shape(obs)
        # Convolutions keep the memory format of their input, and channels last is the fastest.
        return self.layers(obs.contiguous(memory_format=torch.channels_last))

    def check_shape(self, obs: Tensor) -> None:
        """Raises ValueError if an observation has another shape than the encoder reads."""
        if obs.shape[1:] != self.input_shape:
            raise ValueError(
                f"Expected observations [B, {', '.join(map(str, self.input_shape))}] "
                f"(3 F, H, W), got {tuple(obs.shape)}."
            )


def _check_widths(channels: tuple[int, ...], embed_dim: int | None = None) -> None:
    if not channels or min(channels) < 1:
        raise ValueError(f"channels must be one or more positive widths, got {channels}.")
    if embed_dim is not None and embed_dim < 1:
        raise ValueError(f"embed_dim must be at least 1, got {embed_dim}.")


@dataclass(frozen=True, kw_only=True)
class SmallCnnConfig:
    """Stride-2 convolutions and a linear layer, for small images on a CPU."""

    name: str = "small_cnn"
    channels: tuple[int, ...] = (16, 32, 32)
    """Width of each stride-2 convolution."""
    embed_dim: int = 128
    """E, size of the embedding."""

    def __post_init__(self) -> None:
        _check_widths(self.channels, self.embed_dim)


class SmallCnn(Encoder):
    """Stride-2 3x3 convolutions with ReLU, then a linear layer with ReLU."""

    Config = SmallCnnConfig

    def __init__(self, cfg: SmallCnnConfig, obs: ObsSpec) -> None:
        super().__init__(obs)
        self.embed_dim = cfg.embed_dim
        layers: list[nn.Module] = []
        channels, height, width = self.input_shape
        for out_channels in cfg.channels:
            layers += [nn.Conv2d(channels, out_channels, 3, stride=2, padding=1), nn.ReLU()]
            channels, height, width = out_channels, _halved(height), _halved(width)
        flat_dim = channels * height * width
        layers += [nn.Flatten(), nn.Linear(flat_dim, cfg.embed_dim), nn.ReLU()]
        self.layers = nn.Sequential(*layers)


@dataclass(frozen=True, kw_only=True)
class ImpalaConfig:
    """The IMPALA CNN (Espeholt et al., 2018), as LAPO uses it."""

    name: str = "impala"
    channels: tuple[int, ...] = (16, 32, 32)
    """Width of each stage, before ``scale``."""
    scale: int = 4
    """Multiplies every stage's width (LAPO: 4)."""
    num_res_blocks: int = 2
    """Residual blocks per stage."""
    embed_dim: int = 256
    """E, size of the embedding."""

    def __post_init__(self) -> None:
        _check_widths(self.channels, self.embed_dim)
        check_at_least(self, 1, "scale", "num_res_blocks")


class Impala(Encoder):
    """Stages of convolution, max-pooling and residual blocks, then a linear layer with ReLU."""

    Config = ImpalaConfig

    def __init__(self, cfg: ImpalaConfig, obs: ObsSpec) -> None:
        super().__init__(obs)
        self.embed_dim = cfg.embed_dim
        layers: list[nn.Module] = []
        channels, height, width = self.input_shape
        for out_channels in (cfg.scale * c for c in cfg.channels):
            layers += [nn.Conv2d(channels, out_channels, 3, padding=1)]
            layers += [nn.MaxPool2d(3, stride=2, padding=1)]
            layers += [ResidualBlock(out_channels) for _ in range(cfg.num_res_blocks)]
            channels, height, width = out_channels, _halved(height), _halved(width)
        flat_dim = channels * height * width
        layers += [nn.Flatten(), nn.ReLU(), nn.Linear(flat_dim, cfg.embed_dim), nn.ReLU()]
        self.layers = nn.Sequential(*layers)


@dataclass(frozen=True, kw_only=True)
class StridedResnetConfig:
    """LAOM's encoder without a linear layer: the embedding is the flattened feature map."""

    name: str = "strided_resnet"
    channels: tuple[int, ...] = (16, 32, 32)
    """Width of each stage, before ``scale``. Each stage halves height and width."""
    scale: int = 6
    """Multiplies every stage's width (LAOM: 6)."""
    num_res_blocks: int = 2
    """Residual blocks per stage."""
    has_output_norm: bool = False
    """LayerNorm without parameters over the embedding."""

    def __post_init__(self) -> None:
        _check_widths(self.channels)
        check_at_least(self, 1, "scale", "num_res_blocks")


class StridedResnet(Encoder):
    """Stages of stride-2 convolution and residual blocks with ReLU6 (arXiv:2502.00379).

    E depends on the image size: at 64 px, 32 * 6 channels of 8 x 8 make 12,288.
    """

    Config = StridedResnetConfig

    def __init__(self, cfg: StridedResnetConfig, obs: ObsSpec) -> None:
        super().__init__(obs)
        layers: list[nn.Module] = []
        channels, height, width = self.input_shape
        for out_channels in (cfg.scale * c for c in cfg.channels):
            layers += [nn.Conv2d(channels, out_channels, 3, stride=2, padding=1)]
            layers += [ResidualBlock(out_channels, nn.ReLU6) for _ in range(cfg.num_res_blocks)]
            channels, height, width = out_channels, _halved(height), _halved(width)
        self.embed_dim, self.map_size = channels * height * width, (height, width)
        layers += [nn.Flatten()]
        if cfg.has_output_norm:
            layers += [nn.LayerNorm(self.embed_dim, elementwise_affine=False)]
        self.layers = nn.Sequential(*layers)
        init_orthogonal_(self)


class ResidualBlock(nn.Module):
    """Computes x + conv(act(conv(act(x)))), with 3x3 convolutions that keep the width."""

    def __init__(self, channels: int, activation: type[nn.Module] = nn.ReLU) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            activation(),
            nn.Conv2d(channels, channels, 3, padding=1),
            activation(),
            nn.Conv2d(channels, channels, 3, padding=1),
        )

    def forward(self, features: Tensor) -> Tensor:
        """Maps features [B, C, H, W] to features of the same shape."""
        return features + self.layers(features)


def init_orthogonal_(module: nn.Module) -> None:
    """Sets orthogonal weights and zero biases in every linear and convolution layer, as LAOM does.

    Frozen layers are not changed, because they were trained elsewhere.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d) and layer.weight.requires_grad:
            nn.init.orthogonal_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def _halved(size_px: int) -> int:
    """Returns the output size of a stride-2, 3x3, padding-1 layer."""
    return (size_px + 1) // 2
