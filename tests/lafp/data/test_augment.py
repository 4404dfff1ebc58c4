import math

import pytest
import torch
import torch.nn.functional as F

from lafp.data.augment import AugmentConfig, augment_window, draw_homographies, shift, warp
from lafp.types import Window

CPU = torch.device("cpu")


def smooth_images(num_images: int, height: int, width: int) -> torch.Tensor:
    noise = torch.randn(num_images, 3, height // 4, width // 4)
    return F.interpolate(noise, size=(height, width), mode="bicubic")


def matrix(rows: list[list[float]]) -> torch.Tensor:
    return torch.tensor([rows], dtype=torch.float32)


def test_the_identity_gives_the_image_back():
    images = smooth_images(2, 12, 20)
    torch.testing.assert_close(warp(images, torch.eye(3).repeat(2, 1, 1)), images)


def test_a_shift_moves_whole_pixels_and_repeats_the_border():
    images = smooth_images(1, 12, 20)
    shifted = warp(images, matrix([[1, 0, 3 * 2 / 12], [0, 1, 0], [0, 0, 1]]))
    torch.testing.assert_close(shifted[..., :17], images[..., 3:])
    torch.testing.assert_close(shifted[..., 17:], images[..., 19:].expand(-1, -1, -1, 3))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_moving_whole_pixels_is_the_warp_by_the_same_shift(layout):
    images = torch.rand(5, 3, 20, 30).contiguous(memory_format=layout)
    shift_N2 = torch.tensor([[0, 0], [4, 0], [0, -4], [-7, 3], [29, -19]])
    matrices = torch.eye(3).repeat(5, 1, 1)
    matrices[:, :2, 2] = shift_N2 * 2 / 20
    torch.testing.assert_close(shift(images, shift_N2), warp(images, matrices), atol=1e-4, rtol=0)
    assert torch.equal(shift(images, shift_N2)[0], images[0])


def test_shifts_alone_move_every_image_of_a_window_by_whole_pixels():
    pixels = torch.arange(20 * 30).view(1, 1, 20, 30).expand(64, 3, -1, -1).float()
    window = Window(obs=pixels, next_obs=pixels, future_obs=pixels, offset_steps=torch.ones(64))
    moved = augment_window(window, AugmentConfig(kinds=("none", "shift"), max_shift=0.2))
    for images in (moved.obs, moved.next_obs, moved.future_obs):
        assert torch.equal(images, images.round())
        x, y = images[:, 0, 10, 15] % 30 - 15, images[:, 0, 10, 15] // 30 - 10
        assert x.abs().max() == 6 and y.abs().max() == 4, "a fifth of each side"
        assert 16 <= int(((x == 0) & (y == 0)).sum()) <= 48, "about half of the images stay"
    assert not torch.equal(moved.obs, moved.next_obs)


def test_a_quarter_turn_is_rot90():
    images = smooth_images(1, 16, 16)
    turned = warp(images, matrix([[0, -1, 0], [1, 0, 0], [0, 0, 1]]))
    torch.testing.assert_close(turned, images.rot90(1, (2, 3)), atol=1e-5, rtol=0)


def test_a_rotation_keeps_circles_round_in_a_wide_image():
    y, x = torch.meshgrid(torch.arange(24) - 11.5, torch.arange(48) - 23.5, indexing="ij")
    disc = (8 - (x**2 + y**2).sqrt()).clamp(0, 1)[None, None]
    angle = math.radians(37)
    cos, sin = math.cos(angle), math.sin(angle)
    turned = warp(disc, matrix([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]]))
    assert (turned - disc).abs().mean() < 0.01


@pytest.mark.parametrize("kind", ["shift", "rotate", "perspective", "rotate-shift"])
def test_every_image_gets_a_draw_of_its_own(kind):
    torch.manual_seed(0)
    images = smooth_images(1, 16, 16).repeat(16, 1, 1, 1)
    cfg = AugmentConfig(kinds=(kind,))
    augmented = warp(images, draw_homographies(16, 16, 16, cfg, images.device))
    assert augmented.shape == images.shape
    assert len(augmented.flatten(1).unique(dim=0)) > 12


def test_shifts_reach_both_ends_of_their_range_and_no_further():
    torch.manual_seed(0)
    cfg = AugmentConfig(kinds=("shift",), max_shift=0.25)
    pixels = draw_homographies(4000, 16, 16, cfg, CPU)[:, :2, 2] * 16 / 2
    torch.testing.assert_close(pixels, pixels.round())
    for axis in range(2):
        values, counts = pixels[:, axis].unique(return_counts=True)
        assert values.tolist() == list(range(-4, 5))
        assert counts.min() > 0.7 * counts.max()


def test_a_perspective_moves_corners_inwards_by_at_most_its_scale():
    torch.manual_seed(0)
    cfg = AugmentConfig(kinds=("perspective",), perspective_scale=0.5)
    matrices = draw_homographies(500, 16, 16, cfg, CPU)
    corners = torch.tensor([[-1.0, -1], [1, -1], [1, 1], [-1, 1]])
    padded = torch.cat([1.9375 * corners, torch.ones(4, 1)], 1)
    moved = padded @ matrices.inverse().transpose(1, 2)
    share = moved[..., :2] / moved[..., 2:] / padded[:, :2]
    assert share.min() > 0.499 and share.max() < 1.001
    assert abs(share.mean() - 0.75) < 0.01


def test_the_second_operation_of_a_pair_is_done_last():
    torch.manual_seed(0)
    cfg = AugmentConfig(kinds=("shift-rotate",), max_rotation_deg=90.0)
    shift_then_turn = draw_homographies(64, 16, 16, cfg, CPU)
    # A turn done last turns the shift with it: the map's translation is an unturned whole pixel.
    pixels = shift_then_turn[:, :2, 2] * 8
    torch.testing.assert_close(pixels, pixels.round(), atol=1e-4, rtol=0)


def window_of(images: torch.Tensor) -> Window:
    ones = torch.ones(len(images), dtype=torch.int64)
    return Window(obs=images, next_obs=images, future_obs=images, offset_steps=ones)


def test_the_observations_of_a_window_are_augmented_independently():
    torch.manual_seed(0)
    window = augment_window(window_of(smooth_images(32, 16, 16)), AugmentConfig())
    same = (window.obs == window.next_obs).flatten(1).all(1)
    assert same.float().mean() < 0.1
    assert not torch.equal(window.next_obs, window.future_obs)


def test_the_frames_of_a_stack_share_their_draw():
    torch.manual_seed(0)
    frame = smooth_images(8, 16, 16)
    augmented = augment_window(window_of(torch.cat([frame, frame], 1)), AugmentConfig())
    torch.testing.assert_close(augmented.obs[:, :3], augmented.obs[:, 3:])


def test_no_kinds_mean_no_augmentation():
    window = window_of(torch.randn(2, 3, 8, 8))
    assert augment_window(window, AugmentConfig(kinds=())) is window
