"""Opens one listed input of any place and format, and yields its videos one by one."""

import hashlib
import time
from collections.abc import Generator, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

from data_pipelines.preprocess.clip.labels.npz import read_sidecar, read_stacked
from data_pipelines.preprocess.clip.labels.read import LabelsConfig
from data_pipelines.preprocess.config import PreprocessConfig
from data_pipelines.preprocess.rows import LeftOut, VideoItem
from data_pipelines.preprocess.sources import LABELED_SOURCES
from data_pipelines.preprocess.sources.fetch import fetched
from data_pipelines.preprocess.sources.list_videos import WEBDATASET
from data_pipelines.preprocess.sources.masks import found_masks
from data_pipelines.preprocess.sources.opened import Opened, OpenWith, Unusable, open_file
from data_pipelines.preprocess.sources.webdataset import open_webdataset
from lafp.video.decoders.arrays import array_frames, array_info
from lafp.video.decoders.base import VideoDecoder, VideoError


def open_item(
    item: VideoItem, cfg: PreprocessConfig, video_decoder: VideoDecoder
) -> Generator[Opened | Unusable | LeftOut, None, None]:
    """Yields the videos of one input. Each is gone through before the next is asked for.

    Raises:
        VideoError: The input, or the rest of it, cannot be used.
        Exception: Any other error of the input, which ``faults`` turns into a reject row.
    """
    assert item.refused is None
    is_stream = item.reader == WEBDATASET
    # A tar is read as a stream, one member at a time, so only its members have a largest size.
    if item.num_bytes > cfg.limits.max_bytes and not is_stream:
        raise VideoError("too_many_bytes", f"{item.num_bytes} bytes")
    if is_stream:
        yield from open_webdataset(item, cfg, video_decoder)
    elif item.reader:
        yield from _by_reader(item, cfg, video_decoder)
    else:
        yield from _one_file(item, cfg, video_decoder)


def _by_reader(
    item: VideoItem, cfg: PreprocessConfig, video_decoder: VideoDecoder
) -> Iterator[Opened | Unusable]:
    assert cfg.labels is not None
    using = OpenWith(
        labels=cfg.labels,
        video_decoder=video_decoder,
        max_pixels=cfg.limits.max_pixels,
        deadline=time.monotonic() + cfg.limits.timeout_s,
    )
    yield from LABELED_SOURCES.get(item.reader)().open(item, using)


def _one_file(
    item: VideoItem, cfg: PreprocessConfig, video_decoder: VideoDecoder
) -> Iterator[Opened]:
    with fetched(item, cfg) as path, found_masks(item, cfg.limits, video_decoder) as masks:
        if cfg.labels is not None and item.labels_uri == item.uri:
            yield from _stacked(item, path, cfg.labels)
            return
        labels = None
        if cfg.labels is not None and item.labels_uri is not None:
            labels = partial(read_sidecar, item.labels_uri, cfg.labels)
        yield replace(open_file(path, item.uri, cfg.limits, video_decoder, labels), masks=masks)


def _stacked(item: VideoItem, path: Path, cfg: LabelsConfig) -> Iterator[Opened]:
    for index, episode in enumerate(read_stacked(path, cfg)):
        frames, rate = episode.frames, episode.rate
        yield Opened(
            uri=f"{item.uri}#{index}",
            video_id=hashlib.sha256(frames.tobytes()).hexdigest()[:32],
            num_bytes=frames.nbytes,
            info=array_info(frames, rate.fps),
            frames=partial(array_frames, frames, rate.fps),
            labels=episode.labels,
            is_rate_assumed=rate.is_assumed,
        )
