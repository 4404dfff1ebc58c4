import time

import numpy as np
import pytest

from data_pipelines.preprocess.clip.resize import ResizeConfig, crop_or_pad, scaled_size
from lafp.video import VIDEO_DECODERS
from lafp.video.decoders.arrays import array_frames, array_info


def info(width: int, height: int):
    return array_info(np.zeros((2, height, width, 3), np.uint8), 10)


@pytest.mark.parametrize("source", [(640, 480), (480, 640), (1920, 1080), (64, 64), (17, 333)])
@pytest.mark.parametrize("fit", ["crop", "pad"])
def test_every_size_ends_at_the_target_without_distortion(source, fit):
    cfg = ResizeConfig(width_px=64, height_px=48, fit=fit)
    width, height = scaled_size(info(*source), cfg)
    fitted = crop_or_pad(np.full((height, width, 3), 9, np.uint8), cfg)
    assert fitted.shape == (48, 64, 3)
    assert abs(width / source[0] - height / source[1]) <= 0.5 / min(source) + 1e-9
    if fit == "crop":
        assert width >= 64 and height >= 48 and (width == 64 or height == 48)
        assert (fitted == 9).all()
    else:
        assert width <= 64 and height <= 48 and (width == 64 or height == 48)
        assert (fitted == 9).any(axis=-1).sum() == width * height


def test_a_picture_of_the_right_size_stays_as_it_is():
    picture = np.random.default_rng(0).integers(0, 256, (48, 48, 3), np.uint8)
    for fit in ("crop", "pad"):
        cfg = ResizeConfig(width_px=48, height_px=48, fit=fit)
        assert scaled_size(info(48, 48), cfg) == (48, 48)
        np.testing.assert_array_equal(crop_or_pad(picture, cfg), picture)


def test_frames_in_arrays_scale_by_area():
    frames = np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3), np.uint8)
    (scaled,) = array_frames(frames, 10, 16, 16)
    means = frames[0].reshape(16, 4, 16, 4, 3).mean(axis=(1, 3))
    assert np.abs(scaled.pixels() - means).max() <= 1


def test_a_real_wide_video_is_cropped_in_the_middle(shared_videos):
    cls = VIDEO_DECODERS.get("pyav")
    decoder, path = cls(cls.Config()), str(shared_videos / "robot/peract__2_food_bin.mp4")
    deadline = time.monotonic() + 60
    probed = decoder.probe(path, 1 << 24, deadline)
    cfg = ResizeConfig(width_px=64, height_px=64)
    assert scaled_size(probed, cfg) == (116, 64)  # 1280 x 720 with pixels of 54:53
    whole = next(iter(decoder.frames(path, probed, 116, 64, deadline))).pixels()
    np.testing.assert_array_equal(crop_or_pad(whole, cfg), whole[:, 26:90])


@pytest.mark.parametrize("size", [(15, 64), (64, 0), (-64, 64), (8193, 64), (64, 99999999999)])
def test_a_size_that_no_clip_can_have_is_refused_with_the_config(size):
    with pytest.raises(ValueError, match=f"from 16 to 8192, got {size[0]}x{size[1]}"):
        ResizeConfig(width_px=size[0], height_px=size[1])
