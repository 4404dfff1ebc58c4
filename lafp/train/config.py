"""What every training job lets its user choose about the loop."""

from dataclasses import dataclass, field
from typing import Any, Literal

from lafp.config import choice, may_change, may_grow
from lafp.config.node_labels import label_selector
from lafp.train.engines import ENGINES
from lafp.train.engines.ddp import DdpConfig
from lafp.train.optim import OptimConfig


@dataclass(frozen=True, kw_only=True)
class IngestConfig:
    """How clips come from shards to the training workers."""

    mode: Literal["ray", "direct"] = may_change(default="ray")
    """``ray``: Ray Data readers, on any node, feed each worker through the object store.
    ``direct``: threads inside of each worker read."""
    num_readers: int = may_change(default=1)
    """Cores that decode for each worker: processes in mode ``ray``, threads in mode ``direct``."""
    node_labels: tuple[str, ...] = may_change(default=())
    """``["role=decode"]``: readers only on nodes that were started with these labels."""
    cache_bytes: int = may_change(default=1 << 30)
    """Decoded frames that one reader keeps, so that a small set is decoded once."""
    pool_shards: int = 16
    """Shards whose clips are shuffled together; memory holds the index of one pool."""
    max_damaged_share: float = may_change(default=0.01)
    """Clips that storage lost or changed may be that share of what is read between two reports;
    another clip stands in for each, and ``damaged_clips.jsonl`` names them. More stop the run."""

    def __post_init__(self) -> None:
        label_selector(self.node_labels)
        if not 0 <= self.max_damaged_share <= 1:
            raise ValueError(f"max_damaged_share must be in [0, 1], got {self.max_damaged_share}.")
        for name in ("num_readers", "pool_shards"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}.")
        if self.cache_bytes < 0:
            raise ValueError(f"cache_bytes must not be negative, got {self.cache_bytes}.")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """The training loop: steps, batch, optimizer, engine, workers, checkpoints."""

    seed: int = 0
    """Of initial weights, order of clips, windows and noise."""
    num_steps: int = may_grow()
    """Optimizer steps of the whole run; a larger number continues a finished run."""
    global_batch_size: int
    """Windows per optimizer step, over all workers."""
    gradient_accumulation: int = 1
    """Micro-batches per worker and optimizer step."""
    optim: OptimConfig = field(default_factory=OptimConfig)
    engine: Any = choice(ENGINES, default=DdpConfig())
    """``{name: ddp}`` or ``{name: deepspeed, zero_stage: 2}``."""
    num_workers: int = may_change(default=1)
    """Training processes; each takes one CPU, or one GPU with ``use_gpu``."""
    use_gpu: bool = may_change(default=False)
    node_labels: tuple[str, ...] = may_change(default=())
    """``["role=train"]``: workers only on nodes that were started with these labels."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """``bf16``: autocast, over fp32 weights."""
    report_every_steps: int = may_change(default=50)
    """Metrics leave the device, and are written, at these steps only."""
    checkpoint_every_steps: int = may_change(default=500)
    evaluate_every_steps: int = may_change(default=500)
    """Steps between two measurements on held-out clips (the probe)."""
    num_checkpoints_to_keep: int = may_change(default=2)
    on_non_finite: Literal["stop", "skip"] = may_change(default="stop")
    """Where the loss or the gradients of a step are NaN or infinite. ``stop``: the run ends and
    names the clips. ``skip``: no rank takes the step, ``skipped_steps.jsonl`` names the clips, and
    the host waits for the device at every step."""
    max_skipped_steps: int = may_change(default=10)
    """In a row, with ``skip``; one more stops the run."""
    max_failures: int = may_change(default=3)
    """Lost workers that a run survives by resuming from its last checkpoint."""
    ingest: IngestConfig = field(default_factory=IngestConfig)
    wandb: Literal["off", "auto", "online", "offline"] = may_change(default="off")
    """``auto``: online where the user is logged in, else offline."""

    def __post_init__(self) -> None:
        label_selector(self.node_labels)
        for name in (
            "num_steps",
            "global_batch_size",
            "gradient_accumulation",
            "num_workers",
            "report_every_steps",
            "checkpoint_every_steps",
            "evaluate_every_steps",
            "num_checkpoints_to_keep",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}.")
        for name in ("max_failures", "max_skipped_steps"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}.")
        if self.global_batch_size % (self.num_workers * self.gradient_accumulation):
            raise ValueError(
                f"global_batch_size {self.global_batch_size} does not divide into "
                f"{self.num_workers} workers x {self.gradient_accumulation} micro-batches."
            )
        if self.optim.warmup_steps > self.num_steps:
            raise ValueError(
                f"optim.warmup_steps {self.optim.warmup_steps} are more than num_steps "
                f"{self.num_steps}: the run would end before it reaches its learning rate."
            )

    def check_windows(self, name: str, num_windows: int, windows_per_clip: int) -> None:
        """Raises ValueError where windows of a step are no whole clips, alike on all workers.

        Args:
            name: Key of ``num_windows`` in the config.
            num_windows: Per optimizer step, over all workers.
            windows_per_clip: Windows that are drawn from one visit to a clip.
        """
        if num_windows % windows_per_clip:
            raise ValueError(
                f"{name} {num_windows} is no multiple of windows_per_clip {windows_per_clip}."
            )
        num_clips = num_windows // windows_per_clip
        if num_clips % (self.num_workers * self.gradient_accumulation):
            raise ValueError(
                f"{name} {num_windows} with {windows_per_clip} windows per clip takes {num_clips} "
                f"clips per step, which do not divide among {self.num_workers} workers x "
                f"{self.gradient_accumulation} micro-batches. Change the batch size, "
                "windows_per_clip, num_workers or gradient_accumulation."
            )

    @property
    def micro_batch_size(self) -> int:
        """Windows per worker and forward pass."""
        return self.global_batch_size // (self.num_workers * self.gradient_accumulation)
