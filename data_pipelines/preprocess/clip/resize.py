"""Scales frames to the size of the shard set without distorting them."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from lafp.video.decoders.base import VideoInfo


@dataclass(frozen=True, kw_only=True)
class ResizeConfig:
    """Sets the size of every clip. Pictures that already have this size stay as they are."""

    width_px: int = 64
    height_px: int = 64
    fit: Literal["crop", "pad"] = "crop"
    """crop fills the frame and cuts off the excess of the longer side; pad shows the whole picture
    between black bars."""

    def __post_init__(self) -> None:
        sizes = (self.width_px, self.height_px)
        if min(sizes) < 16 or max(sizes) > 8192:  # H.264 of its highest level ends there
            raise ValueError(
                f"width_px and height_px must be from 16 to 8192, got {sizes[0]}x{sizes[1]}."
            )


def scaled_size(info: VideoInfo, cfg: ResizeConfig) -> tuple[int, int]:
    """Returns the width and height of the whole picture before it is cropped or padded."""
    ratios = cfg.width_px / info.width_px, cfg.height_px / info.height_px
    scale = max(ratios) if cfg.fit == "crop" else min(ratios)
    size = max(1, round(info.width_px * scale)), max(1, round(info.height_px * scale))
    # One side matches exactly; rounding must not leave it a pixel short.
    if cfg.fit == "crop":
        return max(size[0], cfg.width_px), max(size[1], cfg.height_px)
    return min(size[0], cfg.width_px), min(size[1], cfg.height_px)


def crop_or_pad(pixels: np.ndarray, cfg: ResizeConfig) -> np.ndarray:
    """Crops or pads a scaled picture around its centre.

    Args:
        pixels: uint8 [h, w, 3] of ``scaled_size``.
        cfg: The final size.

    Returns:
        uint8 [height_px, width_px, 3].
    """
    height, width = pixels.shape[:2]
    if cfg.fit == "crop":
        top, left = (height - cfg.height_px) // 2, (width - cfg.width_px) // 2
        return pixels[top : top + cfg.height_px, left : left + cfg.width_px]
    if (height, width) == (cfg.height_px, cfg.width_px):
        return pixels
    padded = np.zeros((cfg.height_px, cfg.width_px, 3), np.uint8)
    top, left = (cfg.height_px - height) // 2, (cfg.width_px - width) // 2
    padded[top : top + height, left : left + width] = pixels
    return padded
