"""Videos that show each picture for several frames give clips of true motion, evenly spaced."""

from fractions import Fraction

import numpy as np
import pytest

from data_pipelines.config import PreprocessConfig
from data_pipelines.rows import EncodedClip, VideoItem, VideoRow
from data_pipelines.stages.cadence import drop_repeats, find_hold
from data_pipelines.stages.motion import shrink
from data_pipelines.stages.resize import ResizeConfig
from data_pipelines.stages.split_clips import ClipConfig
from data_pipelines.video_to_clips import video_to_clips
from lafp.video import decode_clip
from lafp.video.decoder import DamagedSpan, DecodedFrame
from lafp.video.pyav_decoder import PyAVConfig, PyAVDecoder
from tests.synthetic_video import moving_square, write_video

# Frames of the file per picture: pictures of a group, each for so many frames.
PULLDOWN = (1, 1, 1, 2)  # 24 pictures in 30 frames
PULLDOWN_60 = (3, 2)
ON_TWOS = (2,)
HELD_4 = (4,)


def held(num_frames: int, holds: tuple[int, ...]) -> np.ndarray:
    """Which picture each frame shows."""
    which = np.repeat(np.arange(num_frames), np.resize(holds, num_frames))
    return which[:num_frames]


@pytest.mark.parametrize(
    ("holds", "expected"),
    [
        ((1,), Fraction(1)),
        (ON_TWOS, Fraction(2)),
        (PULLDOWN, Fraction(5, 4)),
        (PULLDOWN_60, Fraction(5, 2)),
        (HELD_4, Fraction(4)),
    ],
)
def test_the_hold_is_found_through_coding_noise(holds, expected):
    rng = np.random.default_rng(0)
    small = shrink(moving_square(200))[held(200, holds)]
    small = small + rng.normal(0, 0.0004, small.shape).astype(np.float32)
    assert find_hold(small) == expected


def test_a_screen_on_which_something_happens_now_and_then_has_no_cadence():
    rng = np.random.default_rng(0)
    which = np.repeat(np.arange(60), rng.integers(1, 12, 60))
    assert find_hold(shrink(moving_square(60))[which]) == 1


def test_a_still_video_has_no_cadence():
    assert find_hold(np.repeat(shrink(moving_square(1)), 100, axis=0)) == 1


@pytest.mark.parametrize("holds", [PULLDOWN, PULLDOWN_60, ON_TWOS, HELD_4])
def test_each_picture_comes_once_and_evenly(holds):
    hold, pictures = Fraction(sum(holds), len(holds)), moving_square(200)
    which = held(120, holds)
    events = [DecodedFrame(i / 30, lambda i=i: pictures[which[i]]) for i in range(120)]
    frames = list(drop_repeats(events, hold, 30.0))
    shown = [next(j for j in which if (f.pixels() == pictures[j]).all()) for f in frames]
    assert shown == list(range(which[-1] + 1))
    steps = np.diff([f.time_s for f in frames])[len(holds) :]
    np.testing.assert_allclose(steps, float(hold) / 30, rtol=1e-6)
    for frame, picture in zip(frames, shown, strict=True):
        assert abs(frame.time_s - np.argmax(which == picture) / 30) < 1 / 30, "as it is shown"


def test_a_pause_in_the_motion_goes_on_and_damage_stays_where_it_is():
    pictures, which = moving_square(40), [*held(30, ON_TWOS), *[14] * 30, *(15 + held(30, ON_TWOS))]
    events = [DecodedFrame(i / 30, lambda i=i: pictures[which[i]]) for i in range(90)]
    events.insert(45, DamagedSpan(44.5 / 30, 45 / 30, "test"))
    out = list(drop_repeats(events, Fraction(2), 30.0))
    times_s = [e.time_s if isinstance(e, DecodedFrame) else e.start_s for e in out]
    assert times_s == sorted(times_s)
    assert sum(isinstance(e, DamagedSpan) for e in out) == 1
    assert max(np.diff(times_s)) <= 2.01 / 30, "no gap where nothing moves"


@pytest.mark.parametrize(("holds", "fps"), [(PULLDOWN, 29.97), (ON_TWOS, 24.0), (HELD_4, 60.0)])
def test_clips_of_such_files_have_the_rate_of_their_pictures(tmp_path, holds, fps):
    frames = moving_square(400, height=96, width=128)[held(400, holds)]
    path = write_video(tmp_path / "v.mp4", frames, fps=fps, options={"crf": "20", "g": "60"})
    item = VideoItem(uri=str(path), num_bytes=path.stat().st_size, split=None)
    cfg = PreprocessConfig(
        clip=ClipConfig(fps=None, max_s=4.0, undo_repeats=True),
        resize=ResizeConfig(width_px=64, height_px=48),
    )
    rows = list(video_to_clips(item, cfg, PyAVDecoder(PyAVConfig())))
    assert isinstance(rows[0], VideoRow)
    clips = [row for row in rows if isinstance(row, EncodedClip)]
    hold = sum(holds) / len(holds)
    for clip in clips:
        assert clip.record.fps == pytest.approx(fps / hold, rel=1e-3)
        assert clip.record.frames_per_picture == hold
        moved = np.abs(np.diff(decode_clip(clip.video).astype(int), axis=0)).mean(axis=(1, 2, 3))
        assert moved.min() > 0.3 * np.median(moved), "no pair stands still"
    assert len(clips) >= 1


def test_a_file_without_repeats_is_not_decoded_to_look_for_them(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 60, (48, 96, 128, 3), dtype=np.uint8)
    path = write_video(tmp_path / "v.mp4", moving_square(48, height=96, width=128) // 2 + noise)
    item = VideoItem(uri=str(path), num_bytes=path.stat().st_size, split=None)
    cfg = PreprocessConfig(clip=ClipConfig(undo_repeats=True))
    monkeypatch.setattr("data_pipelines.stages.cadence.hold_of_sample", None)
    rows = list(video_to_clips(item, cfg, PyAVDecoder(PyAVConfig())))
    assert any(isinstance(row, EncodedClip) for row in rows)
