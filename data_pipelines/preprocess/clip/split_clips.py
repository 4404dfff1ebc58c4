"""Cuts a video's resampled frames into clips of limited length."""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from data_pipelines.preprocess.clip.filters.frozen import cut_still
from data_pipelines.preprocess.clip.filters.shots import ShotsConfig, cut_at_shots
from data_pipelines.preprocess.clip.resample import JITTER, Cut, Event, SegmentEnd, Tick

MAX_OWN_FPS = 240.0
"""Highest rate of a video that keeps its own rate. Without it, wrong time stamps could fill the
memory."""


@dataclass(frozen=True, kw_only=True)
class ClipConfig:
    """Sets the rate and length of clips."""

    fps: float | None = 10.0
    """Frames per second of presentation time; one training step is 1/fps seconds. null keeps the
    rate of each video (that of its median step if it varies), up to 240."""
    target_motion: float | None = None
    """If set, each video gets its own rate, at most `fps`: the highest rate at which neighbouring
    frames move by at least this much in the median, so that motion is comparable across videos
    (``clip.choose_fps`` has the formula). Unit: as in `filters.min_motion`."""
    max_s: float = 10.0
    """Longest clip. Longer videos are cut into clips of equal length."""
    min_frames: int = 16
    """Clips with fewer frames are rejected. A window needs frame_stack + max_offset_steps
    frames."""
    max_hold_s: float = 2.0
    """A frame that is shown for longer counts as a gap, not as motion at a low rate: the video is
    cut there."""
    max_frozen_s: float | None = None
    """Cuts out spans that show one picture for longer (still pictures, black, frozen streams). With
    `filters.min_motion` it also cuts out spans that move by less than that from frame to frame."""
    undo_repeats: bool = False
    """Drops regularly repeated frames (telecine, animation on twos) and spaces the others evenly;
    the video's own rate then is the rate of its pictures (``filters.cadence``)."""
    shots: ShotsConfig | None = None
    """Cuts clips at shot cuts. Edited videos need this; demonstrations have no shot cuts."""

    def __post_init__(self) -> None:
        if self.fps is not None and self.fps <= 0:
            raise ValueError(f"fps must be positive or null, got {self.fps}.")
        if self.target_motion is not None and not 0 < self.target_motion < 1:
            raise ValueError(f"target_motion must be in (0, 1) or null, got {self.target_motion}.")
        if self.max_s <= 0 or self.max_hold_s <= 0:
            raise ValueError(
                f"max_s and max_hold_s must be positive, got {self.max_s} and {self.max_hold_s}."
            )
        if self.max_frozen_s is not None and self.max_frozen_s <= 0:
            raise ValueError(f"max_frozen_s must be positive or null, got {self.max_frozen_s}.")
        if self.min_frames < 2:
            raise ValueError(
                f"min_frames must be at least 2 (a frame pair), got {self.min_frames}."
            )
        if self.fps is not None and self.max_s * self.fps < self.min_frames:
            raise ValueError(
                f"max_s {self.max_s} at {self.fps} fps is less than min_frames {self.min_frames}: "
                "every clip would be rejected. Raise max_s, or lower min_frames."
            )


@dataclass(frozen=True)
class ClipFrames:
    """Holds one clip in memory."""

    start_s: float
    end_s: float
    frames: np.ndarray
    """uint8 [T, H, W, 3]."""
    shown_s: np.ndarray
    """float64 [T]: when each frame begins in its video."""


def split_clips(
    events: Iterable[Event],
    fps: float,
    duration_s: float,
    cfg: ClipConfig,
    fit: Callable[[np.ndarray], np.ndarray],
    start_s: float = 0.0,
    min_motion: float | None = None,
) -> Iterator[ClipFrames | Cut]:
    """Yields clips of at most ``max_s`` and cuts, in order, which together cover the video.

    Args:
        events: The output of ``resample``.
        fps: Rate of the ticks.
        duration_s: Duration of the video.
        cfg: Lengths of clips.
        fit: Crops or pads one frame. It is applied to each frame at once, so that no larger frames
            wait in memory.
        start_s: Time at which the events begin.
        min_motion: ``min_motion`` of the source's filters.
    """
    clip_frames = frames_per_clip(math.ceil(duration_s * fps - JITTER), fps, cfg)
    frames: list[np.ndarray] = []
    shown_s: list[float] = []

    def clip(end_s: float) -> ClipFrames | Cut:
        if len(frames) < cfg.min_frames:
            return Cut(start_s, end_s, "too_short", f"{len(frames)} of {cfg.min_frames} frames")
        return ClipFrames(start_s, end_s, np.stack(frames), np.array(shown_s))

    # Still spans are cut before shots are found, because the shot filter sees their ends as the
    # ends of segments.
    if cfg.max_frozen_s is not None:
        events = cut_still(events, cfg.max_frozen_s, min_motion)
    if cfg.shots is not None:
        events = cut_at_shots(events, cfg.shots, fps)
    for event in events:
        if isinstance(event, Tick):
            if len(frames) == clip_frames:
                yield clip(event.time_s)
                start_s, frames, shown_s = event.time_s, [], []
            # Ticks that show the same frame share its pixels, which are converted once.
            frames.append(fit(event.source.pixels))
            # Labels follow the frame that is shown, not the tick at which it is shown.
            shown_s.append(event.source.time_s)
        elif isinstance(event, SegmentEnd):
            if event.time_s > start_s:
                yield clip(event.time_s)
            start_s, frames, shown_s = event.time_s, [], []
        else:
            yield event
            start_s = event.end_s


def frames_per_clip(total_frames: int, fps: float, cfg: ClipConfig) -> int:
    """Divides a video into clips of equal length and returns the frames per clip.

    For example, 10.8 s become two clips of 5.4 s, not one clip of 10 s and a tail that is too
    short.
    """
    # The small number absorbs rounding: 0.3 * 10 must be 3 frames, not 2.
    max_frames = max(cfg.min_frames, int(cfg.max_s * fps + 1e-6))
    num_clips = max(1, math.ceil(total_frames / max_frames))
    return max(cfg.min_frames, math.ceil(total_frames / num_clips))
