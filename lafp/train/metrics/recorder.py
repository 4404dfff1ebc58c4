"""Measures a training run and writes a record of every interval of steps."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from lafp.runs.side_channel import SideChannel, say_on_stderr
from lafp.storage.strict_json import defined
from lafp.train.config import TrainConfig
from lafp.train.context import TrainContext
from lafp.train.metrics.damaged_clips import DAMAGED, DamagedClips
from lafp.train.metrics.efficiency import Efficiency
from lafp.train.metrics.feeding import Feeding
from lafp.train.metrics.finite_guard import SKIPPED, FiniteGuard
from lafp.train.metrics.log import MetricsLog
from lafp.train.metrics.means import Means
from lafp.train.metrics.timer import StepTimer
from lafp.train.task import Task
from lafp.types import LossOutput


class Recorder:
    """Measures the steps of a run on this rank. Rank 0 writes the records.

    Args:
        cfg: The training config.
        task: The task.
        ctx: The launcher.
        start_step: Number of steps that earlier starts have done.
    """

    def __init__(self, cfg: TrainConfig, task: Task, ctx: TrainContext, start_step: int) -> None:
        self._cfg = cfg
        self._log = MetricsLog(ctx.uri, start_step, cfg.tracker, cfg) if ctx.rank == 0 else None
        self.metrics = self._log.last if self._log else {}
        """The latest value of every metric."""
        self.say = self._log.note if self._log else say_on_stderr
        """Writes a line for the people who follow the run."""
        self.timer = StepTimer(cfg.global_batch_size)
        self.efficiency = Efficiency(
            ctx.device, cfg.precision, cfg.gradient_accumulation, cfg.compile
        )
        max_skipped = cfg.max_skipped_steps if cfg.on_non_finite == "skip" else None
        self.guard = FiniteGuard(task.module, ctx.device, max_skipped)
        self.damaged = DamagedClips(cfg.ingest.max_damaged_share)
        self._feeding = Feeding(task.demands(), cfg.ingest.cache_bytes)
        self._means = Means(ctx.device)
        self._measuring = SideChannel("measurements", self.say)
        self._grad_norm, self._lr = torch.zeros(()), 0.0

    def add(self, outs: Sequence[LossOutput], grad_norm: Tensor, lr: float) -> None:
        """Adds a step.

        Args:
            outs: Its micro-batches; none if the step was skipped.
            grad_norm: Result of ``Engine.step``.
            lr: The learning rate.
        """
        self._means.add(outs)
        self.timer.end_step()
        self._grad_norm, self._lr = grad_norm, lr

    def is_due(self, step: int) -> bool:
        """Says whether to read metrics from the device.

        They are read when they are due, and when an evaluation or checkpoint waits for the device
        anyway.
        """
        cfg = self._cfg
        intervals = (cfg.report_every_steps, cfg.evaluate_every_steps, cfg.checkpoint_every_steps)
        return any(cfg.is_due(step, interval) for interval in intervals)

    def read(self, step: int) -> dict[str, float]:
        """Returns the interval's metrics, and logs which steps were skipped and clips are damaged.

        All ranks call it.

        Raises:
            NonFiniteLossError: A step was not finite.
            DamagedShardsError: Too many clips could not be read.
        """
        skipped = self.guard.read()
        record = self._means.read() | self.timer.metrics() | {"lr": self._lr}
        if math.isfinite(norm := float(self._grad_norm)):  # else the last step was skipped
            record["grad_norm"] = norm
        num_damaged, clips = self.damaged.read(step)
        if self._log and skipped:
            self._log.write_skipped(skipped)
        if self._log and clips:
            self._log.write_damaged(clips)
        # These two count over the whole run.
        if skipped is not None:
            record[SKIPPED] = len(skipped) + self.metrics.get(SKIPPED, 0)
        if num_damaged or DAMAGED in self.metrics:
            record[DAMAGED] = num_damaged + self.metrics.get(DAMAGED, 0)
        return record

    def write(self, step: int, record: dict[str, float]) -> None:
        """Writes a record on rank 0, with how well the run uses its device and readers."""
        if self._log:
            with self._measuring.guarded():
                record |= self.efficiency.metrics(record["step_s"])
                record |= self._feeding.metrics(record["step_s"], record["data_wait_share"])
            self._log.write(step, record)
        self.metrics |= {"step": step, **defined(record)}

    def flush(self) -> None:
        """Stores all records, before a checkpoint from which the run would go on."""
        if self._log:
            self._log.flush()

    def close(self) -> None:
        """Ends the log."""
        if self._log:
            self._log.close()
