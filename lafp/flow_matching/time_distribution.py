"""Distributions of the flow time t in [0, 1], from which training draws."""

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from lafp.config.ranges import check_positive
from lafp.device_constants import device_constant


class TimeDistribution(Protocol):
    """Draws flow times from torch's default generator."""

    Config: Any

    def sample(self, num: int, device: torch.device) -> Tensor:
        """Draws ``num`` flow times, float32 [num] in [0, 1]."""
        ...


@dataclass(frozen=True, kw_only=True)
class UniformTimeConfig:
    """t ~ U(0, 1): every time is equally likely."""

    name: str = "uniform"


class UniformTime:
    """t ~ U(0, 1)."""

    Config = UniformTimeConfig

    def __init__(self, cfg: UniformTimeConfig) -> None:
        del cfg

    def sample(self, num: int, device: torch.device) -> Tensor:
        """Draws ``num`` flow times, float32 [num]."""
        return torch.rand(num, device=device)


@dataclass(frozen=True, kw_only=True)
class LogitNormalTimeConfig:
    """Times in the middle of the path are more likely (Esser et al., arXiv:2403.03206)."""

    name: str = "logit_normal"
    mean: float = 0.0
    """Mean of the logit of t. Values below 0 favour times near noise (JiT: -0.8)."""
    std: float = 1.0
    """Standard deviation of the logit of t (JiT: 0.8)."""

    def __post_init__(self) -> None:
        check_positive(self, "std")


class LogitNormalTime:
    """t = sigmoid(mean + std n), n ~ N(0, 1)."""

    Config = LogitNormalTimeConfig

    def __init__(self, cfg: LogitNormalTimeConfig) -> None:
        self.cfg = cfg

    def sample(self, num: int, device: torch.device) -> Tensor:
        """Draws ``num`` times."""
        return torch.sigmoid(self.cfg.mean + self.cfg.std * torch.randn(num, device=device))


@dataclass(frozen=True, kw_only=True)
class BetaTimeConfig:
    """t ~ Beta(alpha, beta)."""

    name: str = "beta"
    alpha: float = 1.0
    """Values below ``beta`` favour times near noise (pi0, arXiv:2410.24164: 1 and 1.5)."""
    beta: float = 1.5

    def __post_init__(self) -> None:
        check_positive(self, "alpha", "beta")


class BetaTime:
    """t ~ Beta(alpha, beta)."""

    Config = BetaTimeConfig

    def __init__(self, cfg: BetaTimeConfig) -> None:
        self.cfg = cfg

    def sample(self, num: int, device: torch.device) -> Tensor:
        """Draws ``num`` times."""
        alpha, beta = device_constant((self.cfg.alpha, self.cfg.beta), device)
        # The config has been checked, and a check of the tensors would wait for the device.
        return torch.distributions.Beta(alpha, beta, validate_args=False).sample((num,))
