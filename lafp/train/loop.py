"""Runs the training loop, ``train``, which serves every task, engine and launcher."""

import math
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from typing import cast

import torch
from torch import nn

from lafp.data.randomness import derive_seed
from lafp.runs.side_channel import SideChannel, say_on_stderr
from lafp.storage.strict_json import defined
from lafp.train.checkpoints import Checkpoints
from lafp.train.config import TrainConfig
from lafp.train.context import TrainContext
from lafp.train.engines import ENGINES
from lafp.train.engines.base import Engine
from lafp.train.metrics.damaged_clips import DAMAGED, DamagedClips
from lafp.train.metrics.efficiency import Efficiency
from lafp.train.metrics.feeding import Feeding
from lafp.train.metrics.log import MetricsLog
from lafp.train.metrics.meter import SKIPPED, Meter
from lafp.train.notice import Notice
from lafp.train.optim import learning_rate
from lafp.train.task import Task, TrainedModule
from lafp.types import ClipBatch


class StoppedError(RuntimeError):
    """Training was asked to stop and has saved a checkpoint. The message says at which step."""


def train(cfg: TrainConfig, task: Task, ctx: TrainContext) -> dict[str, float]:
    """Trains ``task.module`` to ``cfg.num_steps`` optimizer steps and exports it.

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
        ConfigError: Batch and workers do not divide, or the checkpoint fits another engine.
    """
    engine: Engine = ENGINES.get(cfg.engine.name)(cfg, task.module, ctx.device)
    with ctx.restored() as checkpoint:
        step = engine.load(checkpoint) if checkpoint else 0
    if step == 0:
        task.prepare(ctx.device)
    log = MetricsLog(ctx.uri, step, cfg.wandb, cfg) if ctx.rank == 0 else None
    metrics = log.last if log else {}
    damaged = DamagedClips(cfg.ingest.max_damaged_share)
    batches = damaged.counted(ctx.clips(task.demands(), cfg.gradient_accumulation, step))
    max_skipped = cfg.max_skipped_steps if cfg.on_non_finite == "skip" else None
    meter = Meter(ctx.device, cfg.global_batch_size, max_skipped)
    efficiency = Efficiency(ctx.device, cfg.precision, cfg.gradient_accumulation)
    feeding = Feeding(task.demands(), cfg.ingest.cache_bytes)
    say = log.note if log else say_on_stderr
    evaluating, measuring = SideChannel("evaluation", say), SideChannel("measurements", say)
    while step < cfg.num_steps:
        grad_norm, lr = _train_step(cfg, task, ctx, engine, batches, meter, efficiency, step)
        step += 1
        # After the last step everything is saved anyway.
        notice = ctx.notice(step) if step < cfg.num_steps else Notice.NONE
        if not (notice or _is_due(cfg, step)):
            continue
        record = _read(step, meter, damaged, log, metrics) | {"lr": lr}
        if math.isfinite(norm := float(grad_norm)):  # else the last step was skipped
            record["grad_norm"] = norm
        # After a notice the process may be killed soon, so the checkpoint comes first.
        if _every(cfg.evaluate_every_steps, step, cfg) and not notice:
            record |= _evaluate(task, ctx, engine, evaluating)
        if log:
            with measuring.guarded():
                record |= efficiency.metrics(record["step_s"])
                record |= feeding.metrics(record["step_s"], record["data_wait_share"])
            log.write(step, record)
        metrics |= {"step": step, **defined(record)}
        if notice or _every(cfg.checkpoint_every_steps, step, cfg):
            _checkpoint(engine, ctx.checkpoints, step)
        if notice == Notice.STOP:
            ctx.checkpoints.finish()
            raise StoppedError(
                f"Stopped at step {step} of {cfg.num_steps}, with a checkpoint. Run the same "
                "command again to resume."
            )
        meter.restart()
    ctx.checkpoints.finish()
    _export(task, ctx, engine, metrics)
    if log:
        log.close()
    return metrics


def _train_step(
    cfg: TrainConfig,
    task: Task,
    ctx: TrainContext,
    engine: Engine,
    batches: Iterator[dict[str, ClipBatch]],
    meter: Meter,
    efficiency: Efficiency,
    step: int,
) -> tuple[torch.Tensor, float]:
    # Forward passes may change buffers (statistics, codebooks) before a step turns out to be
    # skipped.
    buffers = [(b, b.clone()) for b in task.module.buffers()] if cfg.on_non_finite == "skip" else []
    # Each step has its own seed, so that a resumed run draws the same noise as an undisturbed one.
    torch.manual_seed(derive_seed(cfg.seed, "step", step, ctx.rank))
    for round_index in range(cfg.gradient_accumulation):
        with meter.waiting():
            host_clips = next(batches)
        clips = {name: batch.to(ctx.device) for name, batch in host_clips.items()}
        with torch.no_grad():
            inputs = task.inputs(clips)
        is_last = round_index == cfg.gradient_accumulation - 1
        # Counting slows every operation down, and all micro-batches cost the same, so only one is
        # counted.
        is_counted = round_index == 0 and not efficiency.flops_per_step
        with efficiency.counting() if is_counted else nullcontext():
            out = engine.forward_backward(inputs, is_last)
        meter.add(step, out, host_clips)
    lr = learning_rate(cfg.optim, step, cfg.num_steps)
    grad_norm = engine.step(lr)
    module = cast(TrainedModule, task.module)
    if meter.end_step(step, grad_norm):
        module.after_step()
    else:
        module.discard_step()
        for buffer, before in buffers:
            buffer.copy_(before)
    return grad_norm, lr


def _read(
    step: int,
    meter: Meter,
    damaged: DamagedClips,
    log: MetricsLog | None,
    previous: Mapping[str, float],
) -> dict[str, float]:
    """Returns the interval's metrics, and logs which steps were skipped and clips are damaged."""
    record = meter.read()
    if record.get(SKIPPED):
        steps = meter.skipped_clips()  # a collective, so all ranks call it
        if log:
            log.write_skipped(steps)
    num_damaged, clips = damaged.read(step)
    if log and clips:
        log.write_damaged(clips)
    if num_damaged or DAMAGED in previous:
        record[DAMAGED] = num_damaged
    for name in {SKIPPED, DAMAGED} & record.keys():
        record[name] += previous.get(name, 0)  # these two count over the whole run
    return record


def _every(interval: int, step: int, cfg: TrainConfig) -> bool:
    return step % interval == 0 or step == cfg.num_steps


def _is_due(cfg: TrainConfig, step: int) -> bool:
    """Says whether to read metrics from the device.

    They are read when they are due, and when an evaluation or checkpoint waits for the device
    anyway.
    """
    intervals = (cfg.report_every_steps, cfg.evaluate_every_steps, cfg.checkpoint_every_steps)
    return any(_every(interval, step, cfg) for interval in intervals)


def _evaluate(
    task: Task, ctx: TrainContext, engine: Engine, channel: SideChannel
) -> dict[str, float]:
    metrics: dict[str, float] = {}
    with engine.gathered() as module, torch.no_grad():
        if ctx.rank > 0:
            return metrics
        module.eval()
        with channel.guarded():
            metrics = task.evaluate(module)
        module.train()
    return metrics


def _export(task: Task, ctx: TrainContext, engine: Engine, metrics: dict[str, float]) -> None:
    with engine.gathered() as module:
        if ctx.rank == 0:
            task.export(module.eval(), ctx.uri, metrics)


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
