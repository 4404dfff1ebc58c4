import numpy as np
import pytest

from data_pipelines.preprocess.clip.measure.motion import (
    FiltersConfig,
    median_motion,
    pair_motion,
    shrink,
    violation,
)


def test_shrinking_averages_blocks():
    frames = np.random.default_rng(0).integers(0, 256, (3, 64, 96, 3), np.uint8)
    small = shrink(frames)
    assert small.shape == (3, 32, 48, 3)
    np.testing.assert_allclose(small[1, 4, 7], frames[1, 8:10, 14:16].mean(axis=(0, 1)) / 255)


def test_motion_of_a_fade_is_its_step():
    frames = np.repeat(np.arange(0, 100, 10, dtype=np.uint8), 32 * 32 * 3).reshape(10, 32, 32, 3)
    np.testing.assert_allclose(pair_motion(shrink(frames)), 10 / 255, rtol=1e-5)
    assert median_motion(shrink(frames), 10, 10) == pytest.approx(10 / 255)
    assert median_motion(shrink(frames[:1]), 10, 10) == 0


def test_repeated_frames_of_a_slower_source_are_no_standstill():
    frames = np.repeat(np.arange(0, 100, 10, dtype=np.uint8), 32 * 32 * 3).reshape(10, 32, 32, 3)
    tripled = np.repeat(frames, 3, axis=0)
    assert median_motion(shrink(tripled), 30, 10) == pytest.approx(10 / 255)
    assert median_motion(shrink(tripled), 30, 30) == 0


def test_static_and_dark_clips_are_rejected_where_the_source_asks_for_it():
    rng = np.random.default_rng(0)
    grey = np.full((10, 32, 32, 3), 0.5, np.float32)
    black = np.zeros((10, 32, 32, 3), np.float32)
    moving = rng.uniform(0, 1, (10, 32, 32, 3)).astype(np.float32)
    cfg = FiltersConfig(min_motion=0.001, min_brightness=0.03)
    assert violation(grey, median_motion(grey, 10, 10), cfg)[0] == "static"
    assert violation(black, median_motion(black, 10, 10), cfg)[0] == "dark"
    assert violation(moving, median_motion(moving, 10, 10), cfg) is None
    assert violation(black, 0.0, FiltersConfig()) is None
