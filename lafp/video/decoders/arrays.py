"""Presents frames in an array as a video, for sources that store no video files."""

from collections.abc import Iterable, Iterator
from functools import partial

import numpy as np

from lafp.video.convert import Scaler
from lafp.video.decoders.base import DamagedSpan, DecodedFrame, Orientation, VideoError, VideoInfo


def array_info(frames: np.ndarray, fps: float) -> VideoInfo:
    """Returns the info that a probe of the frames would give.

    Args:
        frames: uint8 RGB [T, H, W, 3].
        fps: Rate of the frames.
    """
    num_frames, height, width = frames.shape[:3]
    return pictures_info(num_frames, height, width, fps, codec="rawvideo")


def pictures_info(num_frames: int, height: int, width: int, fps: float, codec: str) -> VideoInfo:
    """Returns the info that a probe of upright pictures of one size and a constant rate gives."""
    return VideoInfo(
        codec=codec,
        width_px=width,
        height_px=height,
        coded_size=(width, height),
        max_pixels=width * height,
        orientation=Orientation(),
        times_s=np.arange(num_frames) / fps,
        first_pts_s=0.0,
        fps=fps,
        is_constant_rate=True,
        duration_s=num_frames / fps,
        declared_duration_s=num_frames / fps,
    )


def array_frames(
    frames: Iterable[np.ndarray | VideoError], fps: float, width_px: int, height_px: int
) -> Iterator[DecodedFrame | DamagedSpan]:
    """Yields the frames as a decoder would, scaled like the reference decoder scales.

    Args:
        frames: Pixels, or the error of a frame that cannot be shown.
        fps: Rate of the frames.
        width_px: Width to scale to.
        height_px: Height to scale to.
    """
    scale = Scaler(width_px, height_px)
    for i, pixels in enumerate(frames):
        if isinstance(pixels, VideoError):
            yield DamagedSpan(i / fps, (i + 1) / fps, pixels.detail)
        else:
            yield DecodedFrame(i / fps, partial(scale, pixels))
