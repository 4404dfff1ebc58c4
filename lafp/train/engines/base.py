"""What a training engine does: it owns the module's gradients, its optimizer and its state."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn

from lafp.config import ConfigError
from lafp.train.optim import OptimConfig
from lafp.types import LossOutput


class EngineSettings(Protocol):
    """What engines read of the training config."""

    @property
    def engine(self) -> Any:
        """The engine's own config."""

    @property
    def optim(self) -> OptimConfig:
        """The optimizer and its schedule."""

    @property
    def precision(self) -> Literal["fp32", "bf16"]:
        """Of activations; weights stay fp32."""

    @property
    def gradient_accumulation(self) -> int:
        """Micro-batches per optimizer step."""

    @property
    def micro_batch_size(self) -> int:
        """Windows per worker and micro-batch."""


class Engine(ABC):
    """Wraps one module for one run.

    Args of every engine's constructor: the training config, the module (its weights may lie
    anywhere; all ranks start from rank 0's) and the device. Where the world has several
    processes, ``torch.distributed`` is initialised before.
    """

    Config: Any
    module: nn.Module
    """The task's module on the device. Under ZeRO-3 its parameters are cut over the ranks."""

    @abstractmethod
    def forward_backward(self, inputs: Any, is_last_round: bool) -> LossOutput:
        """Adds one micro-batch's gradients; those of the last round are averaged over ranks.

        Returns:
            The micro-batch's loss, detached, and its metrics.
        """

    @abstractmethod
    def step(self, lr: float) -> Tensor:
        """One optimizer step with the gradients since the last one; none if they are not finite.

        Returns:
            Their global norm before clipping, on the device. NaN or infinite, on all ranks, where
            any gradient or the loss of any micro-batch is: then the weights are what they were.
        """

    @abstractmethod
    def gathered(self) -> AbstractContextManager[nn.Module]:
        """The whole module, for reading on rank 0. All ranks enter; others get any module."""

    @abstractmethod
    def save(self, folder: Path, step: int) -> None:
        """Writes this rank's part of a checkpoint into a local folder. All ranks call it."""

    @abstractmethod
    def load(self, folder: Path) -> int:
        """Restores what ``save`` wrote, on any number of workers, and returns its step.

        All ranks call it, before training.

        Raises:
            ConfigError: The checkpoint is another engine's.
        """


def autocast(cfg: EngineSettings, device: torch.device) -> AbstractContextManager:
    """bf16 where the config says so; weights stay fp32."""
    return torch.autocast(device.type, torch.bfloat16, enabled=cfg.precision == "bf16")


def spoiled_unless_finite(loss: Tensor) -> Tensor:
    """The loss; if it is not finite, with NaN as the gradient of everything that it depends on.

    A loss can overflow although its gradients do not. So all ranks see it in the gradients' norm.
    """
    return loss * torch.where(torch.isfinite(loss.detach()), 1.0, torch.nan)


def world_size() -> int:
    """Processes that train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


@contextmanager
def whole(module: nn.Module) -> Iterator[nn.Module]:
    """``Engine.gathered`` of an engine that never cuts its module."""
    yield module


@contextmanager
def loading(optimizer: Any) -> Iterator[None]:
    """The block loads a checkpoint. Moments come from it; betas, eps and decay from the config.

    Args:
        optimizer: One with ``param_groups``, built from the config.

    Raises:
        ConfigError: The checkpoint is of another model.
    """
    before = [dict(group) for group in optimizer.param_groups]
    try:
        yield
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
