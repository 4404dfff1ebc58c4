"""What every video decoder does: probe a file, then yield its frames in order of presentation.

A decoder plugs in by name (``VIDEO_DECODERS``). It runs sequentially in bounded memory, never
raises anything but ``VideoError`` for a bad file, and never yields a frame that it knows to be
damaged: it yields a ``DamagedSpan`` instead.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from lafp.video.timeline import Timeline

# A frame that lies further than this share of a step from the regular grid makes a rate variable.
_GRID_TOLERANCE = 0.2
# A declared rate this close to a measured one is meant to be the same.
_DECLARED_RATE_TOLERANCE = 0.005


class VideoError(Exception):
    """A file that cannot be decoded (further). It becomes a reject row, never a failed job."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail

    def __reduce__(self) -> tuple[Any, ...]:
        return VideoError, (self.reason, self.detail)


@dataclass(frozen=True, kw_only=True)
class Orientation:
    """How a picture must be turned and mirrored to be upright: transpose first, then flip."""

    is_turned: bool = False
    """Rows become columns: width and height change places."""
    flip_x: bool = False
    flip_y: bool = False

    def apply(self, pixels: np.ndarray) -> np.ndarray:
        """Coded picture [H, W, 3] -> upright picture."""
        if self.is_turned:
            pixels = pixels.swapaxes(0, 1)
        return pixels[:: -1 if self.flip_y else 1, :: -1 if self.flip_x else 1]


@dataclass(frozen=True, kw_only=True)
class VideoInfo:
    """What a probe finds. It reads all of the file's packets but decodes one frame only."""

    codec: str
    width_px: int
    """Upright and with square pixels, like ``height_px``: what a player shows."""
    height_px: int
    coded_size: tuple[int, int]
    """Width and height of the first frame, as coded."""
    max_pixels: int
    """Width x height as coded of the largest frame that may be decoded."""
    orientation: Orientation
    """What makes the coded picture upright."""
    times_s: np.ndarray = field(repr=False)
    """float64 [N], ascending: when each coded frame is shown, the first at 0."""
    first_pts_s: float
    """Presentation time of the first frame on the file's own clock."""
    timeline: Timeline | None = field(default=None, repr=False)
    """What the packets of a file say about time; None where there are none."""
    fps: float
    """Frames per second: exact where the rate is constant, else of the median step."""
    is_constant_rate: bool
    duration_s: float
    """End of the last frame that is there, whatever the header says."""
    declared_duration_s: float
    """End of the last frame that the header promises; at least ``duration_s``."""
    tiny_share: float = 1.0
    """Share of packets that hold next to nothing, as those of repeated frames do; 1 where nobody
    looked."""
    can_start_late: bool = False
    """Whether ``frames`` may start in the middle, and then gives the frames that it gives there
    when it starts at the beginning."""
    hides_damage: bool = False
    """Whether some of its damage shows only to ``frames(is_suspect=True)``."""
    unread: str = ""
    """Says that much of the file is behind the last packet; empty where it is not."""


@dataclass(frozen=True)
class DecodedFrame:
    """One sound frame. Pixels are converted when asked for: skipped frames cost no scaling."""

    time_s: float
    """Presentation time; the first frame of the file is at 0."""
    pixels: Callable[[], np.ndarray] = field(repr=False)
    """-> uint8 RGB [height, width, 3] of the size that was asked for, upright."""


@dataclass(frozen=True)
class DamagedSpan:
    """A span that was cut out because it does not decode to what was encoded.

    One without length cuts nothing out, but no clip goes across it: another recording begins, or
    the frame size changes.
    """

    start_s: float
    end_s: float
    detail: str
    reason: str = "damaged"
    """What its reject row gives as the reason."""


IsWanted = Callable[[float], bool]
"""Called with the time of each frame in turn, once: are the pixels of the frame before it wanted?
As long as nothing is cut out, those of others are never asked for."""


class VideoDecoder(Protocol):
    """A named decoder. ``Config`` is its config dataclass, with its ``name``."""

    Config: type

    def probe(self, path: str, max_pixels: int, deadline: float) -> VideoInfo:
        """Reads what ``path`` is.

        Args:
            path: A local file.
            max_pixels: Largest width x height to decode.
            deadline: ``time.monotonic()`` at which to give up.

        Raises:
            VideoError: It is no video, its frames are too large, or the deadline passed.
        """
        ...

    def frames(
        self,
        path: str,
        info: VideoInfo,
        width_px: int,
        height_px: int,
        deadline: float,
        start_s: float = 0.0,
        is_wanted: IsWanted | None = None,
        is_suspect: bool = False,
    ) -> Iterator[DecodedFrame | DamagedSpan]:
        """Yields every frame, ascending in time, and every damaged span between them.

        Args:
            path: The file that was probed.
            info: The probe's result.
            width_px: Width to scale to, upright. The aspect ratio is the caller's business.
            height_px: Height to scale to.
            deadline: ``time.monotonic()`` at which to give up.
            start_s: Starts at some key frame well before this. Only if ``info.can_start_late``.
            is_wanted: Lets the decoder give up frames early; None wants all.
            is_suspect: It has shown damage: looks for more of it from the start, at some cost.

        Raises:
            VideoError: Reading cannot go on. What was yielded until then is sound.
        """
        ...


def measure_rate(times_s: np.ndarray, declared_fps: float | None) -> tuple[float, bool]:
    """The frame rate that time stamps show, and whether it is constant.

    Dropped frames leave holes in a regular grid: the rate is that of the grid, but not constant.

    Args:
        times_s: float64 [N], ascending.
        declared_fps: The header's rate. Taken where it fits the grid, because it is exact.

    Returns:
        Frames per second; of the median step where frames lie on no grid.
    """
    if len(times_s) < 2:
        return declared_fps or 1.0, True
    since_s = times_s - times_s[0]
    without_holes = np.arange(len(times_s))
    if is_constant := _is_on_grid(since_s, without_holes):
        places = without_holes
    else:
        steps_s = np.diff(times_s)
        median_s = float(np.median(steps_s))
        # Rounded step by step: stamps in milliseconds say too little about their number at once.
        places = np.concatenate([[0], np.cumsum(np.maximum(1, np.round(steps_s / median_s)))])
        if not _is_on_grid(since_s, places):
            return _or_declared(1 / median_s, declared_fps), False
    fps = float(places[-1] / since_s[-1])
    declared = _or_declared(fps, declared_fps)
    fits = np.abs(since_s - places / declared).max() <= _GRID_TOLERANCE / declared
    return (declared if fits else fps), is_constant


def _is_on_grid(since_s: np.ndarray, places: np.ndarray) -> bool:
    step_s = since_s[-1] / places[-1]
    return bool(np.abs(since_s - step_s * places).max() <= _GRID_TOLERANCE * step_s)


def _or_declared(fps: float, declared_fps: float | None) -> float:
    if declared_fps and abs(fps / declared_fps - 1) < _DECLARED_RATE_TOLERANCE:
        return declared_fps
    return fps
