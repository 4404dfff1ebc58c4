"""Windows with a known motion, made in memory."""

import torch
import torch.nn.functional as F

from lafp.objectives.base import Objective
from lafp.types import ObsSpec, Window

SIZE_PX = 24


def obs_spec(frame_stack: int = 1, size_px: int = SIZE_PX) -> ObsSpec:
    return ObsSpec(height_px=size_px, width_px=size_px, frame_stack=frame_stack, fps=10.0)


def moving_square_windows(
    num_windows: int,
    seed: int,
    frame_stack: int = 1,
    max_offset_steps: int = 1,
    start_spread_px: float = 4.0,
) -> Window:
    """A white square of 8 px on grey, moving at a constant velocity; the action is the velocity.

    Edges are antialiased, so that motions of a part of a pixel show. At time t the square is
    within ``start_spread_px`` of the centre.

    Returns:
        ``true_action`` float [B, 2]: pixels per step along x and y, over 2, so in [-1, 1];
        ``optical_flow`` float [B, 2, 6, 6]: the velocity where the square is, 0 elsewhere;
        ``next_mask`` and ``future_mask``: the square, also at its edges.
    """
    generator = torch.Generator().manual_seed(seed)
    velocity = 4 * torch.rand(num_windows, 2, generator=generator) - 2
    start = SIZE_PX / 2 + start_spread_px * (
        2 * torch.rand(num_windows, 2, generator=generator) - 1
    )
    offset = torch.randint(1, max_offset_steps + 1, (num_windows,), generator=generator)

    def stack_at(steps: torch.Tensor) -> torch.Tensor:
        times = [steps + i for i in range(1 - frame_stack, 1)]
        return torch.cat([_draw(start + velocity * t[:, None]) for t in times], dim=1)

    def mask_at(steps: torch.Tensor) -> torch.Tensor:
        covers = _cover(start), _cover(start + velocity * steps[:, None])
        return (torch.maximum(*covers) > 0).float()[:, None]

    zero = torch.zeros(num_windows, dtype=torch.int64)
    return Window(
        obs=stack_at(zero),
        next_obs=stack_at(zero + 1),
        future_obs=stack_at(offset),
        offset_steps=offset,
        true_action=velocity / 2,
        optical_flow=F.avg_pool2d(velocity[..., None, None] * _cover(start)[:, None], 4),
        next_mask=mask_at(zero + 1),
        future_mask=mask_at(offset),
    )


def _draw(center: torch.Tensor) -> torch.Tensor:
    """Squares at (x, y) in pixels -> float [B, 3, H, W] in [-1, 1]."""
    return (1.5 * _cover(center) - 0.5)[:, None].repeat(1, 3, 1, 1)


def _cover(center: torch.Tensor) -> torch.Tensor:
    """How much of each pixel a square covers, float [B, H, W] in [0, 1]."""
    pixel = torch.arange(SIZE_PX) + 0.5
    cover = (4.5 - (pixel - center[..., None]).abs()).clamp(0, 1)  # [B, 2, SIZE]
    return cover[:, 1, :, None] * cover[:, 0, None, :]


def fit_to(objective: Objective, window: Window) -> None:
    """Fits a new model to one batch, as a training does before its first step."""
    objective.fit_scales([window])
