"""Draws the masks of the agent for a folder of videos with a segmenter, one Ray task per video.

``mask_videos/`` mirrors the source: the masks of ``SOURCE/a/b.mp4`` are ``mask_videos/a/b.mp4``,
white on black and without loss, with the frames and times of the video, as ``masks.source`` of
`preprocess` reads them. Videos are decoded by the confined process that `preprocess` decodes with.
A video's record is written last, so that running the command again resumes.
"""

import functools
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from data_pipelines.on_ray.tasks import run_tasks
from data_pipelines.preprocess.clip.probe import LimitsConfig
from data_pipelines.preprocess.config import PreprocessConfig
from data_pipelines.preprocess.file_counts import FileCounts
from data_pipelines.preprocess.rejects import RejectCounts, RejectRow
from data_pipelines.preprocess.rows import VideoFrames, VideoItem, VideoRow
from data_pipelines.preprocess.sandbox.sandbox import Sandbox
from data_pipelines.preprocess.sources.listing import list_source
from data_pipelines.preprocess.sources.masks import masks_uri
from data_pipelines.preprocess.sources.uri_list import is_uri_list
from lafp import storage
from lafp.config import Choice, ConfigError, choice, may_change
from lafp.config.ranges import check_at_least
from lafp.finished.devices import usable_device
from lafp.http.host_gate import HostGate
from lafp.models.segmenter import Segmenter, SegmenterConfig
from lafp.storage import strict_json
from lafp.storage.map_ahead import map_ahead
from lafp.storage.tables import open_table
from lafp.storage.temporary import TemporaryFolder
from lafp.video import VIDEO_DECODERS, EncodeConfig
from lafp.video.clip_codec import ClipWriter
from lafp.video.decoders.pyav import PyAVConfig

MASK_VIDEOS = "mask_videos"
"""Folder of the stage that `masks.source` of preprocess names."""
_LOSSLESS = EncodeConfig(crf=0, pixel_format="yuv444p")
_CLOCK_HZ = 90_000


@dataclass(frozen=True, kw_only=True)
class DrawMasksConfig:
    """Says which pixels of which videos show the agent."""

    source: str | None = None
    """The videos, as `source` of preprocess: a folder (searched to any depth), a glob, one file,
    or s3://bucket/prefix (or gs://, az://, hf://datasets/...), but no list."""
    name: str = "videos"
    """Name of the source. The masks are in the run's folder masks/<name>/mask_videos."""
    segmenter: SegmenterConfig = field(default_factory=SegmenterConfig)
    max_side_px: int = 1024
    """Frames whose longer side is larger are scaled to it before the segmenter sees them. Masks
    have the size of these frames; `preprocess` scales them to its clips."""
    video_decoder: Choice = choice(VIDEO_DECODERS, default=PyAVConfig())
    limits: LimitsConfig = field(default_factory=LimitsConfig)
    """They are those of preprocess, but `timeout_s` bounds the decoding of 32 MiB of frames."""
    batch_size: int = may_change(default=8)
    """Frames per forward pass."""
    use_gpu: bool = may_change(default=False)
    """Gives each task one GPU besides its CPU. The segmenter then computes in bf16."""

    def __post_init__(self) -> None:
        check_at_least(self, 1, "batch_size")
        check_at_least(self, 16, "max_side_px")
        if not self.name.replace("_", "").replace("-", "").isalnum():
            raise ValueError(f"name must be letters, digits, - and _, got {self.name!r}.")

    @property
    def opening(self) -> PreprocessConfig:
        """Returns how the videos are listed and opened."""
        return PreprocessConfig(
            source=self.source, video_decoder=self.video_decoder, limits=self.limits
        )


@dataclass(frozen=True, kw_only=True)
class DrawnVideo:
    """Holds one row of ``videos.parquet``: a video that has masks."""

    video_uri: str
    masks_uri: str
    num_frames: int
    num_empty_frames: int
    """Number of frames in which no pixel shows the agent."""
    agent_share: float
    """Share of all pixels that show the agent."""
    num_bytes: int
    """Size of the mask video."""


@dataclass(frozen=True, kw_only=True)
class VideoRecord:
    """Says that a video is done: it has masks, or rejects that say why not."""

    drawn: DrawnVideo | None
    rejects: tuple[RejectRow, ...] = ()


def list_videos(
    cfg: DrawMasksConfig, uri: str, counts: FileCounts | None = None
) -> Iterator[tuple[str, VideoItem]]:
    """Lists the videos of the source, each with the URI of its masks without suffix.

    Args:
        cfg: The job's config, with an absolute ``source``.
        uri: Folder of the stage.
        counts: Counts all listed files, including those that are left out.

    Raises:
        ConfigError: There is no source, it holds no video or other episodes than video files.
    """
    if cfg.source is None:
        raise ConfigError("Set source=FOLDER_OR_URI, the videos that get masks.")
    if is_uri_list(cfg.source):
        raise ConfigError(
            f"source {cfg.source} is a list. draw_masks reads a folder, a glob or one file: name "
            "the folder that holds the videos."
        )
    folder = storage.join(uri, MASK_VIDEOS)
    for item in (counts or FileCounts()).inputs(list_source(cfg.source, None, cfg.opening)):
        yield masks_uri(item, cfg.source, folder), item


def draw_masks(cfg: DrawMasksConfig, uri: str) -> dict[str, object]:
    """Draws the masks that are missing below ``uri``, then writes the tables.

    Needs Ray to be initialized.

    Args:
        cfg: The job's config, with an absolute ``source``.
        uri: Folder of the stage, local or S3.

    Returns:
        The stage's summary.

    Raises:
        ConfigError: Two videos would have the same masks, or no video gets any.
        StorageError: Reading or writing failed. Run again to resume.
    """
    counts, items = FileCounts(), dict[str, VideoItem]()
    for stem, item in list_videos(cfg, uri, counts):
        if stem in items:
            raise ConfigError(
                f"{items[stem].uri} and {item.uri} would have the same masks, {stem}.mp4. Give "
                "them other names."
            )
        items[stem] = item
    masks, records = storage.join(uri, MASK_VIDEOS), storage.join(uri, "records")
    record_uris = {stem: f"{records}{stem.removeprefix(masks)}.json" for stem in items}
    found = {info.uri for info in storage.list_files(records)}
    missing = [stem for stem in items if record_uris[stem] not in found]
    for _ in run_tasks(
        draw_video,
        [(cfg, items[stem], stem, record_uris[stem]) for stem in missing],
        sizes=[1] * len(missing),
        title=f"draw_masks {cfg.name}",
        unit="videos",
        num_done=len(items) - len(missing),
        num_gpus=1 if cfg.use_gpu else 0,
    ):
        pass
    summary = _write_tables(uri, list(record_uris.values()))
    return summary | {"files": strict_json.plain(counts.table())}


def _write_tables(uri: str, record_uris: list[str]) -> dict[str, Any]:
    """Writes ``videos.parquet`` and ``rejects.parquet``. Returns the totals.

    Raises:
        ConfigError: No video has masks.
    """
    totals, rejects, agent_frames = Counter[str](), RejectCounts(), 0.0
    with (
        open_table(storage.join(uri, "videos.parquet"), DrawnVideo) as videos,
        open_table(storage.join(uri, "rejects.parquet"), RejectRow) as table,
    ):
        for record in map_ahead(functools.partial(strict_json.read, VideoRecord), record_uris):
            rejects.add(record.rejects)
            for row in record.rejects:
                table.add(vars(row))
            if (drawn := record.drawn) is not None:
                videos.add(vars(drawn))
                totals["num_videos"] += 1
                totals["num_frames"] += drawn.num_frames
                totals["num_empty_frames"] += drawn.num_empty_frames
                totals["num_bytes"] += drawn.num_bytes
                agent_frames += drawn.agent_share * drawn.num_frames
    if not totals["num_videos"]:
        raise ConfigError(
            f"None of {len(record_uris)} videos got masks. {rejects.in_words()} All rejects are in "
            f"{storage.join(uri, 'rejects.parquet')}."
        )
    return {
        **totals,
        "num_empty_frames": totals["num_empty_frames"],
        "num_rejected_videos": len(record_uris) - totals["num_videos"],
        "rejects": dict(rejects.spans),
        "agent_share": agent_frames / totals["num_frames"],
    }


def draw_video(cfg: DrawMasksConfig, item: VideoItem, stem: str, record_uri: str) -> None:
    """Draws and stores the masks of one video, and then its record, as one Ray task.

    A video that cannot be used becomes a reject.
    """
    segmenter = _segmenter(cfg.segmenter, "cuda" if cfg.use_gpu else "cpu")
    with TemporaryFolder() as folder, ExitStack() as stack:
        drawing: _Drawing | None = None
        rejects: list[RejectRow] = []
        for row in _sandbox(cfg.opening).frames(item, cfg.max_side_px):
            if isinstance(row, VideoRow):  # the video begins, perhaps once more
                stack.close()
                drawing, rejects = None, []
            elif isinstance(row, RejectRow):
                rejects.append(row)
            elif isinstance(row, VideoFrames):
                if drawing is None:
                    drawing = stack.enter_context(_Drawing(Path(folder) / "masks.mp4", row))
                drawing.add(row, segmenter, cfg.batch_size)
        stack.close()
        if drawing is None and not rejects:  # a decoder that was broken into may send nothing
            rejects = [RejectRow(video_uri=item.uri, start_s=0, end_s=0, reason="no_frames")]
        drawn = None
        if drawing is not None and not rejects:
            drawn = drawing.stored(item.uri, f"{stem}.mp4")
    # Written last, because ``draw_masks`` takes it as the sign that the video is done.
    strict_json.write(record_uri, VideoRecord(drawn=drawn, rejects=tuple(rejects)))


class _Drawing:
    """Draws and encodes the masks of one video. Use as a context manager."""

    def __init__(self, path: Path, first: VideoFrames) -> None:
        self._path, self._last_ticks = path, -1
        # The frames have times of their own, so the rate is only what the file's header says.
        self._writer = ClipWriter(str(path), first.pixels.shape[1:3], 30, _LOSSLESS, _CLOCK_HZ)
        self._num_pixels = np.empty(0, np.int64)  # that show the agent, of each frame
        self._frame_pixels = first.pixels[0, ..., 0].size

    def __enter__(self) -> "_Drawing":
        return self

    def __exit__(self, *exc: object) -> None:
        self._writer.__exit__(*exc)

    def add(self, frames: VideoFrames, segmenter: Segmenter, batch_size: int) -> None:
        """Draws the masks of more frames."""
        num_batches = -(-len(frames.pixels) // batch_size)
        for pixels, times_s in zip(
            np.array_split(frames.pixels, num_batches),
            np.array_split(frames.times_s, num_batches),
            strict=True,
        ):
            masks = segmenter.draw(pixels)
            self._num_pixels = np.append(self._num_pixels, masks.sum(axis=(1, 2)))
            for mask, time_s in zip(masks, times_s, strict=True):
                # Two frames may be closer than a tick.
                self._last_ticks = max(self._last_ticks + 1, round(time_s * _CLOCK_HZ))
                white = np.where(mask, np.uint8(255), np.uint8(0))
                self._writer.add(np.repeat(white[..., None], 3, axis=2), self._last_ticks)

    def stored(self, video_uri: str, uri: str) -> DrawnVideo:
        """Moves the finished mask video to its place. Returns its row."""
        num_bytes = self._path.stat().st_size
        storage.upload(self._path, uri)
        return DrawnVideo(
            video_uri=video_uri,
            masks_uri=uri,
            num_frames=len(self._num_pixels),
            num_empty_frames=int((self._num_pixels == 0).sum()),
            agent_share=float(self._num_pixels.mean() / self._frame_pixels),
            num_bytes=num_bytes,
        )


@functools.lru_cache(maxsize=1)
def _segmenter(cfg: SegmenterConfig, device: str) -> Segmenter:
    """Loads a segmenter and keeps it for the next task of this worker process."""
    return Segmenter(cfg, usable_device(device))


@functools.lru_cache(maxsize=1)
def _sandbox(cfg: PreprocessConfig) -> Sandbox:
    """Starts the process that decodes, and keeps it likewise. It ends with this process."""
    return Sandbox(cfg, HostGate())
