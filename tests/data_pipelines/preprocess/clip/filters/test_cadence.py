"""Videos that show each picture for several frames give clips of true motion, evenly spaced."""

from contextlib import closing
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipelines.preprocess.clip.choose_fps import sample_frames
from data_pipelines.preprocess.clip.filters.cadence import drop_repeats, find_hold
from data_pipelines.preprocess.clip.measure.motion import shrink
from data_pipelines.preprocess.clip.pace import pace_of
from data_pipelines.preprocess.clip.resize import ResizeConfig
from data_pipelines.preprocess.clip.split_clips import ClipConfig
from data_pipelines.preprocess.clip.video_to_clips import video_to_clips
from data_pipelines.preprocess.config import PreprocessConfig
from data_pipelines.preprocess.rows import EncodedClip, VideoItem, VideoRow
from data_pipelines.preprocess.sources.open_item import open_item
from lafp.video import decode_clip
from lafp.video.decoders.base import DamagedSpan, DecodedFrame
from lafp.video.decoders.pyav import PyAVConfig, PyAVDecoder
from tests.synthetic_video import moving_square, write_video

# Frames of the file per picture: pictures of a group, each for so many frames.
PULLDOWN = (1, 1, 1, 2)  # 24 pictures in 30 frames
PULLDOWN_60 = (3, 2)
ON_TWOS = (2,)
ON_THREES = (3,)
HELD_4 = (4,)
PAL_IN_30 = (1, 1, 1, 1, 2)  # 25 pictures in 30 frames
# Looked at frame by frame: 25 or 24 pictures per second in 30 frames, 24 in 28, 12 in 25.
REAL_RHYTHMS = {
    "internet/Ask-Anything__example_yoga.mp4": Fraction(6, 5),
    "internet/Ask-Anything__making_cake.mp4": Fraction(5, 4),
    "internet/Video-LLaVA__sample_demo_22.mp4": Fraction(5, 4),
    "internet/decord__flipping_a_pancake.mkv": Fraction(5, 4),
    "internet/mmaction2__demo_demo.mp4": Fraction(7, 6),
    "internet/mmaction2__data_test.avi": Fraction(2),
}


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


def moved_by(steps: np.ndarray) -> np.ndarray:
    """Frames that differ from the one before by so much, in levels of 255."""
    levels = np.cumsum(np.append(0.0, steps)) / 255
    return np.repeat(levels[:, None, None, None], 3, axis=3).astype(np.float32)


def with_holds(holds: np.ndarray, num_frames: int, rng: np.random.Generator) -> np.ndarray:
    """Frames whose pictures are held for so long each; motion and coding noise vary."""
    begins = np.cumsum(holds)
    steps = rng.uniform(0.0, 0.2, num_frames)
    steps[begins[begins < num_frames]] = rng.uniform(2, 9, (begins < num_frames).sum())
    return moved_by(steps)


@settings(max_examples=60, deadline=None)
@given(
    kind=st.sampled_from(["single twos", "pauses", "any of 1 to n", "waiting times", "by turns"]),
    share=st.floats(0.02, 0.6),
    num_frames=st.sampled_from([100, 150, 300, 600]),
    seed=st.integers(0, 10_000),
)
def test_irregular_holds_are_no_rhythm(kind, share, num_frames, seed):
    rng = np.random.default_rng(seed)
    is_held = rng.random(num_frames) < share
    if kind == "by turns":  # a stretch on ones, a stretch on twos, as cameras do in the dark
        lengths = rng.integers(10, 30, 60)
        holds = np.concatenate([np.full(n, 1 + i % 2) for i, n in enumerate(lengths)])
    else:
        holds = {
            "single twos": 1 + is_held,
            "pauses": np.where(is_held, rng.integers(2, 9, num_frames), 1),
            "any of 1 to n": rng.integers(1, 4 + int(10 * share), num_frames),
            "waiting times": rng.geometric(1 - share, num_frames),
        }[kind]
    assert find_hold(with_holds(holds, num_frames, rng)) == 1


@settings(max_examples=60, deadline=None)
@given(
    hold=st.sampled_from(["7/6", "6/5", "5/4", "4/3", "3/2", "2", "5/2", "3", "4"]).map(Fraction),
    clock_error=st.floats(-0.005, 0.005),
    phase=st.floats(0, 1),
    seed=st.integers(0, 10_000),
)
def test_a_rhythm_is_found_though_clocks_drift_and_motion_pauses(hold, clock_error, phase, seed):
    rng = np.random.default_rng(seed)
    shown = np.floor(np.arange(301) / (float(hold) * (1 + clock_error)) + phase)
    steps = np.where(np.diff(shown) > 0, rng.uniform(2, 9, 300), rng.uniform(0, 0.2, 300))
    pause = rng.integers(0, 280)
    steps[pause : pause + 12] = 0.0
    assert abs(find_hold(moved_by(steps)) - hold) <= 0.04 * hold


@pytest.mark.parametrize("every", [4, pytest.param(1, marks=pytest.mark.slow)])
def test_no_real_video_is_taken_for_a_rhythm_that_it_does_not_have(shared_videos, every):
    """Those with a rhythm and every fourth without, or all: most of the time is decoding."""
    cfg, decoder = PreprocessConfig(clip=ClipConfig(undo_repeats=True)), PyAVDecoder(PyAVConfig())
    found, suffixes = {}, (".mp4", ".mkv", ".avi", ".webm", ".gif")
    paths = sorted(
        path
        for kind in ("internet", "robot", "labeled")
        for path in shared_videos.glob(f"{kind}/**/*")
        if path.suffix in suffixes
    )
    for path in sorted({*paths[::every], *(shared_videos / name for name in REAL_RHYTHMS)}):
        item = VideoItem(uri=str(path), num_bytes=path.stat().st_size, split=None)
        with closing(open_item(item, cfg, decoder)) as videos:
            for video in videos:
                if (hold := pace_of(video, cfg.clip).hold) != 1:
                    found[str(path.relative_to(shared_videos))] = hold
    assert found == REAL_RHYTHMS


@pytest.mark.parametrize("seed", range(20))
def test_time_stamps_in_milliseconds_make_no_repeats(seed):
    rng = np.random.default_rng(seed)
    fps, start_s = rng.choice([24, 30, 50, 60]), rng.uniform(1, 2)
    events = [
        DecodedFrame(round(i / fps, 3), lambda i=i: np.full((1, 1, 3), i % 251, np.uint8))
        for i in range(12 * fps)
    ]
    numbers = np.round(255 * sample_frames(events, start_s, fps)[:, 0, 0, 0]).astype(int)
    assert len(numbers) == 10 * fps
    assert (np.diff(numbers) % 251 == 1).all(), "each frame once"
    assert abs(numbers[0] - start_s * fps) <= 1


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


@pytest.mark.parametrize(
    ("holds", "fps"),
    [
        (PULLDOWN, 29.97),
        (ON_TWOS, 24.0),
        (ON_TWOS, 25.0),
        (ON_THREES, 30.0),
        (PAL_IN_30, 30.0),
        (HELD_4, 60.0),
    ],
)
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
    monkeypatch.setattr("data_pipelines.preprocess.clip.filters.cadence.hold_of_sample", None)
    rows = list(video_to_clips(item, cfg, PyAVDecoder(PyAVConfig())))
    assert any(isinstance(row, EncodedClip) for row in rows)
