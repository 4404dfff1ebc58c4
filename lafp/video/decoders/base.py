"""Defines a video decoder: it probes a file, then yields its frames in order of presentation.

A decoder plugs in by name (``VIDEO_DECODERS``). It runs sequentially in bounded memory, never
raises anything but ``VideoError`` for a bad file, and never yields a frame that it knows to be
damaged: it yields a ``DamagedSpan`` instead.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from lafp.video.timeline import Timeline

# A rate counts as variable if a frame lies further than this share of a step from the grid.
_GRID_TOLERANCE = 0.2
# A declared rate within this share of a measured one counts as the same.
_DECLARED_RATE_TOLERANCE = 0.005


class VideoError(Exception):
    """Says that a file, or the rest of it, cannot be decoded. It becomes a reject row."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail

    # Exceptions are pickled with `args`, which hold one text here, but the class takes two.
    def __reduce__(self) -> tuple[object, ...]:
        return VideoError, (self.reason, self.detail)


@dataclass(frozen=True, kw_only=True)
class Orientation:
    """Describes how to make a picture upright: transpose it first, then flip it."""

    is_turned: bool = False
    """Whether rows become columns, so that width and height swap."""
    flip_x: bool = False
    flip_y: bool = False

    def apply(self, pixels: np.ndarray) -> np.ndarray:
        """Makes a coded picture [H, W, 3] upright."""
        if self.is_turned:
            pixels = pixels.swapaxes(0, 1)
        return pixels[:: -1 if self.flip_y else 1, :: -1 if self.flip_x else 1]


@dataclass(frozen=True, kw_only=True)
class Conversions:
    """Says what a file's first frame needs to become RGB as its maker meant it."""

    from_hdr: bool = False
    """Whether its brightness must be mapped to that of ordinary displays."""
    from_alpha: bool = False
    """Whether it has transparent areas."""
    from_fields: bool = False
    """Whether it is interlaced."""
    with_bt709: bool = False
    """Whether it names no matrix, and its size means the matrix of HD."""


@dataclass(frozen=True, kw_only=True)
class VideoInfo:
    """Holds the result of a probe, which reads all packets of a file but decodes only one frame."""

    codec: str
    width_px: int
    """Width as shown by a player: upright and with square pixels. ``height_px`` is likewise."""
    height_px: int
    coded_size: tuple[int, int]
    """Width and height of the first frame, as coded."""
    max_pixels: int
    """Coded width x height of the largest frame that may be decoded."""
    orientation: Orientation
    """The transform that makes the coded picture upright."""
    times_s: np.ndarray = field(repr=False)
    """float64 [N], ascending: when each coded frame is shown, the first at 0."""
    first_pts_s: float
    """Presentation time of the first frame on the file's own clock."""
    timeline: Timeline | None = field(default=None, repr=False)
    """Times of a file's packets; None if there are no packets."""
    fps: float
    """Frames per second: exact if the rate is constant, else the rate of the median step."""
    is_constant_rate: bool
    duration_s: float
    """End of the last frame that exists, whatever the header says."""
    declared_duration_s: float
    """End of the last frame that the header promises; at least ``duration_s``."""
    tiny_share: float = 1.0
    """Share of packets that are nearly empty, as those of repeated frames are; 1 if unknown."""
    can_start_late: bool = False
    """Whether ``frames`` may start in the middle and then gives the same frames as from the
    beginning."""
    hides_damage: bool = False
    """Whether some damage only shows with ``frames(is_suspect=True)``."""
    is_of_libvpx: bool = False
    """Whether the file is VP8 whose frames end as libvpx ends them, so that damage shows there."""
    usual_signs: int = 0
    """Signs in JPEG pictures or VP9 frames that tell of no damage, see ``usual_signs`` of
    ``mjpeg_scans`` and ``vp9_tiles``."""
    conversions: Conversions = Conversions()
    fallback: str = ""
    """Why the decoder cannot decode the file on the device that was asked for, but decodes it on
    another one; empty if it can."""
    unread: str = ""
    """A message if much of the file lies after the last packet; else empty."""


@dataclass(frozen=True)
class DecodedFrame:
    """Holds one sound frame. Pixels are converted on request, so skipped frames cost no scaling."""

    time_s: float
    """Presentation time, where the first frame of the file is at 0."""
    pixels: Callable[[], np.ndarray] = field(repr=False)
    """Returns uint8 RGB [height, width, 3] of the requested size, upright."""


@dataclass(frozen=True)
class DamagedSpan:
    """Describes a span that was cut out because it does not decode to the frames that were encoded.

    A span of length 0 cuts nothing out, but no clip crosses it: another recording begins, or the
    frame size changes.
    """

    start_s: float
    end_s: float
    detail: str
    reason: str = "damaged"
    """Reason of its reject row."""


IsWanted = Callable[[float], bool]
"""Called once with the time of each frame in turn. Returns whether the pixels of the frame before
it are wanted. Until something is cut out, pixels of unwanted frames are never requested."""


class VideoDecoder(Protocol):
    """Probes and decodes videos. ``Config`` is its config dataclass, with the field ``name``."""

    Config: type

    def probe(self, path: str, max_pixels: int, deadline: float) -> VideoInfo:
        """Reads what kind of video ``path`` is.

        Args:
            path: A local file.
            max_pixels: Largest width x height to decode.
            deadline: ``time.monotonic()`` at which to give up.

        Raises:
            VideoError: The file is not a video, its frames are too large, or the deadline passed.
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
            width_px: Width to scale to, upright. The caller chooses the aspect ratio.
            height_px: Height to scale to.
            deadline: ``time.monotonic()`` at which to give up.
            start_s: If not 0, decoding starts at some key frame well before this time. Needs
                ``info.can_start_late``.
            is_wanted: Lets the decoder discard frames early; None means that all are wanted.
            is_suspect: Whether the file has shown damage. If so, more expensive checks run from the
                start.

        Raises:
            VideoError: Reading cannot continue. The frames yielded before are sound.
        """
        ...


# Frames closer than this are a burst, if the others are further apart.
_BURST_STEP_S = 1 / 240


def measure_rate(times_s: np.ndarray, declared_fps: float | None) -> tuple[float, bool]:
    """Measures the frame rate of time stamps, and whether it is constant.

    Dropped frames leave holes in a regular grid. The rate is then that of the grid, but not
    constant.

    Args:
        times_s: float64 [N], ascending.
        declared_fps: The header's rate. It is returned if it fits the grid, because it is exact.

    Returns:
        Frames per second (if frames lie on no grid, the rate of the median step), and whether the
        rate is constant.
    """
    if len(times_s) < 2:
        return declared_fps or 1.0, True
    since_s = times_s - times_s[0]
    without_holes = np.arange(len(times_s))
    if is_constant := _is_on_grid(since_s, without_holes):
        places = without_holes
    else:
        steps_s = np.diff(times_s)
        # Some cameras and muxers hand over two frames at nearly the same time, then wait.
        apart_s = steps_s[steps_s >= _BURST_STEP_S]
        is_in_bursts = 2 * apart_s.sum() > since_s[-1] and 5 * len(apart_s) >= len(steps_s)
        median_s = float(np.median(apart_s if is_in_bursts else steps_s))
        # Rounded step by step, because stamps in milliseconds are too coarse to round all at once.
        places = np.concatenate([[0], np.cumsum(np.maximum(1, np.round(steps_s / median_s)))])
        if not _is_on_grid(since_s, places):
            return _or_declared(1 / median_s, declared_fps), False
    fps = float(places[-1] / since_s[-1])
    declared = _or_declared(fps, declared_fps)
    # In a long file even a small difference of rates adds up to whole frames, so a declared rate
    # must also fit the last stamps.
    fits = np.abs(since_s - places / declared).max() <= _GRID_TOLERANCE / declared
    return (declared if fits else fps), is_constant


def _is_on_grid(since_s: np.ndarray, places: np.ndarray) -> bool:
    step_s = since_s[-1] / places[-1]
    return bool(np.abs(since_s - step_s * places).max() <= _GRID_TOLERANCE * step_s)


def _or_declared(fps: float, declared_fps: float | None) -> float:
    if declared_fps and abs(fps / declared_fps - 1) < _DECLARED_RATE_TOLERANCE:
        return declared_fps
    return fps
