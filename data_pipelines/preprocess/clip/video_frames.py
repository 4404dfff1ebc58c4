"""Yields the frames of a video as they are, for models that look at whole videos."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import numpy as np

from data_pipelines.preprocess.clip import probe
from data_pipelines.preprocess.clip.labels.flawed import SAME_S
from data_pipelines.preprocess.clip.video_to_clips import item_videos, row_of_video
from data_pipelines.preprocess.config import PreprocessConfig
from data_pipelines.preprocess.rows import Row, VideoFrames, VideoItem
from data_pipelines.preprocess.sources.opened import Opened
from lafp.video.decoders.base import DamagedSpan, DecodedFrame, VideoDecoder, VideoError, VideoInfo

# One ``VideoFrames`` holds as many bytes, so that sending is cheap and memory stays small.
_BYTES = 32 * 2**20
# The decoder waits while the consumer is busy with earlier frames. So the other end watches the
# time, which it takes between rows.
_NO_TIMEOUT_S = 1e9


def video_frames(
    item: VideoItem, cfg: PreprocessConfig, video_decoder: VideoDecoder, max_side_px: int
) -> Iterator[Iterator[Row]]:
    """Yields the rows of the video in a file: its ``VideoRow``, then ``VideoFrames`` or a reject.

    Args:
        item: The input, a video file.
        cfg: Its limits hold, but for ``timeout_s``.
        video_decoder: The configured video decoder.
        max_side_px: Frames whose longer side is larger are scaled to it.
    """
    cfg = replace(cfg, limits=replace(cfg.limits, timeout_s=_NO_TIMEOUT_S))
    rows_of = partial(_rows, item=item, cfg=cfg, max_side_px=max_side_px)
    return item_videos(item, cfg, video_decoder, rows_of=rows_of)


def _rows(video: Opened, item: VideoItem, cfg: PreprocessConfig, max_side_px: int) -> Iterator[Row]:
    info = video.info
    yield row_of_video(video, item, info.duration_s)
    if found := probe.violation(info, cfg.limits):
        raise VideoError(*found)
    scale = min(1.0, max_side_px / max(info.width_px, info.height_px))
    width, height = (max(1, round(px * scale)) for px in (info.width_px, info.height_px))
    per_row = max(1, _BYTES // (3 * width * height))
    waiting: list[np.ndarray] = []
    first = 0
    for pixels in _one_per_time(info, video.frames(width, height)):
        waiting.append(pixels)
        if len(waiting) == per_row or first + len(waiting) == len(info.times_s):
            yield _span(info, first, waiting)
            first, waiting = first + len(waiting), []


def _span(info: VideoInfo, first: int, pixels: list[np.ndarray]) -> VideoFrames:
    end = first + len(pixels)
    return VideoFrames(
        start_s=float(info.times_s[first]) if first else 0.0,
        end_s=float(info.times_s[end]) if end < len(info.times_s) else info.duration_s,
        times_s=info.times_s[first:end],
        pixels=np.stack(pixels),
    )


def _one_per_time(
    info: VideoInfo, events: Iterator[DecodedFrame | DamagedSpan]
) -> Iterator[np.ndarray]:
    """Yields one picture per coded frame, the last sound one where a frame does not decode.

    Raises:
        VideoError: No frame decodes.
    """
    shown: np.ndarray | None = None
    num = 0
    for event in events:
        if isinstance(event, DecodedFrame):
            number = int(np.searchsorted(info.times_s, event.time_s + SAME_S, side="right")) - 1
            pixels = event.pixels()
            # Frames before the first sound one show that.
            yield from [pixels if shown is None else shown] * (number - num)
            if number >= num:
                yield pixels
                num = number + 1
            shown = pixels
    if shown is None:
        raise VideoError("does_not_decode", "no frame decodes to what was encoded")
    yield from [shown] * (len(info.times_s) - num)
