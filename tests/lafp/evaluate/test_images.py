import io

import numpy as np
import pytest
from PIL import Image

from lafp.evaluate import images
from lafp.report.sections.rollouts import gif

RNG = np.random.default_rng(0)
FRAME = RNG.integers(0, 256, (12, 20, 3), np.uint8)


@pytest.mark.parametrize(("size_px", "shape"), [(40, (24, 40, 3)), (10, (6, 10, 3))])
def test_thumbnails_keep_the_proportions(size_px, shape):
    assert images.thumbnail(FRAME, size_px).shape == shape


def test_enlarged_pixels_stay_square_blocks():
    np.testing.assert_array_equal(
        images.thumbnail(FRAME, 40), FRAME.repeat(2, axis=0).repeat(2, axis=1)
    )


def test_change_is_signed_brightness_between_minus_one_and_one():
    black, white = np.zeros((4, 4, 3), np.uint8), np.full((4, 4, 3), 255, np.uint8)
    np.testing.assert_allclose(images.change(black, white), 1, atol=1e-6)
    np.testing.assert_allclose(images.change(white, black), -1, atol=1e-6)
    np.testing.assert_array_equal(images.change(FRAME, FRAME), 0)


def test_no_change_is_painted_grey_and_signs_get_different_colours():
    grey = images.paint_change(np.zeros((2, 2)), scale=1.0)
    assert np.ptp(grey.astype(int), axis=-1).max() < 8
    brighter = images.paint_change(np.ones((1, 1)), 1.0)[0, 0].astype(int)
    darker = images.paint_change(-np.ones((1, 1)), 1.0)[0, 0].astype(int)
    assert brighter[2] > brighter[0]
    assert darker[0] > darker[2]


def test_overlays_leave_what_did_not_change_grey():
    for painted in (
        images.overlay_change(FRAME, np.zeros(FRAME.shape[:2]), 1.0),
        images.overlay_heat(FRAME, np.zeros(FRAME.shape[:2])),
    ):
        assert np.ptp(painted.astype(int), axis=-1).max() <= 1


def test_a_grid_holds_its_tiles_in_order_with_wider_gaps_between_groups():
    tiles = [np.full((4, 5, 3), value, np.uint8) for value in range(6)]
    sheet = images.grid([tiles[:3], tiles[3:]], group=2)
    left = np.flatnonzero((sheet[0] != 255).any(axis=-1))
    assert sheet.shape == (8 + images.GAP_PX, 15 + 6 * images.GAP_PX, 3)
    assert len(left) == 15
    assert (sheet[0, left[0]] == 0).all() and (sheet[-1, left[-1]] == 5).all()


def test_png_gives_the_pixels_back():
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(images.png(FRAME)))), FRAME)


def test_a_gif_holds_every_frame_and_stays_on_the_last():
    frames = np.stack([np.full((8, 8, 3), value, np.uint8) for value in (0, 120, 255)])
    film = Image.open(io.BytesIO(gif(frames, fps=10)))
    assert film.n_frames == 3
    shown = []
    for index in range(3):
        film.seek(index)
        shown.append((np.asarray(film.convert("RGB"))[0, 0, 0], film.info["duration"]))
    assert shown == [(0, 100), (120, 100), (255, 1000)]
