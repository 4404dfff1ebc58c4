"""Frames as pictures: tiles, change images, motion heat maps, PNG bytes."""

# Shape suffixes in this file: H height, W width. Colour images are uint8 [H, W, 3].

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

GAP_PX = 3
MAX_ENLARGED = 4
BRIGHTER, DARKER = (40, 70, 190), (225, 110, 20)
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)


def thumbnail(frame: np.ndarray, size_px: int) -> np.ndarray:
    """Scales a frame to ``size_px`` on its longer side; enlarged pixels stay square blocks.

    It is never enlarged more than ``MAX_ENLARGED`` times: blocks tell nothing.

    Args:
        frame: uint8 [H, W, 3].
        size_px: Longer side of the result.

    Returns:
        uint8 [h, w, 3].
    """
    height, width = frame.shape[:2]
    scale = min(size_px / max(height, width), MAX_ENLARGED)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    method = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.BOX
    return np.asarray(Image.fromarray(frame).resize(size, method))


def change(obs: np.ndarray, next_obs: np.ndarray) -> np.ndarray:
    """Returns the signed change of brightness, float32 [H, W] in [-1, 1]."""
    return (next_obs.astype(np.float32) - obs.astype(np.float32)) @ _LUMA / 255


def paint_change(signed_HW: np.ndarray, scale: float) -> np.ndarray:
    """Paints a change image: grey = unchanged, orange = darker, blue = brighter.

    Args:
        signed_HW: float [H, W].
        scale: Change that gets full colour.
    """
    return _blend(np.full((*signed_HW.shape, 1), 244.0), signed_HW, scale)


def overlay_change(frame: np.ndarray, signed_HW: np.ndarray, scale: float) -> np.ndarray:
    """Shows the frame in pale grey, with what changed in colour on top."""
    return _blend(90 + 0.6 * (frame @ _LUMA)[..., None], signed_HW, scale)


def overlay_heat(frame: np.ndarray, heat_HW: np.ndarray) -> np.ndarray:
    """Shows the frame in dim grey, with a heat map of [0, 1] on top."""
    from matplotlib import (
        colormaps,  # not with the module, which every worker of an evaluation loads
    )

    heat_HW1 = np.clip(heat_HW, 0, 1)[..., None]
    grey_HW1 = 0.45 * (frame @ _LUMA)[..., None]
    color = np.asarray(colormaps["inferno"](0.15 + 0.85 * heat_HW1[..., 0]))[..., :3] * 255
    return ((1 - heat_HW1) * grey_HW1 + heat_HW1 * color).clip(0, 255).astype(np.uint8)


def grid(rows: Sequence[Sequence[np.ndarray]], group: int = 0) -> np.ndarray:
    """Puts images side by side, in the middle of cells of one size, on white.

    Args:
        rows: Equally long rows of uint8 [h, w, 3].
        group: After so many columns the gap is wider; 0 for none.

    Returns:
        uint8 [H, W, 3].
    """
    height = max(tile.shape[0] for row in rows for tile in row)
    width = max(tile.shape[1] for row in rows for tile in row)
    columns = len(rows[0])
    lefts = [
        i * (width + GAP_PX) + (4 * GAP_PX * (i // group) if group else 0) for i in range(columns)
    ]
    shape = (len(rows) * (height + GAP_PX) - GAP_PX, lefts[-1] + width, 3)
    canvas = np.full(shape, 255, np.uint8)
    for i, row in enumerate(rows):
        for left, tile in zip(lefts, row, strict=True):
            top = i * (height + GAP_PX) + (height - tile.shape[0]) // 2
            left += (width - tile.shape[1]) // 2
            canvas[top : top + tile.shape[0], left : left + tile.shape[1]] = tile
    return canvas


def png(image: np.ndarray) -> bytes:
    """Encodes uint8 [H, W, 3] as PNG."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "png", optimize=True)
    return buffer.getvalue()


def _blend(ground_HW1: np.ndarray, signed_HW: np.ndarray, scale: float) -> np.ndarray:
    # A power below 1: small changes stay visible beside large ones.
    share_HW1 = np.clip(np.abs(signed_HW) / max(scale, 1e-6), 0, 1)[..., None] ** 0.7
    color = np.where(signed_HW[..., None] > 0, BRIGHTER, DARKER)
    return ((1 - share_HW1) * ground_HW1 + share_HW1 * color).clip(0, 255).astype(np.uint8)
