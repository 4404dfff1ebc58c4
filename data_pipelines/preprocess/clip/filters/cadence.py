"""Drops regularly repeated frames: telecine, animation on twos, captures slower than their file.

Such a file shows each picture for h frames on average: h = 5/4 for 24 pictures per second in 30
frames (3:2 pulldown), 2 for animation on twos, 4 for a screen captured at 15 and stored at 60.
Neighbouring frames then alternately stand still and jump, which no action explains. This module
finds h on a sample, drops the repeats, and spaces the remaining frames evenly, as they were
recorded.
"""

import math
from collections import deque
from collections.abc import Iterable, Iterator
from fractions import Fraction
from functools import cache, partial

import numpy as np

from data_pipelines.preprocess.clip.choose_fps import sample_frames
from data_pipelines.preprocess.clip.measure.motion import shrink
from lafp.video.decoders.base import DamagedSpan, DecodedFrame, VideoInfo

# A repeat differs from the picture before by less than this share of the motion around it.
_MAX_SHARE = 0.15
# Repeats are looked for only where that motion exceeds coding noise, 0.5 levels of 255.
_MIN_MOVED = 0.002
# The motion around a frame is the third largest difference among this many frames before and after
# it; the two largest may be shot cuts.
_NUM_AROUND = 12
_BLOCK_FRAMES, _NUM_PHASES = 40, 16
# A pattern needs at least _MIN_SEEN new pictures and as many repeats. In short samples, about
# _NUM_BY_CHANCE of them fit some pattern by chance.
_MIN_SEEN, _NUM_BY_CHANCE = 10, 6
# A picture that should begin but does not may be a pause. It counts half as much against a rate as
# a picture that begins between the times of that rate.
_MISSED_COST = 0.5
# Largest shares of frames that may contradict a rate. In telecine of real videos, 0 to 0.15 of the
# frames are off the beat; with pauses and single holds, 0.31 and more.
_MAX_OFF_BEAT, _MAX_MISSED = 0.17, 0.3
# Patterns outside of these frames per picture are left alone: rarer repeats shift times too little.
_MIN_HOLD, _MAX_HOLD = 1.15, 8.0
_MAX_DENOMINATOR = 6
_MIN_TINY_SHARE = 0.05
# A picture that is shown later than its evenly spaced time by more than this starts a new spacing.
# Unit: frames of the file. A pattern h = p/q needs (q - 1)/q.
_MAX_OFF = 0.9


def may_repeat(info: VideoInfo) -> bool:
    """Says whether a search for repeats pays: packets of repeated frames are nearly empty."""
    return info.is_constant_rate and info.tiny_share > _MIN_TINY_SHARE


def hold_of_sample(
    events: Iterable[DecodedFrame | DamagedSpan], start_s: float, fps: float
) -> Fraction:
    """Applies ``find_hold`` to small frames of a video at its own rate, from ``start_s`` on."""
    return find_hold(sample_frames(events, start_s, fps))


def find_hold(small: np.ndarray) -> Fraction:
    """Finds how many frames each picture is held.

    At an even rate of ``f`` pictures per frame, pictures begin on a comb: at the frames i where
    ``floor(i f + phase)`` grows. The function takes the ``f`` whose comb best explains where
    pictures begin, and only if it explains nearly all of them throughout the sample. Each block of
    ``_BLOCK_FRAMES`` frames has its own phase, because clocks drift. A pause, or a few single
    holds, fit no comb.

    Args:
        small: float32 [T, h, w, 3] in [0, 1]: neighbouring frames of the file (``motion.shrink``).

    Returns:
        Frames per picture; 1 if frames are not repeated, or not regularly. A screen on which
        something happens only now and then has no regular repeats.
    """
    if len(small) < 2:
        return Fraction(1)
    is_new, is_held = _blocks(np.abs(np.diff(small, axis=0)).mean(axis=(1, 2, 3)))
    per_frame, combs = _combs(is_new.shape[1])
    # [blocks, rates, phases]: numbers of frames that contradict a comb, and that could.
    along = partial(np.tensordot, axes=(1, 1))
    off_beat, missed = along(is_new, 1 - combs), along(is_held, combs)
    num_between, num_begun = along(is_new + is_held, 1 - combs), along(is_new + is_held, combs)
    # Each block takes its own phase, because clocks drift; only the rate must be the same
    # throughout.
    phase = (off_beat + _MISSED_COST * missed).argmin(axis=2)[..., None]
    off_beat, missed, num_between, num_begun = (
        np.take_along_axis(counts, phase, axis=2)[..., 0].sum(axis=0)
        for counts in (off_beat, missed, num_between, num_begun)
    )
    cost = off_beat + _MISSED_COST * missed
    best = np.flatnonzero(cost == cost.min())
    # Neighbouring rates often explain the sample equally well. The middle one of them is taken.
    hold, best = 1 / float(per_frame[best].mean()), best[len(best) // 2]
    num_new, num_held = is_new.sum(), is_held.sum()
    num_seen = min(num_new, num_held)
    # Short samples fit some comb by chance, so they are judged more strictly.
    tolerance = max(0.0, 1 - _NUM_BY_CHANCE / max(num_seen, 1))
    is_rhythm = (
        num_seen >= _MIN_SEEN
        and _MIN_HOLD <= hold <= _MAX_HOLD
        and off_beat[best] <= tolerance * _MAX_OFF_BEAT * min(num_new, num_between[best])
        and missed[best] <= tolerance * _MAX_MISSED * min(2 * num_held, num_begun[best])
    )
    return Fraction(hold).limit_denominator(_MAX_DENOMINATOR) if is_rhythm else Fraction(1)


def _blocks(moved: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Says which frames begin a picture and which repeat one; neither where the video is still.

    Args:
        moved: float32 [T - 1]: mean difference of each frame to the one before.

    Returns:
        Two float32 [blocks, frames] of zeros and ones.
    """
    around = np.array(
        [
            _typical(moved[max(0, i - _NUM_AROUND) : i + _NUM_AROUND + 1].tolist())
            for i in range(len(moved))
        ]
    )
    is_moving, is_new = around >= _MIN_MOVED, moved >= _MAX_SHARE * around
    num_blocks = max(1, len(moved) // _BLOCK_FRAMES)
    size = -(-len(moved) // num_blocks)
    padded = np.zeros((2, num_blocks * size), np.float32)
    padded[:, : len(moved)] = is_moving & is_new, is_moving & ~is_new
    new_share, held_share = padded.reshape(2, num_blocks, size)
    return new_share, held_share


@cache
def _combs(num_frames: int) -> tuple[np.ndarray, np.ndarray]:
    """Lists all rates and, for each rate and phase, the frames of a block that begin a picture.

    Returns:
        float64 [R], in pictures per frame; float32 [R, num_frames, P] of zeros and ones.
    """
    # Neighbouring rates drift apart by only about 1/8 of a picture within a block.
    num_rates = math.ceil(8 * num_frames * (1 / _MIN_HOLD - 1 / _MAX_HOLD))
    per_frame = np.linspace(1 / (_MAX_HOLD + 0.5), 1 / (_MIN_HOLD - 0.02), num_rates)
    phases = (np.arange(_NUM_PHASES) + 0.5) / _NUM_PHASES
    frames = np.arange(num_frames + 1)
    begun = np.floor(per_frame[:, None, None] * frames[:, None] + phases)
    return per_frame, np.diff(begun, axis=1).astype(np.float32)


def _typical(moved: Iterable[float]) -> float:
    # The third largest, because the two largest may be shot cuts.
    return sorted(moved)[-3:][0]


def drop_repeats(
    events: Iterable[DecodedFrame | DamagedSpan], hold: Fraction, fps: float
) -> Iterator[DecodedFrame | DamagedSpan]:
    """Passes each picture on once, evenly spaced, and drops at most ``hold`` frames in a row.

    Args:
        events: The output of a video decoder.
        hold: Result of ``find_hold``, more than 1.
        fps: Rate of the file.
    """
    step_s, max_hold = float(hold) / fps, math.ceil(hold)
    moved: deque[float] = deque(maxlen=2 * _NUM_AROUND)
    last: np.ndarray | None = None
    num_held, time_s = 0, 0.0
    for event in events:
        if isinstance(event, DamagedSpan):
            # After a cut, the next frame has no neighbour to repeat.
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
            # A picture never comes later than it is shown, so that times ascend at every cut.
            is_even = -1e-6 <= off_s <= _MAX_OFF / fps
            time_s = time_s + step_s if is_even else event.time_s
        # The next frames are compared with the picture that was passed on, not with each other, so
        # that slow motion adds up to a new picture.
        last, num_held = small, 0
        yield DecodedFrame(time_s, partial(np.asarray, pixels))
