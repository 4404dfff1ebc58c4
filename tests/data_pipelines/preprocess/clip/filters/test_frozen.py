import numpy as np
import pytest

from data_pipelines.preprocess.clip.filters.frozen import cut_still
from data_pipelines.preprocess.clip.resample import Cut, SegmentEnd, Tick, resample
from data_pipelines.preprocess.clip.split_clips import ClipConfig, ClipFrames, split_clips
from lafp.video.decoders.base import DecodedFrame
from tests.synthetic_video import moving_square


def run(frames, max_frozen_s=1.0, min_motion=None):
    """Events of frames 0.1 s apart."""
    decoded = [DecodedFrame(i / 10, lambda i=i: frames[i]) for i in range(len(frames))]
    ticks = resample(decoded, fps=10, source_fps=10, duration_s=len(frames) / 10, max_hold_s=2)
    return list(cut_still(ticks, max_frozen_s, min_motion))


def cuts(events):
    return [(e.start_s, e.end_s) for e in events if isinstance(e, Cut)]


def test_a_frozen_span_is_cut_out_and_the_rest_stays():
    frames = moving_square(60)
    frames[20:40] = frames[20]
    noise = np.random.default_rng(0).integers(0, 2, frames[20:40].shape)
    frames[20:40] = np.minimum(frames[20:40], 250) + noise.astype(np.uint8)
    events = run(frames)
    assert cuts(events) == [(pytest.approx(2.0), pytest.approx(4.0))]
    times_s = [e.time_s for e in events if isinstance(e, Tick)]
    assert times_s == pytest.approx([i / 10 for i in range(60) if not 20 <= i < 40])
    assert [e.time_s for e in events if isinstance(e, SegmentEnd)] == pytest.approx([2.0, 6.0])


def test_short_rests_slow_motion_and_fades_stay():
    rest = moving_square(40)
    rest[10:20] = rest[10]
    fade = np.repeat(np.arange(40, dtype=np.uint8), 64 * 64 * 3).reshape(40, 64, 64, 3)
    for frames in (rest, fade):
        events = run(frames)
        assert cuts(events) == [] and sum(isinstance(e, Tick) for e in events) == 40


@pytest.mark.parametrize("start", [0, 15, 25])
def test_spans_touch_and_cover_the_video_wherever_the_black_lies(start):
    frames = moving_square(40)
    frames[start : start + 15] = 0
    cfg = ClipConfig(fps=10, min_frames=5, max_frozen_s=1.0)
    decoded = [DecodedFrame(i / 10, lambda i=i: frames[i]) for i in range(40)]
    ticks = resample(decoded, fps=10, source_fps=10, duration_s=4.0, max_hold_s=2)
    spans = list(split_clips(ticks, 10, 4.0, cfg, lambda pixels: pixels))
    frozen = [s for s in spans if isinstance(s, Cut)]
    assert [(s.reason, s.start_s, s.end_s) for s in frozen] == [
        ("frozen", pytest.approx(start / 10), pytest.approx(start / 10 + 1.5))
    ]
    assert sum(len(s.frames) for s in spans if isinstance(s, ClipFrames)) == 25
    edges = [0.0]
    for span in spans:
        assert span.start_s == pytest.approx(edges[-1])
        edges.append(span.end_s)
    assert edges[-1] == pytest.approx(4.0)


def test_a_span_that_hardly_moves_is_cut_out_where_motion_is_asked_for():
    frames = moving_square(60).astype(float) / 2
    light = np.concatenate([np.zeros(20), 0.9 * np.arange(25), np.full(15, 22)])
    frames[20:45] = frames[20]
    frames = (frames + light[:, None, None, None]).astype(np.uint8)
    assert cuts(run(frames)) == []
    events = run(frames, min_motion=0.005)
    (cut,) = [e for e in events if isinstance(e, Cut)]
    assert cut.reason == "static"
    assert (cut.start_s, cut.end_s) == pytest.approx((1.9, 4.5))
    assert sum(isinstance(e, Tick) for e in events) == 34
    short = run(frames, max_frozen_s=3.0, min_motion=0.005)
    assert cuts(short) == [] and sum(isinstance(e, Tick) for e in short) == 60
