"""Decides the rate of a video's clips, and how often the file repeats each picture."""

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from typing import TypeVar

from data_pipelines.preprocess.clip import choose_fps
from data_pipelines.preprocess.clip.filters import cadence
from data_pipelines.preprocess.clip.measure import motion
from data_pipelines.preprocess.clip.split_clips import ClipConfig
from data_pipelines.preprocess.sources.opened import Opened

T = TypeVar("T")


@dataclass(frozen=True)
class Pace:
    """Says how a video's frames become ticks."""

    fps: float
    """Rate of the video's clips."""
    hold: Fraction
    """Number of frames of the file that show each picture."""
    picture_fps: float
    """Rate of the video's pictures."""


def pace_of(video: Opened, cfg: ClipConfig) -> Pace:
    """Measures repeats and motion of a video as far as ``cfg`` asks for them."""
    hold = Fraction(1)
    if cfg.undo_repeats and cadence.may_repeat(video.info):
        hold = _measured(video, cadence.hold_of_sample, hold)
    picture_fps = video.info.fps / float(hold)
    fps = choose_fps.highest_fps(picture_fps, cfg)
    if cfg.target_motion is not None:
        of_motion = partial(choose_fps.choose_fps, cfg=cfg)
        fps = _measured(video, of_motion, fps, picture_fps)
    return Pace(fps, hold, picture_fps)


def _measured(
    video: Opened, measure: Callable[..., T], otherwise: T, fps: float | None = None
) -> T:
    """Applies ``measure`` to small frames of the middle of a video."""
    info = video.info
    scale = motion.SIDE_PX / min(info.width_px, info.height_px)
    size = max(1, round(info.width_px * scale)), max(1, round(info.height_px * scale))
    start_s = choose_fps.sample_start_s(info.duration_s) if video.frames_from else 0.0
    # Measuring starts near the sample if the decoder can. Otherwise all frames before it are
    # decoded.
    frames = (
        video.frames_from(*size, start_s, None, False) if video.frames_from else video.frames(*size)
    )
    try:
        return measure(frames, start_s, fps or info.fps)
    except Exception:  # the frames are decoded again later, which reports the error
        return otherwise
