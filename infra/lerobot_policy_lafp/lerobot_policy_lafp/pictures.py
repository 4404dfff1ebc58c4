"""LeRobot's pictures become the agent's. Needs torch alone."""

# Shape suffixes: N episodes, C channels, H height, W width.

import torch
import torch.nn.functional as F


def to_agent(picture_NCHW: torch.Tensor, height_px: int, width_px: int, fit: str) -> torch.Tensor:
    """Scales pictures as preprocessing does: without distortion, averaging over areas.

    Args:
        picture_NCHW: float in [0, 1], or uint8.
        height_px: Height of the result.
        width_px: Width of the result.
        fit: ``crop`` fills the result and cuts off the excess of the longer side; ``pad`` shows the
            whole picture between black bars.

    Returns:
        uint8 [N, height_px, width_px, C]. A picture of this size keeps its values.
    """
    value_NCHW = picture_NCHW.float() * (1 if picture_NCHW.dtype == torch.uint8 else 255)
    ratios = height_px / value_NCHW.shape[2], width_px / value_NCHW.shape[3]
    scale = max(ratios) if fit == "crop" else min(ratios)
    height, width = (max(1, round(side * scale)) for side in value_NCHW.shape[2:])
    if scale < 1:
        value_NCHW = F.interpolate(value_NCHW, (height, width), mode="area")
    elif scale > 1:
        value_NCHW = F.interpolate(value_NCHW, (height, width), mode="bilinear")
    # A negative number of pixels crops.
    top, left = (height_px - height) // 2, (width_px - width) // 2
    bars = (left, width_px - width - left, top, height_px - height - top)
    fitted_NCHW = F.pad(value_NCHW, bars)
    return fitted_NCHW.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)
