"""Converts HDR to SDR: PQ and HLG of BT.2020 to BT.709, with highlights rolled off, not clipped."""

from functools import cache
from typing import Literal

import numpy as np

Transfer = Literal["pq", "hlg"]

# Diffuse white of HDR programmes (BT.2408), which becomes the white of SDR, and the peak brightness
# they are mastered for. Real files' metadata is missing or wrong too often to be used.
WHITE_NITS, PEAK_NITS = 203.0, 1000.0
# BT.1886: gamma of SDR displays.
_SDR_GAMMA = 2.4
_HLG_GAMMA = 1.2  # BT.2100, for a peak of 1000 nits
# Linear RGB from BT.2020 to BT.709, the inverse of BT.2087.
_TO_709 = np.array(
    [[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]], np.float32
)
_LUMA_2020 = np.array([0.2627, 0.6780, 0.0593], np.float32)


def to_sdr(rgb: np.ndarray, transfer: Transfer) -> np.ndarray:
    """Maps the tones of one picture to SDR.

    Highlights are rolled off with the EETF of ITU-R BT.2390-11 (annex 5). It is applied to the
    largest of R, G and B, and its ratio to all three, which keeps hues. Our deviation: BT.2390
    leaves the choice of the signal and of the peaks open.

    Args:
        rgb: uint16 [H, W, 3], full range R'G'B' with BT.2020 primaries.
        transfer: Transfer function of the picture.

    Returns:
        uint8 [H, W, 3], R'G'B' of BT.709 for a display as in BT.1886.
    """
    light = _linear_light(transfer)[rgb]  # nits for PQ, scene light in [0, 1] for HLG
    if transfer == "hlg":
        luma = np.maximum(light @ _LUMA_2020, 1e-6)
        light = PEAK_NITS * light * (luma ** (_HLG_GAMMA - 1))[..., None]
    light = np.maximum(light @ _TO_709.T, 0)
    peak = np.maximum(light.max(axis=-1, keepdims=True), 1e-6)
    light *= _roll_off(np.minimum(peak, PEAK_NITS)) / peak
    return np.rint(255 * np.clip(light / WHITE_NITS, 0, 1) ** (1 / _SDR_GAMMA)).astype(np.uint8)


def pq_signal(nits: np.ndarray | float) -> np.ndarray:
    """Applies the inverse EOTF of SMPTE ST 2084: [0, 10000] nits -> [0, 1]."""
    power = (np.asarray(nits, np.float32) / 10_000) ** (2610 / 16_384)
    return ((0.8359375 + 18.8515625 * power) / (1 + 18.6875 * power)) ** 78.84375


def pq_nits(signal: np.ndarray) -> np.ndarray:
    """Applies the EOTF of SMPTE ST 2084: [0, 1] -> [0, 10000] nits."""
    power = np.asarray(signal) ** (1 / 78.84375)
    return 10_000 * (np.maximum(power - 0.8359375, 0) / (18.8515625 - 18.6875 * power)) ** (
        16_384 / 2610
    )


@cache
def _linear_light(transfer: Transfer) -> np.ndarray:
    """Returns float32 [65536]: the linear light of each code value."""
    signal = np.arange(65_536) / 65_535
    if transfer == "pq":
        return pq_nits(signal).astype(np.float32)
    a, b, c = 0.17883277, 0.28466892, 0.55991073  # inverse OETF of HLG, BT.2100
    return np.where(signal <= 0.5, signal**2 / 3, (np.exp((signal - c) / a) + b) / 12).astype(
        np.float32
    )


def _roll_off(nits: np.ndarray) -> np.ndarray:
    """Applies the EETF of BT.2390 with black at 0: linear up to a knee, then a Hermite spline."""
    top = pq_signal(PEAK_NITS)
    level, target = pq_signal(nits) / top, pq_signal(WHITE_NITS) / top
    knee = 1.5 * target - 0.5
    t = np.clip((level - knee) / (1 - knee), 0, 1)
    spline = (
        (2 * t**3 - 3 * t**2 + 1) * knee
        + (t**3 - 2 * t**2 + t) * (1 - knee)
        + (-2 * t**3 + 3 * t**2) * target
    )
    return pq_nits(np.where(level < knee, level, spline) * top)
