"""What the training loop trains. A LAM, a policy and an action decoder are each one Task."""

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import nn

from lafp.data.order.demand import ClipDemand
from lafp.types import ClipBatch, LossOutput

__all__ = ["ClipDemand", "Task", "TrainedModule"]


class TrainedModule(Protocol):
    """The ``nn.Module`` that the engine wraps: everything with gradients, and nothing else."""

    def forward(self, inputs: Any) -> LossOutput:
        """Loss of one micro-batch of ``Task.inputs``."""
        ...

    def after_step(self) -> None:
        """After each optimizer step, e.g. the EMA of a target encoder."""
        ...

    def discard_step(self) -> None:
        """Instead of ``after_step``, where a step is skipped: drops what forward passes collected.

        Buffers are put back by the loop.
        """
        ...


class Task(Protocol):
    """A module, the clips it wants, and how clips become its inputs.

    Frozen models (a policy's LAM) belong to the task, not to its module, so that engines neither
    shard nor checkpoint them.
    """

    module: nn.Module
    """A ``TrainedModule``."""

    def prepare(self, device: torch.device) -> None:
        """Once, before a run's first step: what ``module`` must know of the data by then.

        All ranks call it, with the module on ``device``; it may use collectives. A resumed run
        finds the outcome in its checkpoint.
        """
        ...

    def demands(self) -> Mapping[str, ClipDemand]:
        """The streams, by name."""
        ...

    def inputs(self, clips: Mapping[str, ClipBatch]) -> Any:
        """Clips on the device -> what ``module`` takes. Without gradients."""
        ...

    def evaluate(self, module: nn.Module) -> dict[str, float]:
        """Metrics on held-out clips, e.g. the linear probe. Runs on rank 0, no collectives.

        ``module`` comes in eval mode and without gradients.
        """
        ...

    def export(self, module: nn.Module, uri: str, metrics: dict[str, float]) -> None:
        """Writes the finished model below ``uri`` (``finished.saved_model``). Runs on rank 0."""
        ...
