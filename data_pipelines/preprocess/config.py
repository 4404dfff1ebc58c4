"""Defines the config of `preprocess`, which turns one source of videos into one shard set."""

from dataclasses import dataclass, field

from data_pipelines.preprocess.clip.labels.read import LabelsConfig
from data_pipelines.preprocess.clip.masks import MasksConfig
from data_pipelines.preprocess.clip.measure.motion import FiltersConfig
from data_pipelines.preprocess.clip.measure.optical_flow import OpticalFlowConfig
from data_pipelines.preprocess.clip.probe import LimitsConfig
from data_pipelines.preprocess.clip.resize import ResizeConfig
from data_pipelines.preprocess.clip.split_clips import ClipConfig
from data_pipelines.preprocess.shards import ShardsConfig
from lafp.config import Choice, choice, may_change
from lafp.config.node_labels import label_selector
from lafp.config.ranges import check_at_least
from lafp.http.download import HttpConfig
from lafp.video import VIDEO_DECODERS, EncodeConfig
from lafp.video.decoders.pyav import PyAVConfig


@dataclass(frozen=True, kw_only=True)
class TasksConfig:
    """Says how the work is divided among tasks. It does not change the shards."""

    videos_per_task: int = 8
    # With 720p videos a task takes about 20 s. The driver spends 2.4 ms on each task, so its one
    # core can feed 8,000 cores (docs/scaling.md).
    bytes_per_task: int = 64 * 2**20
    """A task takes videos until it has this many bytes or ``videos_per_task`` videos. An
    interruption loses at most this much work per core."""
    memory_bytes: int = 512 * 2**20
    """Memory of each task. Ray reserves it; without Ray it bounds the number of tasks at a time."""
    node_labels: tuple[str, ...] = ()
    """``["role=decode"]`` runs tasks only on nodes that were started with this label."""

    def __post_init__(self) -> None:
        label_selector(self.node_labels)
        check_at_least(self, 1, "videos_per_task", "bytes_per_task", "memory_bytes")


@dataclass(frozen=True, kw_only=True)
class PreprocessConfig:
    """Names one source of videos and says how to turn it into a shard set."""

    source: str | None = None
    """A folder (searched to any depth), a glob, one file, s3://bucket/prefix (or gs://, az://,
    hf://datasets/...), or a list of URIs (.txt, .csv, .jsonl, .parquet). null takes the videos that
    `collect` wrote in the same run or, with `labels`, its labeled episodes."""
    val_source: str | None = None
    """Videos for validation only. If set, all of `source` is for training."""
    uri_column: str = "uri"
    """For a list that is .csv, .jsonl or .parquet: the column that holds the URIs: local,
    s3://, gs://, az://, hf:// or http(s)://. Relative paths start at the list's folder."""
    http: HttpConfig = field(default_factory=HttpConfig, metadata={"may_change": True})
    name: str = "videos"
    """Name of the source. The shard set is the run's folder shards/<name>."""
    labels: LabelsConfig | None = None
    """Set this ({} takes the defaults) if the source has actions."""
    masks: MasksConfig | None = None
    """Set this ({} takes the defaults) to store masks of the agent with the clips, for objectives
    with `mask`."""
    video_decoder: Choice = choice(VIDEO_DECODERS, default=PyAVConfig())
    limits: LimitsConfig = field(default_factory=LimitsConfig)
    clip: ClipConfig = field(default_factory=ClipConfig)
    resize: ResizeConfig = field(default_factory=ResizeConfig)
    optical_flow: OpticalFlowConfig | None = None
    """Set this ({} takes the defaults) to store optical flow between frames, for the objective
    `laof`."""
    filters: FiltersConfig = field(default_factory=FiltersConfig)
    encode: EncodeConfig = field(default_factory=EncodeConfig)
    shards: ShardsConfig = field(default_factory=ShardsConfig)
    piece_s: float = 1200.0
    """Longer videos are cut into pieces of about this length, which separate tasks may process.
    Each piece is decoded from the last key frame before it."""
    val_fraction: float = 0.05
    """Share of the videos that is held out for validation, chosen by the hash of their content; at
    least one video unless this is 0. Unused with `val_source`."""
    max_reject_fraction: float = may_change(default=0.9)
    """The job stops if more than this share of the videos gives no clip: then the source or the
    config is wrong."""
    deadline_h: float | None = may_change(default=None)
    """Hours within which the job should finish. `--dry-run` then says how many nodes like this
    machine that takes."""
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
        if self.masks is not None and self.source is not None and self.masks.source is None:
            raise ValueError(
                "masks.source is null, but must name the folder of the masks of source. Set "
                "masks.source=FOLDER, or leave masks out."
            )
        if not self.name.replace("_", "").replace("-", "").isalnum():
            raise ValueError(f"name must be letters, digits, - and _, got {self.name!r}.")
