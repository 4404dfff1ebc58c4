"""The config of `preprocess`: one source of videos -> one shard set."""

from dataclasses import dataclass, field
from typing import Any

from data_pipelines.preprocess.clip.labels.read import LabelsConfig
from data_pipelines.preprocess.clip.measure.motion import FiltersConfig
from data_pipelines.preprocess.clip.measure.optical_flow import OpticalFlowConfig
from data_pipelines.preprocess.clip.probe import LimitsConfig
from data_pipelines.preprocess.clip.resize import ResizeConfig
from data_pipelines.preprocess.clip.split_clips import ClipConfig
from data_pipelines.preprocess.shards import ShardsConfig
from lafp.config import choice, may_change
from lafp.config.node_labels import label_selector
from lafp.http.download import HttpConfig
from lafp.video import VIDEO_DECODERS, EncodeConfig
from lafp.video.decoders.pyav import PyAVConfig


@dataclass(frozen=True, kw_only=True)
class TasksConfig:
    """How the work is dealt out. It changes nothing about the shards."""

    videos_per_task: int = 8
    bytes_per_task: int = 64 * 2**20
    """A task takes videos until it has this many bytes or ``videos_per_task``: what an
    interruption loses per core at most."""
    memory_bytes: int = 512 * 2**20
    """Logical memory that Ray keeps for each task."""
    node_labels: tuple[str, ...] = ()
    """``["role=decode"]``: only on nodes that were started with these labels."""

    def __post_init__(self) -> None:
        label_selector(self.node_labels)
        for name in ("videos_per_task", "bytes_per_task", "memory_bytes"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}.")


@dataclass(frozen=True, kw_only=True)
class PreprocessConfig:
    """One source of videos, and the shard set to make of it."""

    source: str | None = None
    """A folder (searched to any depth), a glob, one file, s3://bucket/prefix, or a list of URIs
    (.txt, .csv, .jsonl, .parquet). null takes what `collect` wrote in the same run: its videos, or
    with `labels` its labeled episodes."""
    val_source: str | None = None
    """Videos for validation only; all of `source` is then for training."""
    uri_column: str = "uri"
    """Of a list that is .csv, .jsonl or .parquet: the column with the local, s3:// or http(s)://
    URIs. Relative paths begin at the list's folder."""
    http: HttpConfig = field(default_factory=HttpConfig, metadata={"may_change": True})
    name: str = "videos"
    """Name of the source; the shard set is the run's folder shards/<name>."""
    labels: LabelsConfig | None = None
    """Set it ({} takes the defaults) where the source has actions."""
    decoder: Any = choice(VIDEO_DECODERS, default=PyAVConfig())
    limits: LimitsConfig = field(default_factory=LimitsConfig)
    clip: ClipConfig = field(default_factory=ClipConfig)
    resize: ResizeConfig = field(default_factory=ResizeConfig)
    optical_flow: OpticalFlowConfig | None = None
    """Set it ({} takes the defaults) to store flow between frames, for the objective `laof`."""
    filters: FiltersConfig = field(default_factory=FiltersConfig)
    encode: EncodeConfig = field(default_factory=EncodeConfig)
    shards: ShardsConfig = field(default_factory=ShardsConfig)
    piece_s: float = 1200.0
    """Longer videos are cut into pieces of about this length, which tasks share; each is decoded
    from a key frame before it on."""
    val_fraction: float = 0.05
    """Share of the videos that is held out, chosen by the hash of their content; at least one
    video if this is not 0. Unused with `val_source`."""
    max_reject_fraction: float = may_change(default=0.9)
    """Stop if more than this share of the videos gives no clip: then the source or the config is
    wrong."""
    deadline_h: float | None = may_change(default=None)
    """For `--dry-run`: it says how many nodes like this machine finish in that time."""
    tasks: TasksConfig = field(default_factory=TasksConfig, metadata={"may_change": True})

    def __post_init__(self) -> None:
        if not 0 <= self.val_fraction < 1:
            raise ValueError(f"val_fraction must be in [0, 1), got {self.val_fraction}.")
        if self.deadline_h is not None and self.deadline_h <= 0:
            raise ValueError(f"deadline_h must be positive or null, got {self.deadline_h}.")
        if self.piece_s < self.clip.max_s:
            raise ValueError(
                f"piece_s must be at least clip.max_s = {self.clip.max_s}, got {self.piece_s}."
            )
        if not 0 <= self.max_reject_fraction <= 1:
            raise ValueError(
                f"max_reject_fraction must be in [0, 1], got {self.max_reject_fraction}."
            )
        if not self.name.replace("_", "").replace("-", "").isalnum():
            raise ValueError(f"name must be letters, digits, - and _, got {self.name!r}.")
