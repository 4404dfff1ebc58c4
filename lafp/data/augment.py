"""Augments images by random shifts, rotations and perspectives: one homography per image.

This is LAOM's augmentation (arXiv:2502.00379), in which every image gets one of eight kinds at
random. Our deviations: we draw every parameter per image (LAOM's code draws rotations and
perspectives once per batch and kind), and repeat the border without limit, where LAOM pads by a
fixed width and then with black.
"""

# Shape suffixes in this file: B windows, N images, C channels, H height, W width, K kinds.

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from lafp.device_constants import device_constant
from lafp.types import Window

AugmentKind = Literal[
    "none",
    "shift",
    "rotate",
    "perspective",
    "shift-rotate",
    "rotate-shift",
    "rotate-perspective",
    "perspective-rotate",
]
ALL_KINDS: tuple[str, ...] = get_args(AugmentKind)
_OPERATIONS = ("none", "shift", "rotate", "perspective")


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """Says which distortions an image gets. The defaults are LAOM's."""

    kinds: tuple[AugmentKind, ...] = ALL_KINDS  # type: ignore[assignment]
    """Every image gets one of these; ``a-b`` applies a, then b. An empty list turns augmentation
    off."""
    max_shift: float = 14 / 64
    """Largest shift along each axis, as a share of the image's size."""
    max_rotation_deg: float = 90.0
    perspective_scale: float = 0.5
    """Largest move of a corner towards the centre, as a share of half of the padded size."""

    def __post_init__(self) -> None:
        if not 0 <= self.max_shift <= 1:
            raise ValueError(f"max_shift must be in [0, 1], got {self.max_shift}.")
        if not 0 <= self.max_rotation_deg <= 180:
            raise ValueError(f"max_rotation_deg must be in [0, 180], got {self.max_rotation_deg}.")
        if not 0 <= self.perspective_scale <= 0.6:
            raise ValueError(
                f"perspective_scale must be in [0, 0.6], got {self.perspective_scale}: "
                "beyond that, corners may fold over."
            )


PERSPECTIVE_PAD = 30 / 64
"""LAOM pads the image by this share of its size before a perspective, and crops it after."""


def augment_window(window: Window, cfg: AugmentConfig) -> Window:
    """Augments o_t, o_{t+1} and o_{t+k} with independent draws, as LAOM does.

    The draws must be independent: then anything that the IDM says about the distortion of o_{t+k}
    does not help the FDM to predict a target with another distortion, so the latent need not carry
    it. The frames of one stack share their draw, so that motion within a stack stays true.
    """
    if not cfg.kinds:
        return window
    observations = torch.cat([window.obs, window.next_obs, window.future_obs])
    num_images, _, height, width = observations.shape
    # Moving whole pixels takes a tenth of the time of a warp, and is the same.
    is_shift = set(cfg.kinds) <= {"none", "shift"}
    draw, distort = (draw_shifts, shift) if is_shift else (draw_homographies, warp)
    drawn = draw(num_images, height, width, cfg, observations.device)
    obs, next_obs, future_obs = distort(observations, drawn).chunk(3)
    next_mask, future_mask = window.next_mask, window.future_mask
    if next_mask is not None and future_mask is not None:
        # The FDM predicts the distorted o_{t+1}, so the mask moves with that frame.
        masks = distort(torch.cat([next_mask, future_mask]), drawn[len(window) :])
        next_mask, future_mask = masks.chunk(2)
    return Window(
        obs=obs,
        next_obs=next_obs,
        future_obs=future_obs,
        offset_steps=window.offset_steps,
        true_action=window.true_action,
        next_mask=next_mask,
        future_mask=future_mask,
    )


def draw_shifts(
    num_images: int, height: int, width: int, cfg: AugmentConfig, device: torch.device
) -> Tensor:
    """Draws by how many pixels each image moves to the left and upwards, int64 [N, 2]."""
    is_shifted_K = device_constant(tuple(kind == "shift" for kind in cfg.kinds), device)
    kind_N = torch.randint(len(cfg.kinds), (num_images,), device=device)
    shift_N2 = _shifts_px(num_images, height, width, cfg.max_shift, device)
    return shift_N2.long() * is_shifted_K[kind_N][:, None]


def shift(images_NCHW: Tensor, shift_N2: Tensor) -> Tensor:
    """Moves each image by whole pixels (see ``draw_shifts``), and repeats the border."""
    num_images, num_channels, height, width = images_NCHW.shape
    device = images_NCHW.device
    x_NW = (torch.arange(width, device=device) + shift_N2[:, :1]).clamp(0, width - 1)
    y_NH = (torch.arange(height, device=device) + shift_N2[:, 1:]).clamp(0, height - 1)
    image_N = torch.arange(num_images, device=device)
    pixel_NHW = (image_N[:, None, None] * height + y_NH[:, :, None]) * width + x_NW[:, None]
    # Whole pixels are taken from images whose colours lie side by side.
    pixels = images_NCHW.permute(0, 2, 3, 1).reshape(-1, num_channels)
    moved = pixels.index_select(0, pixel_NHW.flatten())
    return moved.view(num_images, height, width, num_channels).permute(0, 3, 1, 2)


def draw_homographies(
    num_images: int, height: int, width: int, cfg: AugmentConfig, device: torch.device
) -> Tensor:
    """Draws random maps from output to input coordinates, float [N, 3, 3].

    Coordinates are pixels relative to the centre, divided by half of the height, so that circles
    stay circles.
    """
    # Every image gets all maps and picks two of them: LAOM warps each group of images by itself,
    # which takes four times as long (docs/performance.md).
    operations = torch.stack(
        [
            torch.eye(3, device=device).expand(num_images, 3, 3),
            _shifts(num_images, height, width, cfg.max_shift, device),
            _rotations(num_images, cfg.max_rotation_deg, device),
            _perspectives(num_images, width / height, cfg.perspective_scale, device),
        ]
    )
    first_K, second_K = zip(*(_operations_of(kind) for kind in cfg.kinds), strict=True)
    kind_N = torch.randint(len(cfg.kinds), (num_images,), device=device)
    image_N = torch.arange(num_images, device=device)
    first_N = device_constant(first_K, device)[kind_N]
    second_N = device_constant(second_K, device)[kind_N]
    # Maps go from output to input, so a coordinate meets the last operation first.
    return operations[first_N, image_N] @ operations[second_N, image_N]


def warp(images_NCHW: Tensor, matrices_N33: Tensor) -> Tensor:
    """Samples each image bilinearly at the points of its map (see ``draw_homographies``)."""
    _, _, height, width = images_NCHW.shape
    aspect = width / height
    device = images_NCHW.device
    y_H = (torch.arange(height, device=device) + 0.5) * 2 / height - 1
    # Both axes have one unit of length, so that a rotation does not shear a picture that is not
    # square.
    x_W = ((torch.arange(width, device=device) + 0.5) * 2 / width - 1) * aspect
    ones_HW = torch.ones(height, width, device=device)
    points_HW3 = torch.stack([x_W.expand(height, -1), y_H[:, None].expand(-1, width), ones_HW], -1)
    mapped_NHW3 = (points_HW3.view(1, -1, 3) @ matrices_N33.transpose(1, 2)).view(
        -1, height, width, 3
    )
    grid_NHW2 = mapped_NHW3[..., :2] / mapped_NHW3[..., 2:]
    grid_NHW2 = grid_NHW2 / device_constant((aspect, 1.0), device)
    return F.grid_sample(
        images_NCHW, grid_NHW2.to(images_NCHW.dtype), padding_mode="border", align_corners=False
    )


def _operations_of(kind: str) -> tuple[int, int]:
    first, _, second = kind.partition("-")
    return _OPERATIONS.index(first), _OPERATIONS.index(second or "none")


def _shifts(
    num_images: int, height: int, width: int, max_shift: float, device: torch.device
) -> Tensor:
    matrices = torch.eye(3, device=device).repeat(num_images, 1, 1)
    shift_px_N2 = _shifts_px(num_images, height, width, max_shift, device)
    matrices[:, :2, 2] = shift_px_N2 * 2 / height
    return matrices


def _shifts_px(
    num_images: int, height: int, width: int, max_shift: float, device: torch.device
) -> Tensor:
    """Draws shifts by whole pixels, so that a shift alone does not blur: float [N, 2]."""
    reach_px = device_constant((max_shift * width, max_shift * height), device).round()
    drawn_N2 = 2 * torch.rand(num_images, 2, device=device) - 1
    # Half a pixel more, because the largest shift would otherwise be drawn half as often as the
    # others.
    return (drawn_N2 * (reach_px + 0.5)).round().clamp(-reach_px, reach_px)


def _rotations(num_images: int, max_rotation_deg: float, device: torch.device) -> Tensor:
    angle_N = math.radians(max_rotation_deg) * (2 * torch.rand(num_images, device=device) - 1)
    cos_N, sin_N = angle_N.cos(), angle_N.sin()
    matrices = torch.eye(3, device=device).repeat(num_images, 1, 1)
    matrices[:, 0, 0], matrices[:, 0, 1] = cos_N, -sin_N
    matrices[:, 1, 0], matrices[:, 1, 1] = sin_N, cos_N
    return matrices


def _perspectives(num_images: int, aspect: float, scale: float, device: torch.device) -> Tensor:
    """Draws maps that move each of the four corners of the padded image inwards independently.

    A map solves, for each corner (x, y) -> (u, v) with h_33 = 1,
        u (h_31 x + h_32 y + 1) = h_11 x + h_12 y + h_13, and likewise for v.
    """
    half_size = device_constant((aspect + 2 * PERSPECTIVE_PAD, 1 + 2 * PERSPECTIVE_PAD), device)
    signs_42 = device_constant(((-1.0, -1.0), (1.0, -1.0), (1.0, 1.0), (-1.0, 1.0)), device)
    corners_N42 = (signs_42 * half_size).expand(num_images, 4, 2)
    moved_N42 = corners_N42 * (1 - scale * torch.rand(num_images, 4, 2, device=device))
    # The picture's corners move inwards, so the moved corners are outputs, the true ones inputs.
    x, y = moved_N42.unbind(-1)
    u, v = corners_N42.unbind(-1)
    one, zero = torch.ones_like(x), torch.zeros_like(x)
    rows_u = torch.stack([x, y, one, zero, zero, zero, -u * x, -u * y], -1)
    rows_v = torch.stack([zero, zero, zero, x, y, one, -v * x, -v * y], -1)
    # Without a check: corners cannot fold over (see ``AugmentConfig``), and it would synchronize.
    solution_N8, _ = torch.linalg.solve_ex(torch.cat([rows_u, rows_v], 1), torch.cat([u, v], 1))
    return F.pad(solution_N8, (0, 1), value=1.0).view(num_images, 3, 3)
