"""Chooses each video's time step so that neighbouring frames move about equally in all videos.

At one fixed rate, a sports video moves ten times as much per frame pair as a lecture, and a latent
action means something else in each. With ``clip.target_motion`` m, a video gets the step

    dt = k / r,    k = the smallest of 1, 2, 3 ... with  median_t |f(t + k / r) - f(t)| >= m

where r is the video's own rate (at most ``clip.fps``), f its frames scaled down to
``motion.SIDE_PX``, and |.| the mean absolute difference over pixels and colours. The design is this
project's own.
"""

import math
from collections.abc import Iterable

import numpy as np

from data_pipelines.preprocess.clip.measure.motion import pair_motion
from data_pipelines.preprocess.clip.resample import JITTER
from data_pipelines.preprocess.clip.split_clips import MAX_OWN_FPS, ClipConfig
from lafp.video.decoders.base import DamagedSpan, DecodedFrame

SAMPLE_S = 10.0
"""Length of the sample in the middle of the video, or less if the video is shorter."""


def highest_fps(source_fps: float, cfg: ClipConfig) -> float:
    """Returns the rate of clips without ``target_motion``, and the highest rate with it."""
    if cfg.target_motion is None:
        return cfg.fps or min(source_fps, MAX_OWN_FPS)
    return min(source_fps, cfg.fps or MAX_OWN_FPS)


def sample_start_s(duration_s: float) -> float:
    """Returns the time at which the sample begins."""
    return max(0.0, (duration_s - SAMPLE_S) / 2)


def choose_fps(
    events: Iterable[DecodedFrame | DamagedSpan], start_s: float, source_fps: float, cfg: ClipConfig
) -> float:
    """Returns the rate of a video's clips, by the formula above.

    Args:
        events: Small frames of the video, from ``start_s`` or earlier.
        start_s: Start of the sample.
        source_fps: Rate of the video.
        cfg: Clip config with a ``target_motion``.

    Returns:
        r / k, but at least the rate at which the longest clip has ``min_frames``. Videos that
        hardly move, or whose sample does not decode, get that least rate.
    """
    assert cfg.target_motion is not None
    fps = highest_fps(source_fps, cfg)
    # With a larger step the longest clip would have fewer than min_frames and be rejected.
    max_step = max(1, int(fps * cfg.max_s / cfg.min_frames))
    small = sample_frames(events, start_s, fps)
    for step in range(1, max_step + 1):
        moved = pair_motion(small, step)
        if len(moved) and np.median(moved) >= cfg.target_motion:
            return fps / step
    return fps / max_step


def sample_frames(
    events: Iterable[DecodedFrame | DamagedSpan], start_s: float, fps: float
) -> np.ndarray:
    """Returns the frames shown from ``start_s`` on, 1/fps apart: float32 [T, h, w, 3] in [0, 1].

    The first frame is taken at its own time. Otherwise time stamps that are rounded to milliseconds
    could show one frame twice and skip the next.
    """
    pictures: list[np.ndarray] = []
    first_s = math.inf
    shown: DecodedFrame | None = None
    num_ticks = round(SAMPLE_S * fps)
    for event in events:
        if isinstance(event, DamagedSpan):
            continue
        while shown is not None and len(pictures) < num_ticks:
            if event.time_s <= start_s + JITTER / fps:
                break
            first_s = min(first_s, shown.time_s)
            if first_s + len(pictures) / fps >= event.time_s - JITTER / fps:
                break
            pictures.append(shown.pixels())
        if len(pictures) == num_ticks:
            break
        shown = event
    if shown is not None and len(pictures) < num_ticks:
        pictures.append(shown.pixels())
    if not pictures:
        return np.zeros((0, 1, 1, 3), np.float32)
    return np.stack(pictures).astype(np.float32) / 255
