"""Frames that are let go early change nothing but the time it takes."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from data_pipelines.preprocess.clip import resample
from data_pipelines.preprocess.clip.split_clips import ClipConfig
from data_pipelines.preprocess.clip.video_to_clips import video_to_clips
from data_pipelines.preprocess.config import PreprocessConfig
from data_pipelines.preprocess.rows import EncodedClip, Row, VideoItem
from lafp.video.decoders.base import DamagedSpan, IsWanted
from lafp.video.decoders.pyav import PyAVConfig, PyAVDecoder
from tests.synthetic_video import moving_square, numbered, write_video

NUM_FRAMES = 150


class KeepsAll(PyAVDecoder):
    """Gives no frame up early."""

    def frames(self, *args: object) -> Iterator[object]:
        return super().frames(*args[:6], None, *args[7:])


class CountsWhole(PyAVDecoder):
    """Counts the frames that it still holds as they were decoded when they are yielded."""

    num_whole = 0

    def _sound_frames(self, *args: object) -> Iterator[object]:
        for event in super()._sound_frames(*args):
            self.num_whole += not isinstance(event, DamagedSpan) and event.frame is not None
            yield event


def rows(path: Path, decoder: PyAVDecoder, fps: float, piece_s: float = 1200.0) -> list[Row]:
    cfg = PreprocessConfig(
        clip=ClipConfig(fps=fps, max_s=2.0, min_frames=4, max_hold_s=0.5), piece_s=piece_s
    )
    item = VideoItem(uri=str(path), num_bytes=path.stat().st_size, split=None)
    return list(video_to_clips(item, cfg, decoder))


def damaged(path: Path, num_bytes: int, seed: int) -> Path:
    data = np.frombuffer(path.read_bytes(), np.uint8).copy()
    rng = np.random.default_rng(seed)
    places = rng.integers(len(data) // 10, len(data) * 9 // 10, num_bytes)
    data[places] = rng.integers(0, 256, num_bytes)
    copy = path.with_stem(f"{path.stem}-{seed}")
    copy.write_bytes(data.tobytes())
    return copy


def jittery(num: int) -> np.ndarray:
    """Seconds: variable rate, with a gap longer than ``max_hold_s``."""
    steps_s = np.random.default_rng(0).uniform(0.01, 0.09, num)
    steps_s[num // 2] = 0.9
    return np.cumsum(steps_s) - steps_s[0]


VIDEOS: dict[str, Callable[[Path], Path]] = {
    "thirty": lambda p: write_video(p, moving_square(NUM_FRAMES), 30.0),
    "slow": lambda p: write_video(p, moving_square(NUM_FRAMES), 7.0),
    "variable": lambda p: write_video(
        p, moving_square(NUM_FRAMES), times_s=jittery(NUM_FRAMES).tolist()
    ),
    "mpeg4": lambda p: write_video(
        p, moving_square(NUM_FRAMES), 25.0, codec="mpeg4", options={"g": "12"}
    ),
}


def two_recordings(path: Path) -> Path:
    """Where the second one begins, ticks begin anew."""
    parts = [write_video(path.with_stem(f"{i}"), moving_square(77, seed=i), 30.0) for i in (0, 1)]
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    return path


@pytest.mark.parametrize("fps", [10.0, 12.5])
def test_two_recordings_are_the_same_whether_frames_are_let_go_or_kept(tmp_path, fps):
    path = two_recordings(tmp_path / "v.ts")
    made = rows(path, PyAVDecoder(PyAVConfig()), fps)
    assert made == rows(path, KeepsAll(PyAVConfig()), fps)
    assert made == rows(path, PyAVDecoder(PyAVConfig()), fps, piece_s=2.0)
    ends_s = [row.record.end_s for row in made if isinstance(row, EncodedClip)]
    assert pytest.approx(77 / 30) in ends_s


@pytest.fixture(scope="module", params=VIDEOS)
def video(request, tmp_path_factory) -> Path:
    return VIDEOS[request.param](tmp_path_factory.mktemp("videos") / f"{request.param}.mp4")


@pytest.mark.parametrize("fps", [10.0, 12.5])
def test_clips_are_the_same_whether_frames_are_let_go_or_kept(video, fps):
    made = rows(video, PyAVDecoder(PyAVConfig()), fps)
    assert made == rows(video, KeepsAll(PyAVConfig()), fps)
    assert any(isinstance(row, EncodedClip) for row in made)


def test_pieces_are_the_same_whether_frames_are_let_go_or_kept(video):
    made = rows(video, PyAVDecoder(PyAVConfig()), 10.0, piece_s=2.0)
    assert made == rows(video, KeepsAll(PyAVConfig()), 10.0, piece_s=2.0)


@pytest.mark.parametrize("seed", range(4))
def test_damage_cuts_out_the_same_whether_frames_are_let_go_or_kept(video, seed):
    copy = damaged(video, 3, seed)
    made = rows(copy, PyAVDecoder(PyAVConfig()), 10.0)
    assert made == rows(copy, KeepsAll(PyAVConfig()), 10.0)
    assert all("was released" not in getattr(row, "detail", "") for row in made)


def test_two_of_three_frames_are_never_scaled_and_none_waits_as_it_was_decoded(tmp_path):
    path = write_video(tmp_path / "v.mp4", numbered(NUM_FRAMES), 30.0)
    decoder = CountsWhole(PyAVConfig())
    made = rows(path, decoder, 10.0)
    assert sum(row.record.num_frames for row in made if isinstance(row, EncodedClip)) == 50
    # The frame before each key frame is decided on just after it is yielded; the last one never.
    assert decoder.num_whole <= NUM_FRAMES / 6


def test_a_frame_that_was_let_go_is_an_error_where_it_is_wanted(tmp_path):
    path = write_video(tmp_path / "v.mp4", numbered(30), 30.0)
    decoder, deadline = PyAVDecoder(PyAVConfig()), time.monotonic() + 60
    info = decoder.probe(str(path), 2**24, deadline)
    nothing: IsWanted = lambda _: False  # noqa: E731
    events = list(decoder.frames(str(path), info, 32, 32, deadline, 0.0, nothing))
    with pytest.raises(RuntimeError, match="was released"):
        events[3].pixels()
    assert events[-1].pixels().shape == (32, 32, 3)


def test_the_frame_plan_is_what_resample_asks_for():
    times_s = jittery(400)
    rate = {"fps": 10.0, "source_fps": 20.0, "max_hold_s": 0.5}
    asked: list[int] = []

    def frame(index: int) -> resample.DecodedFrame:
        return resample.DecodedFrame(float(times_s[index]), lambda: asked.append(index))

    for start_s in (0.0, 3.3):
        asked.clear()
        events = resample.resample(
            map(frame, range(len(times_s))), **rate, duration_s=30.0, start_s=start_s
        )
        for event in events:
            if isinstance(event, resample.Tick):
                _ = event.source.pixels
        frame_plan = resample.FramePlan(**rate, start_s=start_s)
        wanted = [i for i, time_s in enumerate(times_s) if frame_plan(float(time_s))]
        assert [i - 1 for i in wanted] == sorted(set(asked) - {len(times_s) - 1})
