"""Defines what the training loop trains. A LAM, a policy and an action decoder are each a Task."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import nn

from lafp.data.order.demand import ClipDemand
from lafp.types import ClipBatch, LossOutput

__all__ = ["ClipDemand", "Task", "TrainedModule"]


class TrainedModule(Protocol):
    """The ``nn.Module`` that the engine wraps. It holds all that is trained, and nothing else."""

    def forward(self, inputs: Any) -> LossOutput:
        """Computes the loss of one micro-batch of ``Task.inputs``."""
        ...

    def networks(self) -> Sequence[nn.Module]:
        """Returns the parts that take most of the time, which ``train.compile`` compiles.

        They may not change anything of themselves in a forward pass.
        """
        ...

    def after_step(self) -> None:
        """Runs after each optimizer step, e.g. to update the EMA of a target encoder."""
        ...

    def discard_step(self) -> None:
        """Runs instead of ``after_step`` if a step is skipped.

        It drops what forward passes collected. The loop restores the buffers.
        """
        ...


class Task(Protocol):
    """A module, the clips that it trains on, and the conversion of clips to its inputs.

    Frozen models (a policy's LAM) belong to the task, not to its module, so that engines neither
    shard nor checkpoint them.
    """

    module: nn.Module
    """A ``TrainedModule``."""

    def prepare(self, device: torch.device) -> None:
        """Fits the parts of ``module`` that depend on the data, once before a run's first step.

        All ranks call it, with the module on ``device``; it may use collectives. A resumed run
        finds the result in its checkpoint.
        """
        ...

    def demands(self) -> Mapping[str, ClipDemand]:
        """Returns the streams of clips that the task needs, by name."""
        ...

    def inputs(self, clips: Mapping[str, ClipBatch]) -> Any:
        """Converts clips on the device to the inputs of ``module``, without gradients."""
        ...

    def evaluate(self, module: nn.Module) -> dict[str, float]:
        """Measures metrics on held-out clips, e.g. the linear probe.

        It runs on rank 0 only, so it must not use collectives. ``module`` is in eval mode, and
        gradients are off.
        """
        ...

    def save(self, module: nn.Module, uri: str, metrics: dict[str, float]) -> None:
        """Writes the finished model below ``uri`` (``finished.saved_model``). Runs on rank 0."""
        ...
