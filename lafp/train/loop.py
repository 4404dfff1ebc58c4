"""Runs the training loop, ``train``, which serves every task, engine and launcher."""

from collections.abc import Iterator
from contextlib import closing
from typing import cast

import torch
from torch import nn

from lafp.data.randomness import derive_seed
from lafp.runs.side_channel import SideChannel
from lafp.train.checkpoints import Checkpoints
from lafp.train.compiled import compile_networks, uncompiled
from lafp.train.config import TrainConfig
from lafp.train.context import TrainContext
from lafp.train.engines import ENGINES
from lafp.train.engines.base import Engine
from lafp.train.metrics.recorder import Recorder
from lafp.train.notice import Notice
from lafp.train.optim import learning_rate
from lafp.train.task import Task, TrainedModule
from lafp.types import ClipBatch


class StoppedError(RuntimeError):
    """Training was asked to stop and has saved a checkpoint. The message says at which step."""


def train(cfg: TrainConfig, task: Task, ctx: TrainContext) -> dict[str, float]:
    """Trains ``task.module`` to ``cfg.num_steps`` optimizer steps and saves it.

    Resumes from the context's last checkpoint. A run that was interrupted and resumed does the same
    steps on the same data with the same noise as an undisturbed run.

    Args:
        cfg: Steps, batch, optimizer, engine.
        task: The task to train. All ranks hold equal frozen parts; the module starts from the
            weights of rank 0.
        ctx: This process's rank, clips and checkpoints.

    Returns:
        The last value of every metric. Only rank 0 has the metrics of the evaluation.

    Raises:
        NonFiniteLossError: The loss became NaN or infinite.
        DamagedShardsError: Too many clips could not be read.
        StoppedError: The context asked to stop before the last step.
        StorageError: A checkpoint could not be stored.
        ConfigError: Batch and workers do not divide, the checkpoint fits another engine, or nothing
            can be compiled.
    """
    if cfg.compile:
        compile_networks(task.module)
    engine: Engine = ENGINES.get(cfg.engine.name)(cfg, task.module, ctx.device)
    with ctx.restored() as checkpoint:
        step = engine.load(checkpoint) if checkpoint else 0
    # A resumed module has its statistics from the checkpoint.
    if step == 0:
        task.prepare(ctx.device)
    with closing(Recorder(cfg, task, ctx, step)) as recorder:
        return _train(cfg, task, ctx, engine, recorder, step)


def _train(
    cfg: TrainConfig,
    task: Task,
    ctx: TrainContext,
    engine: Engine,
    recorder: Recorder,
    step: int,
) -> dict[str, float]:
    """Trains from ``step`` on. See ``train``."""
    evaluation = _Evaluation(cfg, task, engine, ctx.rank, recorder)
    clips = ctx.clips(task.demands(), cfg.gradient_accumulation, step)
    batches = recorder.damaged.counted(clips)
    while step < cfg.num_steps:
        _train_step(cfg, task, ctx, engine, batches, recorder, step)
        step += 1
        # After the last step everything is saved anyway.
        notice = ctx.notice(step) if step < cfg.num_steps else Notice.NONE
        if not (notice or recorder.is_due(step)):
            continue
        record = recorder.read(step)
        if not notice:  # else the process may be killed soon, so the checkpoint comes first
            record |= evaluation.metrics_if_due(step)
        recorder.write(step, record)
        if notice or cfg.is_due(step, cfg.checkpoint_every_steps):
            recorder.flush()
            _checkpoint(engine, ctx.checkpoints, step)
        if notice == Notice.STOP:
            ctx.checkpoints.finish()
            raise StoppedError(
                f"Stopped at step {step} of {cfg.num_steps}, with a checkpoint. Run the same "
                "command again to resume."
            )
        recorder.timer.restart()  # the time of evaluations and checkpoints is not that of steps
    ctx.checkpoints.finish()
    # The model is saved after the last checkpoint is whole, so that a failure can be tried again
    # from it.
    with engine.gathered() as module:
        if ctx.rank == 0:
            task.save(module.eval(), ctx.uri, recorder.metrics)
    return recorder.metrics


def _train_step(
    cfg: TrainConfig,
    task: Task,
    ctx: TrainContext,
    engine: Engine,
    batches: Iterator[dict[str, ClipBatch]],
    recorder: Recorder,
    step: int,
) -> None:
    """Takes one optimizer step with the next micro-batches of this rank."""
    recorder.guard.begin_step()
    # Each step has its own seed, so that a resumed run draws the same noise as an undisturbed one.
    torch.manual_seed(derive_seed(cfg.seed, "step", step, ctx.rank))
    outs, clip_keys = [], []
    for round_index in range(cfg.gradient_accumulation):
        with recorder.timer.waiting():
            host_clips = next(batches)
        clips = {name: batch.to(ctx.device) for name, batch in host_clips.items()}
        with torch.no_grad():
            inputs = task.inputs(clips)
        with recorder.efficiency.counting_once():
            is_last = round_index == cfg.gradient_accumulation - 1
            outs.append(engine.forward_backward(inputs, is_last))
        clip_keys += [batch.clip_key for batch in host_clips.values()]
    lr = learning_rate(cfg.optim, step, cfg.num_steps)
    grad_norm = engine.step(lr)
    module = cast(TrainedModule, task.module)
    is_taken = recorder.guard.end_step(step, outs, clip_keys, grad_norm)
    (module.after_step if is_taken else module.discard_step)()
    recorder.add(outs if is_taken else [], grad_norm, lr)


class _Evaluation:
    """Measures a task's own metrics on held-out clips, every ``evaluate_every_steps``."""

    def __init__(
        self, cfg: TrainConfig, task: Task, engine: Engine, rank: int, recorder: Recorder
    ) -> None:
        self._cfg, self._task, self._engine, self._rank = cfg, task, engine, rank
        self._channel = SideChannel("evaluation", recorder.say)

    def metrics_if_due(self, step: int) -> dict[str, float]:
        """Returns the metrics on rank 0. All ranks call it."""
        metrics: dict[str, float] = {}
        if not self._cfg.is_due(step, self._cfg.evaluate_every_steps):
            return metrics
        # All ranks enter the block, because gathering is a collective call. Only rank 0 measures.
        with self._engine.gathered() as module, torch.no_grad():
            if self._rank == 0:
                module.eval()
                with self._channel.guarded(), uncompiled(self._cfg.compile):
                    metrics = self._task.evaluate(module)
                # Not inside the guard: an evaluation that fails must not leave the module in eval
                # mode.
                module.train()
        return metrics


def _checkpoint(engine: Engine, checkpoints: Checkpoints, step: int) -> None:
    """Writes a checkpoint to the local disk; it is stored from there while training goes on."""
    # Only one checkpoint is on its way at a time: the disk is limited, and failures must show.
    checkpoints.wait()
    with checkpoints.writing(_checkpoint_num_bytes(engine.module)) as folder:
        engine.save(folder, step)
    checkpoints.save(folder, step)


def _checkpoint_num_bytes(module: nn.Module) -> int:
    """Estimates the size of a whole checkpoint: weights, buffers, and two moments per weight."""
    tensors = [*module.parameters(), *module.parameters(), *module.parameters(), *module.buffers()]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
