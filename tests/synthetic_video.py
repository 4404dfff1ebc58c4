"""Small videos made for tests."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

CLOCK = 90_000


def moving_square(num_frames: int, height: int = 64, width: int = 96, seed: int = 0) -> np.ndarray:
    """uint8 [T, H, W, 3]: a bright square travels over a coloured slope; seeds look different."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    slope = rng.uniform(0.2, 0.9, 3) * x[..., None] + rng.uniform(0.2, 0.9, 3) * y[..., None]
    first = (slope[None] + rng.uniform(0, 60, 3)).clip(0, 200).astype(np.uint8)
    frames = np.repeat(first, num_frames, axis=0)
    side = height // 4
    start = rng.uniform(0, 1, 2)
    velocity = rng.uniform(1.5, 3, 2)
    for t in range(num_frames):
        top, left = ((start * 100 + velocity * t) % (height - side, width - side)).astype(int)
        frames[t, top : top + side, left : left + side] = 255, 240, 20
    return frames


def number_of(frame: np.ndarray) -> int:
    """Reads back the number that ``numbered`` drew."""
    row = frame[frame.shape[0] // 2].mean(axis=-1)
    bits = row.reshape(8, -1)[:, 1:-1].mean(axis=1) > 128
    return int(bits @ (1 << np.arange(8)))


def numbered(num_frames: int, height: int = 32, width: int = 64) -> np.ndarray:
    """uint8 [T, H, W, 3]: frame t shows t (below 256) as eight black or white columns."""
    bits = np.arange(num_frames)[:, None] >> np.arange(8) & 1
    columns = np.repeat(bits * 255, width // 8, axis=1).astype(np.uint8)
    return np.broadcast_to(columns[:, None, :, None], (num_frames, height, width, 3)).copy()


def write_video(
    path: Path,
    frames: np.ndarray,
    fps: float = 10.0,
    times_s: Sequence[float] | None = None,
    codec: str = "libx264",
    pixel_format: str = "yuv420p",
    rotation_deg: int = 0,
    options: dict[str, str] | None = None,
) -> Path:
    """Writes frames as a video of any container and codec that FFmpeg has.

    Args:
        path: Its suffix picks the container.
        frames: uint8 [T, H, W, 3].
        fps: Frame rate, where ``times_s`` does not say when frames are shown.
        times_s: Presentation time of every frame, for variable frame rates.
        codec: FFmpeg's name of the encoder.
        pixel_format: As coded.
        rotation_deg: Counter-clockwise turn that a player must make.
        options: Of the encoder. Default: good quality, key frames every 12 frames.
    """
    defaults = {"crf": "12", "g": "12", "bf": "2"} if codec == "libx264" else {}
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=Fraction(fps).limit_denominator(1000))
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = pixel_format
        stream.options = defaults if options is None else options
        if times_s is not None:
            stream.time_base = stream.codec_context.time_base = Fraction(1, CLOCK)
        if rotation_deg:
            stream.set_display_rotation(rotation_deg)
        for i, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format=pixel_format)
            if times_s is not None:
                frame.time_base, frame.pts = Fraction(1, CLOCK), round(times_s[i] * CLOCK)
            else:
                frame.pts = i
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path
