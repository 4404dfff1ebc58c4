"""Rows that cannot be used cost their frames, and nothing else moves."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipelines.preprocess.clip.labels.read import align, episode_labels
from data_pipelines.preprocess.clip.resample import Cut, resample
from data_pipelines.preprocess.clip.split_clips import ClipConfig, ClipFrames, split_clips
from data_pipelines.preprocess.sources.opened import Opened, without
from lafp.video.decoders.arrays import pictures_info
from lafp.video.decoders.base import DamagedSpan, DecodedFrame


def spans_of(labels, info, damaged, fps, max_s=2.0):
    """Clips and cuts of a video whose frame t is a picture of the number t."""
    events = [
        DamagedSpan(time_s, end_s, "broken")
        if t in damaged
        else DecodedFrame(time_s, lambda t=t: np.full((1, 1, 3), t, np.uint8))
        for t, (time_s, end_s) in enumerate(
            zip(info.times_s.tolist(), [*info.times_s[1:].tolist(), info.duration_s], strict=True)
        )
    ]
    video = Opened(
        uri="x", video_id="x", num_bytes=1, info=info, frames=lambda *_: iter(events), labels=None
    )
    video = without(video, labels.flawed_spans(info))
    rate = {"fps": fps, "source_fps": info.fps, "max_hold_s": 2.0, "duration_s": info.duration_s}
    cfg = ClipConfig(fps=None, max_s=max_s, min_frames=2)
    ticks = resample(video.frames(1, 1), **rate)
    return list(split_clips(ticks, fps, info.duration_s, cfg, lambda pixels: pixels))


@settings(max_examples=100, deadline=None)
@given(
    num_frames=st.integers(4, 60),
    bad=st.sets(st.integers(0, 59), max_size=6),
    damaged=st.sets(st.integers(0, 59), max_size=4),
    clip_fps=st.sampled_from([10.0, 5.0, 7.3, 23.0]),
    jitter=st.sampled_from([0.0, 0.03]),
    has_state=st.booleans(),
)
def test_clips_hold_sound_rows_of_the_frames_that_they_show(
    num_frames, bad, damaged, clip_fps, jitter, has_state
):
    info = pictures_info(num_frames, 64, 64, 10.0, codec="h264")
    rng = np.random.default_rng(num_frames)
    times_s = info.times_s + np.append(0.0, rng.uniform(-jitter, jitter, num_frames - 1))
    info = replace(info, times_s=times_s)
    action = np.stack([np.arange(num_frames), np.zeros(num_frames)], axis=1)
    state = action.copy() if has_state else None
    for row in bad & set(range(num_frames)):
        (action if state is None or row % 2 else state)[row, 1] = np.nan
    labels = align(episode_labels(action, state, None), info)
    covered_s = 0.0
    for span in spans_of(labels, info, damaged, clip_fps):
        assert abs(span.start_s - covered_s) < 1e-6
        covered_s = span.end_s
        if isinstance(span, ClipFrames):
            rows = labels.of_clip(span.start_s, clip_fps, span.shown_s)
            assert np.isfinite(rows.true_action).all()
            assert rows.state is None or np.isfinite(rows.state).all()
            np.testing.assert_array_equal(rows.true_action[:, 0], span.frames[:, 0, 0, 0])
        else:
            assert span.reason in ("damaged", "bad_labels", "too_short")
    assert abs(covered_s - info.duration_s) < 1e-6


def test_the_cut_names_the_rows():
    info = pictures_info(20, 64, 64, 10.0, codec="h264")
    action = np.zeros((20, 2))
    action[[7, 8, 9], 1] = np.inf
    labels = replace(align(episode_labels(action, None, None), info), name="episode 5")
    cuts = [span for span in spans_of(labels, info, set(), 10.0) if isinstance(span, Cut)]
    (cut,) = cuts
    assert (cut.reason, round(cut.start_s, 3), round(cut.end_s, 3)) == ("bad_labels", 0.7, 1.0)
    assert cut.detail == "episode 5, row 7: action[1] is inf (and 2 rows more up to row 9)"


def test_a_bad_row_of_another_rate_costs_the_frames_in_which_it_is_in_force():
    info = pictures_info(20, 64, 64, 10.0, codec="h264")
    action = np.zeros((100, 1))
    action[52] = np.nan  # from 1.04 s on, which frame 10 shows
    labels = align(episode_labels(action, None, np.arange(100) / 50), info)
    cuts = [span for span in spans_of(labels, info, set(), 10.0) if isinstance(span, Cut)]
    assert [(round(cut.start_s, 3), round(cut.end_s, 3)) for cut in cuts] == [(1.0, 1.1)]


@pytest.mark.parametrize(
    ("action", "said"),
    [
        (np.array([[0, 0], [0, 1e300], [0, 0]]), "action[1] is 1e+300, beyond float32"),
        (np.array([[0, 0], [0, np.nan], [0, 0]], np.float16), "action[1] is nan"),
        (np.array([0, 2**63, 0], np.uint64), "action is 9223372036854775808, discrete"),
    ],
)
@pytest.mark.filterwarnings("error")
def test_a_number_that_cannot_be_stored_is_shown_as_it_stands_in_the_file(action, said):
    (flaw,) = episode_labels(action, None, None).flaws
    assert flaw.row == 1
    assert flaw.detail.startswith(said)
