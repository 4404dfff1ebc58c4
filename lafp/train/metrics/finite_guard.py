"""Finds steps whose loss or gradients are not finite, which engines never take."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from lafp.data.shards.format import id_prefix
from lafp.ranks import world_size
from lafp.types import LossOutput

SKIPPED = "skipped_steps"
"""Name of the metric, which exists with ``on_non_finite: skip``."""
NEVER = torch.iinfo(torch.int64).max


class NonFiniteLossError(RuntimeError):
    """Loss or gradients became NaN or infinite. The message names the step and its clips."""


class FiniteGuard:
    """Ends the run after a step that is not finite, or skips such steps. All ranks act alike.

    Args:
        module: The module that is trained.
        device: Device of the losses.
        max_skipped_steps: Most steps in a row that may be skipped. The host then waits for the
            device in every step. None: ``read`` raises an error after the first such step.
    """

    def __init__(
        self, module: nn.Module, device: torch.device, max_skipped_steps: int | None = None
    ) -> None:
        self._module = module
        self._max_skipped_steps = max_skipped_steps
        self._num_skipped_in_a_row = 0
        self._buffers: list[tuple[Tensor, Tensor]] = []
        self._first_bad = self._first_bad_loss = torch.tensor(NEVER, device=device)
        self._clip_keys: dict[int, Tensor] = {}
        self._skipped: list[tuple[int, bool]] = []

    def begin_step(self) -> None:
        """Keeps the module's buffers, which forward passes change, if the step may be skipped."""
        # Forward passes may change buffers (statistics, codebooks) before a step turns out to be
        # skipped.
        if self._max_skipped_steps is not None:
            self._buffers = [(buffer, buffer.clone()) for buffer in self._module.buffers()]

    def end_step(
        self, step: int, outs: Sequence[LossOutput], clip_keys: Sequence[Tensor], grad_norm: Tensor
    ) -> bool:
        """Checks whether a step was finite. If it is skipped, the buffers are restored.

        Args:
            step: The step.
            outs: Its micro-batches on this rank.
            clip_keys: Keys of their clips.
            grad_norm: Result of ``Engine.step``.

        Returns:
            Whether the step was taken. Without ``max_skipped_steps`` this is always True, because
            the host does not look at the device.

        Raises:
            NonFiniteLossError: On every rank, after too many skipped steps in a row.
        """
        self._clip_keys[step] = torch.cat(list(clip_keys))
        is_bad = ~torch.isfinite(grad_norm)
        is_bad_loss = ~torch.isfinite(torch.stack([out.loss.detach() for out in outs])).all()
        if self._max_skipped_steps is not None:
            if bool(is_bad):
                self._skip(step, bool(is_bad_loss), self._max_skipped_steps)
                return False
            # The clips of taken steps are never named. Between two reports there may be many.
            del self._clip_keys[step]
            self._num_skipped_in_a_row = 0
            return True
        # A bad loss on one rank makes the gradients bad on all ranks, so all know of the step.
        self._first_bad = _earlier(self._first_bad, step, is_bad | is_bad_loss)
        self._first_bad_loss = _earlier(self._first_bad_loss, step, is_bad_loss)
        return True

    def read(self) -> list[dict[str, Any]] | None:
        """Returns the steps skipped since the last call and the ids of their clips.

        All ranks call it.

        Returns:
            None without ``max_skipped_steps``.

        Raises:
            NonFiniteLossError: The loss or gradients of a step were NaN or infinite. Every rank
                raises it.
        """
        if self._max_skipped_steps is None:
            first_bad = self._first_bad.clone()
            if world_size() > 1:
                dist.all_reduce(first_bad, op=dist.ReduceOp.MIN)
            if (step := int(first_bad)) < NEVER:
                raise NonFiniteLossError(self._reason(step, int(self._first_bad_loss) == step))
            self._clip_keys.clear()
            return None
        rows = [
            {"step": step, "clip_ids_begin_with": self._clips_of(step, is_bad_loss)[1]}
            for step, is_bad_loss in self._skipped
        ]
        self._skipped.clear()
        self._clip_keys.clear()
        return rows

    def _skip(self, step: int, is_bad_loss: bool, max_in_a_row: int) -> None:
        self._skipped.append((step, is_bad_loss))
        self._num_skipped_in_a_row += 1
        if self._num_skipped_in_a_row > max_in_a_row:
            raise NonFiniteLossError(
                f"{self._num_skipped_in_a_row} steps in a row were skipped. "
                + self._reason(step, is_bad_loss)
            )
        # The forward passes have changed the buffers already, and a NaN in an average would stay.
        for buffer, before in self._buffers:
            buffer.copy_(before)

    def _reason(self, step: int, is_bad_loss: bool) -> str:
        is_loss, clip_ids = self._clips_of(step, is_bad_loss)
        return (
            f"The {'loss' if is_loss else 'gradient'} of step {step} is not finite. To go on from "
            "the last checkpoint, run the same command again with --accept-changes and a lower "
            "train.optim.lr, or a train.optim.max_grad_norm; or with train.on_non_finite=skip, "
            "which leaves such steps out. Or look at its clips; their ids begin with: "
            f"{', '.join(clip_ids)}."
        )

    def _clips_of(self, step: int, is_bad_loss: bool) -> tuple[bool, list[str]]:
        """Says whether any rank's loss was bad, and lists the clips of those ranks, or else of all.

        The method is a collective, so all ranks call it.
        """
        mine: tuple[bool, list[int]] = is_bad_loss, self._clip_keys[step].tolist()
        everyones = [mine]
        if world_size() > 1:
            everyones = [mine] * world_size()
            dist.all_gather_object(everyones, mine)
        is_loss = any(is_bad for is_bad, _ in everyones)
        prefixes = [
            id_prefix(key) for is_bad, keys in everyones if is_bad or not is_loss for key in keys
        ]
        return is_loss, list(dict.fromkeys(prefixes))


def _earlier(first: Tensor, step: int, is_bad: Tensor) -> Tensor:
    return torch.where(is_bad, first.clamp(max=step), first)
