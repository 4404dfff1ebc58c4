"""Defines the settings of the training loop, which all training jobs share."""

from dataclasses import dataclass, field
from typing import Literal

from lafp.config import Choice, choice, may_change, may_grow
from lafp.config.node_labels import label_selector
from lafp.config.ranges import check_at_least
from lafp.train.engines import ENGINES
from lafp.train.engines.ddp import DdpConfig
from lafp.train.engines.deepspeed import DeepSpeedConfig
from lafp.train.optim import OptimConfig
from lafp.train.trackers import TRACKERS


@dataclass(frozen=True, kw_only=True)
class IngestConfig:
    """Says how clips get from shards to the training workers."""

    mode: Literal["ray", "direct"] = may_change(default="ray")
    """``ray``: Ray Data readers, on any node, feed each worker through the object store.
    ``direct``: threads inside each worker read the shards."""
    num_readers: int = may_change(default=1)
    """Cores that decode for each worker: processes in mode ``ray``, threads in mode ``direct``."""
    node_labels: tuple[str, ...] = may_change(default=())
    """``["role=decode"]`` runs readers only on nodes that were started with this label."""
    cache_bytes: int = may_change(default=1 << 30)
    """Bytes of decoded frames that one reader keeps, so that a small set is decoded only once."""
    pool_shards: int = 16
    """Number of shards whose clips are shuffled together. Memory holds the index of one such pool
    of shards."""
    max_damaged_share: float = may_change(default=0.01)
    """Largest share of damaged clips (lost or changed in storage) among those read between two
    reports. Another clip replaces each of them, and ``damaged_clips.jsonl`` names them. A larger
    share stops the run."""

    def __post_init__(self) -> None:
        label_selector(self.node_labels)
        if not 0 <= self.max_damaged_share <= 1:
            raise ValueError(f"max_damaged_share must be in [0, 1], got {self.max_damaged_share}.")
        check_at_least(self, 1, "num_readers", "pool_shards")
        check_at_least(self, 0, "cache_bytes")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Configures the training loop: steps, batch, optimizer, engine, workers, checkpoints."""

    seed: int = 0
    """Determines initial weights, the order of clips, windows and noise."""
    num_steps: int = may_grow()
    """Number of optimizer steps of the whole run. A larger number continues a finished run."""
    global_batch_size: int
    """Windows per optimizer step, over all workers."""
    gradient_accumulation: int = may_change(default=1)
    """Micro-batches per worker and optimizer step. More of them keep the micro-batch small where a
    run goes on with fewer workers."""
    optim: OptimConfig = field(default_factory=OptimConfig)
    engine: Choice = choice(ENGINES, default=DdpConfig())
    """``{name: ddp}`` or ``{name: deepspeed, zero_stage: 2}``."""
    num_workers: int = may_change(default=1)
    """Training processes; each takes one CPU, or one GPU with ``use_gpu``."""
    use_gpu: bool = may_change(default=False)
    node_labels: tuple[str, ...] = may_change(default=())
    """``["role=train"]`` runs workers only on nodes that were started with this label."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """``bf16`` uses autocast; the weights stay fp32."""
    compile: bool = may_change(default=False)
    """Compiles encoder, IDM, FDM and head with ``torch.compile``. It needs a C++ compiler on every
    worker, and compiling takes up to a minute of each start. Meant for GPUs: on the CPUs where it
    was measured, steps took longer."""
    report_every_steps: int = may_change(default=50)
    """Steps between two reports. Only then are metrics copied from the device and written."""
    checkpoint_every_steps: int = may_change(default=500)
    evaluate_every_steps: int = may_change(default=500)
    """Steps between two measurements on held-out clips (the probe)."""
    num_checkpoints_to_keep: int = may_change(default=2)
    on_non_finite: Literal["stop", "skip"] = may_change(default="stop")
    """Says what to do if the loss or the gradients of a step are NaN or infinite. ``stop``: the run
    ends and names the clips. ``skip``: no rank takes the step, and ``skipped_steps.jsonl`` names
    the clips; the host then waits for the device at every step."""
    max_skipped_steps: int = may_change(default=10)
    """With ``skip``: more skipped steps than this in a row stop the run."""
    max_failures: int = may_change(default=3)
    """Number of worker failures that a run survives by resuming from its last checkpoint."""
    ingest: IngestConfig = field(default_factory=IngestConfig)
    tracker: Choice | None = choice(TRACKERS, default=None, may_change=True)
    """Sends metrics to ``wandb``, ``tensorboard`` or ``trackio`` too; null to none."""

    def __post_init__(self) -> None:
        label_selector(self.node_labels)
        check_at_least(
            self,
            1,
            "num_steps",
            "global_batch_size",
            "gradient_accumulation",
            "num_workers",
            "report_every_steps",
            "checkpoint_every_steps",
            "evaluate_every_steps",
            "num_checkpoints_to_keep",
        )
        check_at_least(self, 0, "max_failures", "max_skipped_steps")
        is_zero_3 = isinstance(self.engine, DeepSpeedConfig) and self.engine.zero_stage == 3
        if self.compile and is_zero_3:
            raise ValueError(
                "compile does not work with zero_stage 3, whose hooks gather the weights of each "
                "layer. Use zero_stage 2 or less, or compile=false."
            )
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
        """Checks that the windows of a step fill whole clips, equally many on all workers.

        Args:
            name: Key of ``num_windows`` in the config.
            num_windows: Windows per optimizer step, over all workers.
            windows_per_clip: Windows that are drawn from one visit to a clip.

        Raises:
            ValueError: They do not.
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

    def is_due(self, step: int, interval: int) -> bool:
        """Says whether to do after ``step`` steps what is done every ``interval`` steps.

        It is also done after the last step.
        """
        return step % interval == 0 or step == self.num_steps

    @property
    def micro_batch_size(self) -> int:
        """Windows per worker and forward pass."""
        return self.global_batch_size // (self.num_workers * self.gradient_accumulation)
