from collections.abc import Iterator

import numpy as np
import pytest

from data_pipelines.preprocess.clip.resample import Cut, SegmentEnd, Tick, resample
from lafp.video.decoders.base import DamagedSpan, DecodedFrame, VideoError


def frames_at(times_s) -> list[DecodedFrame]:
    """A frame's pixels are its own index, so that a tick tells which frame it shows."""
    return [
        DecodedFrame(float(t), lambda i=i: np.full((1, 1, 3), i, np.uint8))
        for i, t in enumerate(times_s)
    ]


def run(events, fps, duration_s, source_fps=10.0, max_hold_s=2.0):
    return list(
        resample(
            events, fps=fps, source_fps=source_fps, duration_s=duration_s, max_hold_s=max_hold_s
        )
    )


def shown(events) -> list[int]:
    return [int(e.source.pixels[0, 0, 0]) for e in events if isinstance(e, Tick)]


def cuts(events) -> list[tuple[float, float, str]]:
    return [(e.start_s, e.end_s, e.reason) for e in events if isinstance(e, Cut)]


def test_the_same_rate_shows_every_frame_once_despite_rounded_time_stamps():
    times_s = np.round(np.arange(60) / 29.97, 3)
    events = run(frames_at(times_s), 29.97, 60 / 29.97, source_fps=29.97)
    assert shown(events) == list(range(60))
    ticks_s = [e.time_s for e in events if isinstance(e, Tick)]
    np.testing.assert_allclose(ticks_s, np.arange(60) / 29.97)


def test_a_lower_rate_shows_the_frame_of_each_time():
    events = run(frames_at(np.arange(30) / 30), 10, 1.0, source_fps=30)
    assert shown(events) == [0, 3, 6, 9, 12, 15, 18, 21, 24, 27]


def test_a_higher_rate_repeats_frames():
    events = run(frames_at(np.arange(4) / 5), 10, 0.8, source_fps=5)
    assert shown(events) == [0, 0, 1, 1, 2, 2, 3, 3]


def test_a_varying_rate_is_sampled_by_time_not_by_frame():
    times_s = [0, 0.05, 0.1, 0.4, 0.45, 0.95]
    events = run(frames_at(times_s), 10, 1.05)
    expected = [max(i for i, t in enumerate(times_s) if t <= k / 10 + 0.02) for k in range(11)]
    assert shown(events) == expected == [0, 2, 2, 2, 3, 4, 4, 4, 4, 4, 5]


def test_pixels_are_converted_only_for_frames_that_are_shown_and_only_once():
    converted = []

    def frame(i: int, time_s: float) -> DecodedFrame:
        return DecodedFrame(time_s, lambda: converted.append(i) or np.zeros((1, 1, 3), np.uint8))

    down = run([frame(i, i / 30) for i in range(30)], 10, 1.0, source_fps=30)
    up = run([frame(100 + i, i / 2) for i in range(3)], 10, 1.5, source_fps=2)
    for tick in (e for e in down + up if isinstance(e, Tick)):
        assert tick.source.pixels.shape == (1, 1, 3)
    assert converted == [*range(0, 30, 3), 100, 101, 102]


def test_damage_ends_the_segment_and_a_new_one_starts_behind_it():
    frames = frames_at(np.arange(30) / 10)
    events = [*frames[:10], DamagedSpan(1.0, 1.25, "noise"), *frames_at([1.25, 1.35, 1.45])]
    result = run(events, 10, 1.55)
    assert cuts(result) == [(1.0, 1.25, "damaged")]
    ticks_s = [round(e.time_s, 6) for e in result if isinstance(e, Tick)]
    assert ticks_s == [*(i / 10 for i in range(10)), 1.25, 1.35, 1.45]
    assert [e.time_s for e in result if isinstance(e, SegmentEnd)] == [1.0, 1.55]


def test_a_span_without_length_loses_nothing_but_no_clip_goes_across():
    events = [*frames_at(np.arange(10) / 10), DamagedSpan(1.0, 1.0, "another recording")]
    result = run([*events, *frames_at([1.0, 1.1])], 10, 1.2)
    assert cuts(result) == [] and len(shown(result)) == 12
    assert [e.time_s for e in result if isinstance(e, SegmentEnd)] == [1.0, 1.2]


def test_a_frame_that_stays_too_long_is_followed_by_a_gap():
    result = run(frames_at([0, 0.1, 0.2, 1000.0, 1000.1]), 10, 1000.2)
    assert cuts(result) == [(pytest.approx(0.3), 1000.0, "gap")]
    assert len(shown(result)) == 5, "a lying time stamp must not fill the memory"


def test_a_failing_decoder_keeps_what_it_gave_and_rejects_the_rest():
    def failing() -> Iterator[DecodedFrame]:
        yield from frames_at([0, 0.1, 0.2])
        raise VideoError("timeout", "the time for one video is used up")

    result = run(failing(), 10, 5.0)
    assert shown(result) == [0, 1, 2]
    assert cuts(result) == [(pytest.approx(0.3), 5.0, "timeout")]


@pytest.mark.parametrize("seed", range(30))
def test_segments_and_cuts_cover_the_whole_video(seed):
    rng = np.random.default_rng(seed)
    duration_s = 10.0
    times_s = np.sort(np.round(rng.uniform(0, duration_s, rng.integers(1, 80)), 3))
    times_s[0] = 0.0
    times_s = np.unique(times_s)
    damage = np.sort(rng.choice(times_s, 2, replace=False)) if len(times_s) > 2 else [20, 20]
    events = []
    for frame in frames_at(times_s):
        if damage[0] < frame.time_s <= damage[1]:
            if frame.time_s == damage[1]:
                events += [DamagedSpan(float(damage[0] + 1e-4), frame.time_s, "noise"), frame]
        else:
            events.append(frame)
    fps, max_hold_s = rng.choice([1.0, 7.0, 10.0, 60.0]), rng.choice([0.2, 1.0, 20.0])
    covered_s, last_tick_s = 0.0, -1.0
    for event in run(events, fps, duration_s, source_fps=8.0, max_hold_s=max_hold_s):
        if isinstance(event, Tick):
            assert event.time_s > last_tick_s
            assert covered_s <= event.time_s + 1e-9 and event.time_s < duration_s
            last_tick_s = event.time_s
        elif isinstance(event, SegmentEnd):
            assert event.time_s >= covered_s
            assert last_tick_s < event.time_s
            covered_s = event.time_s
        else:
            assert event.start_s == pytest.approx(covered_s) and event.end_s > event.start_s
            covered_s = event.end_s
    assert covered_s == pytest.approx(duration_s)
