"""Defines training engines, which own a module's gradients, optimizer and state."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

import torch
from torch import Tensor, nn

from lafp.config import ConfigError
from lafp.train.optim import OptimConfig
from lafp.types import LossOutput

OwnConfig = TypeVar("OwnConfig", covariant=True)


class EngineSettings(Protocol[OwnConfig]):
    """The part of the training config that engines read.

    An engine names its own config: ``EngineSettings[DdpConfig]``.
    """

    @property
    def engine(self) -> OwnConfig:
        """The engine's own config."""

    @property
    def optim(self) -> OptimConfig:
        """The optimizer and its schedule."""

    @property
    def precision(self) -> Literal["fp32", "bf16"]:
        """Precision of activations; weights stay fp32."""

    @property
    def gradient_accumulation(self) -> int:
        """Micro-batches per optimizer step."""

    @property
    def micro_batch_size(self) -> int:
        """Windows per worker and micro-batch."""


class Engine(ABC):
    """Trains one module in one run: owns its gradients, optimizer and checkpoints.

    Every engine's constructor takes the training config, the module (on any device; all ranks
    start from the weights of rank 0) and the device. If several processes train together,
    ``torch.distributed`` must be initialized before.
    """

    Config: Any
    module: nn.Module
    """The task's module on the device. Under ZeRO-3 its parameters are sharded over the ranks."""

    @abstractmethod
    def forward_backward(self, inputs: object, is_last_round: bool) -> LossOutput:
        """Adds one micro-batch's gradients. The last round averages all of them over the ranks.

        Args:
            inputs: Argument of the module's forward pass.
            is_last_round: Whether this is the last micro-batch of the optimizer step.

        Returns:
            The micro-batch's loss, detached, and its metrics.
        """

    @abstractmethod
    def step(self, lr: float) -> Tensor:
        """Takes an optimizer step with the gradients since the last step, if they are finite.

        Returns:
            The global norm of the gradients before clipping, on the device. If any gradient or the
            loss of any micro-batch is NaN or infinite, then the norm is NaN or infinite on all
            ranks, and the weights stay as they were.
        """

    @abstractmethod
    def gathered(self) -> AbstractContextManager[nn.Module]:
        """Yields the whole module on rank 0, for reading only.

        All ranks must enter the block; the module that other ranks get may be incomplete.
        """

    @abstractmethod
    def save(self, folder: Path, step: int) -> None:
        """Writes this rank's part of a checkpoint into a local folder. All ranks call it."""

    @abstractmethod
    def load(self, folder: Path) -> int:
        """Restores what ``save`` wrote, on any number of workers, and returns its step.

        All ranks call it, before training.

        Raises:
            ConfigError: Another engine wrote the checkpoint.
        """


def autocast(cfg: EngineSettings[object], device: torch.device) -> AbstractContextManager:
    """Switches to bf16 within the block if the config says so; weights stay fp32."""
    return torch.autocast(device.type, torch.bfloat16, enabled=cfg.precision == "bf16")


def nan_gradients_unless_finite(loss: Tensor) -> Tensor:
    """Returns the loss; if it is not finite, all gradients that come from it become NaN.

    A loss can overflow although its gradients do not. The NaN gradients show the overflow to all
    ranks, because it reaches the gradients' global norm.
    """
    return loss * torch.where(torch.isfinite(loss.detach()), 1.0, torch.nan)


@contextmanager
def ungathered(module: nn.Module) -> Iterator[nn.Module]:
    """Implements ``Engine.gathered`` for an engine that does not shard its module."""
    yield module


@contextmanager
def loading(optimizer: Any) -> Iterator[None]:
    """Guards a block that loads a checkpoint into an optimizer.

    The moments then come from the checkpoint; betas, eps and weight decay from the config.

    Args:
        optimizer: An optimizer with ``param_groups``, built from the config.

    Raises:
        ConfigError: The checkpoint belongs to another model.
    """
    before = [dict(group) for group in optimizer.param_groups]
    try:
        yield
    # This error is a RuntimeError too, but does not mean that the checkpoint does not fit.
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, ValueError, KeyError, AssertionError) as error:
        first_lines = " ".join(str(error).split())[:300]
        raise ConfigError(
            f"The last checkpoint does not fit the model of this config: {first_lines} Take back "
            "what was changed, or use another --run-name."
        ) from error
    for group, settings in zip(optimizer.param_groups, before, strict=True):
        group |= {name: settings[name] for name in ("betas", "eps", "weight_decay")}
