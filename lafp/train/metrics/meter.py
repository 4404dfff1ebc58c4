"""Averages losses and metrics during training without making the host wait for the device."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from lafp.data.shards.format import id_prefix
from lafp.losses.forward_dynamics import explained_change
from lafp.storage.strict_json import defined
from lafp.types import ClipBatch, LossOutput

SKIPPED = "skipped_steps"
"""Name of the metric, which exists with ``on_non_finite: skip``."""
NEVER = torch.iinfo(torch.int64).max


class NonFiniteLossError(RuntimeError):
    """Loss or gradients became NaN or infinite. The message names the step and its clips."""


class Meter:
    """Averages metrics over the steps since the last report. Sums stay on the device until then.

    Args:
        device: Device of the losses.
        windows_per_step: Windows per step, over all ranks.
        max_skipped_steps: Most steps in a row that may be skipped because they are not finite. The
            host then waits for the device in every step. None: the first such step raises an error
            at the next report.
    """

    def __init__(
        self, device: torch.device, windows_per_step: int, max_skipped_steps: int | None = None
    ) -> None:
        self._device = device
        self._windows_per_step = windows_per_step
        self._max_skipped_steps = max_skipped_steps
        self._num_skipped_in_a_row = 0
        self._none_bad = torch.zeros((), dtype=torch.bool, device=device)
        self.restart()

    def restart(self) -> None:
        """Begins a new interval, e.g. after an evaluation, whose time must not count."""
        self._start = time.perf_counter()
        self._waiting_s = 0.0
        self._num_steps = 0
        self._sums: dict[str, Tensor] = {}
        self._num_rounds: dict[str, Tensor] = {}
        self._pending: list[LossOutput] = []
        self._first_bad = self._first_bad_loss = torch.tensor(NEVER, device=self._device)
        self._clip_keys: dict[int, list[Tensor]] = {}
        self._skipped: list[tuple[int, bool]] = []

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Counts the time in the block as waiting for data."""
        start = time.perf_counter()
        yield
        self._waiting_s += time.perf_counter() - start

    def add(self, step: int, out: LossOutput, clips: Mapping[str, ClipBatch]) -> None:
        """Adds one micro-batch of one step."""
        self._pending.append(out)
        keys = self._clip_keys.setdefault(step, [])
        keys.extend(batch.clip_key for batch in clips.values())

    def end_step(self, step: int, grad_norm: Tensor) -> bool:
        """Counts the step, or marks it as skipped. All ranks decide alike.

        Args:
            step: The step of the micro-batches since the last call.
            grad_norm: Result of ``Engine.step``.

        Returns:
            Whether the step was taken. Without ``max_skipped_steps`` this is always True, because
            the host does not look at the device.

        Raises:
            NonFiniteLossError: On every rank, after too many skipped steps in a row.
        """
        outs, self._pending = self._pending, []
        self._num_steps += 1
        is_bad, is_bad_loss = ~torch.isfinite(grad_norm), self._none_bad
        for out in outs:
            is_bad_loss = is_bad_loss | ~torch.isfinite(out.loss.detach())
        if self._max_skipped_steps is not None:
            if bool(is_bad):
                self._skip(step, bool(is_bad_loss), self._max_skipped_steps)
                return False
            # The clips of taken steps are never named. Between two reports there may be many.
            del self._clip_keys[step]
            self._num_skipped_in_a_row = 0
        for out in outs:
            for name, value in {"loss": out.loss, **out.metrics}.items():
                self._add_defined(name, value.detach())
        # A bad loss on one rank makes the gradients bad on all ranks, so all know of the step.
        self._first_bad = _earlier(self._first_bad, step, is_bad | is_bad_loss)
        self._first_bad_loss = _earlier(self._first_bad_loss, step, is_bad_loss)
        return True

    def _add_defined(self, name: str, value: Tensor) -> None:
        """Adds a metric to its mean unless it is not finite, which means that it is undefined."""
        is_defined = torch.isfinite(value)
        for sums, addend in (
            # `where` and not a product, because NaN times 0 is NaN.
            (self._sums, torch.where(is_defined, value, 0.0)),
            (self._num_rounds, is_defined),
        ):
            total = sums.setdefault(name, torch.zeros((), device=self._device))
            total += addend

    def read(self) -> dict[str, float]:
        """Returns the interval's metrics, averaged over micro-batches and ranks.

        All ranks call it. Metrics that were undefined in all micro-batches are absent.

        Raises:
            NonFiniteLossError: The loss or gradients of a step were NaN or infinite. Every rank
                raises it.
        """
        values: dict[str, float] = {}
        if names := sorted(self._sums):
            of_names = ([of[name] for name in names] for of in (self._sums, self._num_rounds))
            sums = torch.stack([torch.stack(values) for values in of_names])
            first_bad = self._first_bad
            if _is_distributed():
                dist.all_reduce(sums)
                first_bad = first_bad.clone()
                dist.all_reduce(first_bad, op=dist.ReduceOp.MIN)
            if (step := int(first_bad)) < NEVER:
                raise NonFiniteLossError(
                    self._what_was_bad(step, int(self._first_bad_loss) == step)
                )
            means = sums[0] / sums[1]  # only the next line waits for the device
            values = defined(dict(zip(names, means.tolist(), strict=True)))
            values |= explained_change(values)
        if self._max_skipped_steps is not None:
            values[SKIPPED] = len(self._skipped)
        elapsed_s = time.perf_counter() - self._start
        return values | {
            "windows_per_s": self._num_steps * self._windows_per_step / elapsed_s,
            "step_s": elapsed_s / self._num_steps,
            "data_wait_share": self._waiting_s / elapsed_s,
        }

    def skipped_clips(self) -> list[dict[str, Any]]:
        """Returns the interval's skipped steps and the ids of their clips. All ranks call it."""
        return [
            {"step": step, "clip_ids_begin_with": self._clips_of(step, is_bad_loss)[1]}
            for step, is_bad_loss in self._skipped
        ]

    def _skip(self, step: int, is_bad_loss: bool, max_in_a_row: int) -> None:
        self._skipped.append((step, is_bad_loss))
        self._num_skipped_in_a_row += 1
        if self._num_skipped_in_a_row > max_in_a_row:
            raise NonFiniteLossError(
                f"{self._num_skipped_in_a_row} steps in a row were skipped. "
                + self._what_was_bad(step, is_bad_loss)
            )

    def _what_was_bad(self, step: int, is_bad_loss: bool) -> str:
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
        mine: tuple[bool, list[int]] = is_bad_loss, torch.cat(self._clip_keys[step]).tolist()
        everyones = [mine]
        if _is_distributed():
            everyones = [mine] * dist.get_world_size()
            dist.all_gather_object(everyones, mine)
        is_loss = any(is_bad for is_bad, _ in everyones)
        prefixes = [
            id_prefix(key) for is_bad, keys in everyones if is_bad or not is_loss for key in keys
        ]
        return is_loss, list(dict.fromkeys(prefixes))


def _earlier(first: Tensor, step: int, is_bad: Tensor) -> Tensor:
    return torch.where(is_bad, first.clamp(max=step), first)


def _is_distributed() -> bool:
    return dist.is_initialized() and dist.get_world_size() > 1
