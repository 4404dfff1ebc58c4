"""Checks the result of a file's probe against the limits before the file is decoded."""

from dataclasses import dataclass

from lafp.config.ranges import check_positive
from lafp.video.decoders.base import VideoInfo


@dataclass(frozen=True, kw_only=True)
class LimitsConfig:
    """Limits what one input may cost. An input beyond a limit becomes a reject row."""

    max_bytes: int = 20 * 2**30
    """Largest file. If the source is S3, a worker's disk holds one file at a time."""
    max_pixels: int = 4096 * 4096
    """Largest frame, as coded width x height. It limits the memory of a video decoder, which holds
    some 20 frames."""
    min_side_px: int = 16
    """Smallest width or height. Smaller pictures are icons and test patterns."""
    max_duration_s: float = 12 * 3600.0
    timeout_s: float = 3600.0
    """Wall-clock time for one video. Clips that are complete by then are kept."""
    max_memory_bytes: int = 4 * 2**30
    """Memory that the decoding process may allocate, including about 200 MiB of its own; at least
    512 MiB."""

    def __post_init__(self) -> None:
        check_positive(
            self, "max_bytes", "max_pixels", "min_side_px", "max_duration_s", "timeout_s"
        )
        if self.max_memory_bytes < 512 * 2**20:
            raise ValueError(
                f"max_memory_bytes must be at least 512 MiB, got {self.max_memory_bytes}."
            )


def violation(info: VideoInfo, limits: LimitsConfig) -> tuple[str, str] | None:
    """Returns reason and detail of the limit that a probed video exceeds, or None."""
    if min(info.width_px, info.height_px) < limits.min_side_px:
        return "too_small", f"{info.width_px}x{info.height_px}"
    if info.duration_s > limits.max_duration_s:
        return "too_long", f"{info.duration_s:.0f} s"
    return None
