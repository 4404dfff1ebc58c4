"""Computes small dense optical flow between a clip's frames, for the objective `laof`."""

import importlib.util
from dataclasses import dataclass
from typing import Literal

import numpy as np

from lafp.config.ranges import check_at_least

_PRESETS = {"ultrafast": 0, "fast": 1, "medium": 2}


@dataclass(frozen=True, kw_only=True)
class OpticalFlowConfig:
    """Configures dense inverse search (Kroeger et al., ECCV 2016), OpenCV's DIS."""

    height_px: int = 16
    """Height to which optical flow is averaged. Its values stay in pixels of the clip's frames."""
    width_px: int = 16
    preset: Literal["ultrafast", "fast", "medium"] = "medium"
    """Trades time for accuracy."""

    def __post_init__(self) -> None:
        check_at_least(self, 2, "height_px", "width_px")
        if importlib.util.find_spec("cv2") is None:
            raise ValueError("it needs OpenCV. Install it with: pip install 'lafp[optical_flow]'")


def optical_flow(frames: np.ndarray, cfg: OpticalFlowConfig) -> np.ndarray:
    """Computes where the pixels of each frame are in the next frame.

    Args:
        frames: uint8 RGB [T, H, W, 3].
        cfg: Size and preset.

    Returns:
        float16 [T - 1, 2, height_px, width_px]: displacement along x and y, in pixels of the clip's
        frames per step.
    """
    import cv2

    cv2.setNumThreads(1)  # Ray assigns the cores, and one thread gives the same bits every time
    estimator = cv2.DISOpticalFlow.create(_PRESETS[cfg.preset])
    grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames]
    vectors = np.empty((len(frames) - 1, 2, cfg.height_px, cfg.width_px), np.float16)
    size = (cfg.width_px, cfg.height_px)
    for t in range(len(vectors)):
        dense = estimator.calc(grey[t], grey[t + 1], None)  # type: ignore[call-overload]
        small = cv2.resize(dense, size, interpolation=cv2.INTER_AREA)
        vectors[t] = small.transpose(2, 0, 1)
    return vectors
