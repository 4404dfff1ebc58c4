"""Bottlenecks between the IDM and the FDM, which keep z_t from encoding the whole next frame.

A bottleneck has two parts. ``normalize`` is deterministic and continuous, and its output is the
latent action that policies learn. ``forward`` adds quantization or noise, which only the FDM sees.
"""

# Shape suffixes in this file: B batch, Z latent action.

from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, nn

from lafp.config import Choice


@dataclass(frozen=True, kw_only=True)
class BottleneckOutput:
    """Output of a bottleneck: the latent action for the FDM, and a loss."""

    latent: Tensor
    """float [B, Z]. Quantization is treated as the identity for gradients."""
    loss: Tensor
    """Scalar, e.g. the commitment loss; 0 if the bottleneck has no loss."""
    metrics: dict[str, Tensor]


class Bottleneck(nn.Module):
    """The base class of bottlenecks. Its methods change nothing."""

    Config: Any

    def normalize(self, latent_BZ: Tensor) -> Tensor:
        """Maps the IDM's output to the latent action that policies learn."""
        return latent_BZ

    def forward(self, latent_BZ: Tensor) -> BottleneckOutput:
        """Maps normalized latents to the latents that the FDM sees."""
        return BottleneckOutput(latent=latent_BZ, loss=latent_BZ.new_zeros(()), metrics={})

    def after_step(self) -> None:
        """Does work after an optimizer step. The loop calls it after each one."""
        return

    def discard_step(self) -> None:
        """Drops what the forward passes collected. Called if the optimizer step is skipped."""
        return


class BottleneckConfig(Choice, Protocol):
    """The config of any bottleneck."""

    def check(self, latent_action_dim: int) -> None:
        """Raises ValueError if a latent action of this size does not fit the bottleneck."""


@dataclass(frozen=True, kw_only=True)
class NoBottleneckConfig:
    """No bottleneck: the latent action is continuous, and only its size limits it."""

    name: str = "none"

    def check(self, latent_action_dim: int) -> None:
        """Raises ValueError if a latent action of this size does not fit the bottleneck."""


class NoBottleneck(Bottleneck):
    """The identity, for LAMs without a bottleneck."""

    Config = NoBottleneckConfig

    def __init__(self, cfg: NoBottleneckConfig, latent_action_dim: int) -> None:
        super().__init__()
