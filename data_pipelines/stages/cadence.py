"""Undo regularly repeated frames: telecine, animation on twos, captures slower than their file.

Such a file shows each picture for h of its frames, in the mean: h = 5/4 for 24 pictures per second
in 30 frames (3:2 pulldown), 2 for animation on twos, 4 for a screen captured at 15 and stored at
60. Neighbouring frames then stand still and jump by turns, which no action explains. Here h is
found on a sample, repeats are dropped, and what is left is spaced evenly, as it was recorded.
"""

import math
from collections import deque
from collections.abc import Iterable, Iterator
from fractions import Fraction
from functools import partial

import numpy as np

from data_pipelines.stages.choose_fps import sample_frames
from data_pipelines.stages.motion import shrink
from lafp.video.decoder import DamagedSpan, DecodedFrame, VideoInfo

# A repeat differs from the picture before by less than this share of the motion round it, ...
_MAX_SHARE = 0.15
# ... which is judged only where pictures move by more than coding noise: 0.5 levels of 255.
_MIN_MOVED = 0.002
# That is the third largest difference of so many frames before and after: larger ones may be cuts.
_NUM_AROUND = 12
# Pictures that must be there, and the share of them that is held for h frames, rounded up or down.
_MIN_PICTURES, _MIN_REGULAR = 12, 0.95
# One repeat in more frames than this is left alone: it moves times by less than it costs.
_MIN_HOLD, _MAX_HOLD = 1.15, 8.0
_MAX_DENOMINATOR = 6
_MIN_TINY_SHARE = 0.1
# A picture that is shown later than its even spacing by more than this begins a new one. Unit:
# frames of the file; what h = p/q needs is (q - 1)/q.
_MAX_OFF = 0.9


def may_repeat(info: VideoInfo) -> bool:
    """Whether it is worth looking: packets of repeats are nearly empty."""
    return info.is_constant_rate and info.tiny_share > _MIN_TINY_SHARE


def hold_of_sample(
    events: Iterable[DecodedFrame | DamagedSpan], start_s: float, fps: float
) -> Fraction:
    """``find_hold`` of small frames of a video at its own rate, from ``start_s`` on."""
    return find_hold(sample_frames(events, start_s, fps))


def find_hold(small: np.ndarray) -> Fraction:
    """How many frames each picture is held.

    Args:
        small: float32 [T, h, w, 3] in [0, 1]: neighbouring frames of the file (``motion.shrink``).

    Returns:
        1 where frames are not repeated, or not regularly: a screen on which nothing happens now
        and then is no repeat but what it shows.
    """
    moved = np.abs(np.diff(small, axis=0)).mean(axis=(1, 2, 3))
    holds = [hold for run in _moving_runs(moved) for hold in run]
    if len(holds) < _MIN_PICTURES:
        return Fraction(1)
    hold = float(np.mean(holds))
    is_regular = np.mean([int(hold) <= each <= math.ceil(hold) for each in holds])
    if not _MIN_HOLD <= hold <= _MAX_HOLD or is_regular < _MIN_REGULAR:
        return Fraction(1)
    return Fraction(hold).limit_denominator(_MAX_DENOMINATOR)


def _moving_runs(moved: np.ndarray) -> Iterator[list[int]]:
    """Where the video moves: for how many frames each picture is held; whole holds only.

    Args:
        moved: float32 [T - 1]: mean difference of each frame to the one before.
    """
    run: list[int] = []
    since = None
    for i, difference in enumerate(moved):
        around = _typical(moved[max(0, i - _NUM_AROUND) : i + _NUM_AROUND + 1].tolist())
        if around < _MIN_MOVED:
            yield run
            run, since = [], None
        elif difference >= _MAX_SHARE * around:
            if since is not None:
                run.append(i - since)
            since = i
    yield run


def _typical(moved: Iterable[float]) -> float:
    return sorted(moved)[-3:][0]


def drop_repeats(
    events: Iterable[DecodedFrame | DamagedSpan], hold: Fraction, fps: float
) -> Iterator[DecodedFrame | DamagedSpan]:
    """Passes on each picture once, evenly spaced; for at most ``hold`` frames nothing new comes.

    Args:
        events: What a decoder yields.
        hold: Of ``find_hold``, more than 1.
        fps: Of the file.
    """
    step_s, max_hold = float(hold) / fps, math.ceil(hold)
    moved: deque[float] = deque(maxlen=2 * _NUM_AROUND)
    last: np.ndarray | None = None
    num_held, time_s = 0, 0.0
    for event in events:
        if isinstance(event, DamagedSpan):
            last = None
            moved.clear()
            yield event
            continue
        pixels = event.pixels()
        small = shrink(pixels[None])[0]
        if last is None:
            time_s = event.time_s
        else:
            moved.append(float(np.abs(small - last).mean()))
            num_held += 1
            if num_held < max_hold and moved[-1] < _MAX_SHARE * max(_typical(moved), _MIN_MOVED):
                continue
            off_s = event.time_s - (time_s + step_s)
            # Never later than it is shown, so that times stay in order at every cut.
            is_even = -1e-6 <= off_s <= _MAX_OFF / fps
            time_s = time_s + step_s if is_even else event.time_s
        last, num_held = small, 0
        yield DecodedFrame(time_s, partial(np.asarray, pixels))
