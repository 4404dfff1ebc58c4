import itertools
from functools import partial

import numpy as np
import pytest

from data_pipelines.preprocess.clip.resample import Cut, resample
from data_pipelines.preprocess.clip.resize import ResizeConfig, crop_or_pad
from data_pipelines.preprocess.clip.split_clips import ClipConfig, ClipFrames, split_clips
from lafp.video.decoders.base import DamagedSpan, DecodedFrame

FIT = partial(crop_or_pad, cfg=ResizeConfig(width_px=16, height_px=16))


def frames(start_s: float, num_frames: int) -> list[DecodedFrame]:
    return [
        DecodedFrame(start_s + i / 10, lambda i=i: np.full((16, 16, 3), i % 256, np.uint8))
        for i in range(num_frames)
    ]


def split(events, duration_s, **cfg):
    config = ClipConfig(**{"fps": 10.0, "max_s": 2.0, "min_frames": 5} | cfg)
    ticks = resample(
        events, fps=10, source_fps=10, duration_s=duration_s, max_hold_s=config.max_hold_s
    )
    return list(split_clips(ticks, 10, duration_s, config, FIT))


def spans(result) -> list[tuple[str, float, float]]:
    return [
        ("clip" if isinstance(s, ClipFrames) else s.reason, round(s.start_s, 6), round(s.end_s, 6))
        for s in result
    ]


def test_a_short_video_is_one_clip_of_all_its_frames():
    (clip,) = split(frames(0, 17), 1.7)
    assert (clip.start_s, clip.end_s) == (0, pytest.approx(1.7))
    assert clip.frames.shape == (17, 16, 16, 3)
    np.testing.assert_array_equal(clip.frames[:, 0, 0, 0], np.arange(17))


def test_a_long_video_is_cut_into_equal_pieces_without_a_lost_tail():
    result = split(frames(0, 43), 4.3)
    assert spans(result) == [("clip", 0, 1.5), ("clip", 1.5, 3.0), ("clip", 3.0, 4.3)]
    assert [len(clip.frames) for clip in result] == [15, 15, 13]


def test_no_clip_goes_across_damage_and_short_rests_are_rejected():
    events = [*frames(0, 10), DamagedSpan(1.0, 1.3, "x"), *frames(1.3, 3)]
    assert spans(split(events, 1.6)) == [
        ("clip", 0, 1.0),
        ("damaged", 1.0, 1.3),
        ("too_short", 1.3, 1.6),
    ]


def test_spans_of_a_long_damaged_video_touch():
    events = [*frames(0, 70), DamagedSpan(7.0, 7.7, "x"), *frames(7.7, 103)]
    result = split(events, 18.0)
    assert sum(isinstance(s, Cut) for s in result) >= 1
    edges = [(s.start_s, s.end_s) for s in result]
    assert edges[0][0] == 0 and edges[-1][1] == pytest.approx(18.0)
    for (_, end_s), (start_s, _) in itertools.pairwise(edges):
        assert start_s == pytest.approx(end_s)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"fps": 0.0}, "fps must be positive"),
        ({"min_frames": 1}, "at least 2"),
        ({"fps": 2.0, "max_s": 1.0}, "every clip would be rejected"),
    ],
)
def test_config_out_of_range_is_refused(bad, message):
    with pytest.raises(ValueError, match=message):
        ClipConfig(**bad)
