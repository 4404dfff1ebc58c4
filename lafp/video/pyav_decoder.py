"""The reference decoder: FFmpeg through PyAV, one thread, damage cut out."""

import time
from array import array
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Literal

import av
import numpy as np
from av.container import InputContainer
from av.packet import Packet
from av.sidedata.sidedata import Type as SideDataType
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation, VideoReformatter
from av.video.stream import VideoStream

from lafp.video.decoder import (
    DamagedSpan,
    DecodedFrame,
    Orientation,
    VideoError,
    VideoInfo,
    measure_rate,
)

# Area averaging neither aliases nor blurs; the flags stop swscale from rounding colours down.
SCALING = Interpolation.AREA | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT
# Beyond this the header lies, and following it would squash the picture to a line.
_SANE_PIXEL_ASPECT = (0.25, 4.0)
# The last frame of a variable-rate video may stay a while, but a longer claim is no evidence.
_MAX_LAST_FRAME_S = 10.0
# Time stamps of old containers wobble; a longer step back is another time line.
_MAX_STEP_BACK_S = 1.0
# Decoders align what they allocate: room beyond the coded size, in pixels per side.
_ALIGNMENT_PX = 256


@dataclass(frozen=True, kw_only=True)
class PyAVConfig:
    """FFmpeg through PyAV. Reads everything that FFmpeg reads, and notices damage."""

    name: Literal["pyav"] = "pyav"


class PyAVDecoder:
    """See ``VideoDecoder``.

    FFmpeg flags damaged frames (``is_corrupt``) only without slice threads, hence one thread:
    parallelism is one video per task.
    """

    Config = PyAVConfig

    def __init__(self, cfg: PyAVConfig) -> None:
        self.cfg = cfg
        # libav writes a line per damaged block to stderr; the reject rows say it once.
        av.logging.set_level(av.logging.PANIC)

    def probe(self, path: str, max_pixels: int, deadline: float) -> VideoInfo:
        """See ``VideoDecoder.probe``."""
        with _open(path) as (container, stream):
            context = stream.codec_context
            if context.width * context.height > max_pixels:
                raise VideoError(
                    "too_large", f"{context.width}x{context.height} exceeds {max_pixels} pixels"
                )
            _limit_pixels(stream, max_pixels)
            first, pts_s, last_frame_s = _scan(container, stream, deadline)
            if not len(pts_s):
                raise VideoError("no_frames", f"{stream.frames} frames promised, none there")
            if first is None:
                raise VideoError("does_not_decode", f"none of {len(pts_s)} packets decodes")
            declared_fps = float(stream.average_rate) if stream.average_rate else None
            times_s = np.unique(pts_s) - pts_s.min()
            fps, is_constant = measure_rate(times_s, declared_fps)
            if is_constant or not 0 < last_frame_s <= _MAX_LAST_FRAME_S:
                last_frame_s = 1 / fps
            duration_s = float(times_s[-1]) + last_frame_s
            orientation = _orientation(first)
            width_px, height_px = _display_size(first, stream, orientation)
            return VideoInfo(
                codec=context.codec.canonical_name,
                width_px=width_px,
                height_px=height_px,
                coded_pixels=first.width * first.height,
                orientation=orientation,
                times_s=times_s,
                first_pts_s=float(pts_s.min()),
                fps=fps,
                is_constant_rate=is_constant,
                duration_s=duration_s,
                declared_duration_s=max(
                    duration_s, _declared_duration_s(container, stream, len(pts_s), fps, duration_s)
                ),
            )

    def frames(
        self, path: str, info: VideoInfo, width_px: int, height_px: int, deadline: float
    ) -> Iterator[DecodedFrame | DamagedSpan]:
        """See ``VideoDecoder.frames``."""
        size = (height_px, width_px) if info.orientation.is_turned else (width_px, height_px)
        to_rgb = VideoReformatter()

        def convert(frame: VideoFrame) -> np.ndarray:
            rgb = to_rgb.reformat(frame, *size, "rgb24", interpolation=SCALING, threads=1)
            return info.orientation.apply(rgb.to_ndarray())

        gate = _DamageGate(info)
        with _open(path) as (container, stream):
            # No frame may cost more than the probe has seen and its caller has accepted.
            _limit_pixels(stream, info.coded_pixels)
            clock = _Clock()
            for packet in _packets(container, stream, deadline):
                try:
                    decoded = stream.decode(packet)
                except av.FFmpegError as error:
                    gate.packet_failed(packet, error)
                    continue
                for frame in decoded:
                    if (yield from gate.check(frame, clock.time_s(frame) - info.first_pts_s)):
                        yield DecodedFrame(gate.last_time_s, partial(convert, frame))
            yield from gate.finish()


class _DamageGate:
    """Decides which frames are sound.

    From a flagged frame or a packet that does not decode, everything is cut out until a sound key
    frame that is shown later: what lies between may show the damage without being flagged.
    """

    def __init__(self, info: VideoInfo) -> None:
        self._info = info
        self._first_size: tuple[int, int] | None = None
        self._cause = ""
        self._error_time_s = 0.0
        self._is_damaged = False
        self.last_time_s = -1.0
        """When the last sound frame is shown; negative before the first one."""

    def packet_failed(self, packet: Packet, error: Exception) -> None:
        stamp = packet.pts if packet.pts is not None else packet.dts
        time_base = packet.time_base
        time_s = 0.0 if stamp is None or time_base is None else float(stamp * time_base)
        self._damage(time_s - self._info.first_pts_s, f"a packet does not decode: {error.args[1]}")

    def check(self, frame: VideoFrame, time_s: float) -> Generator[DamagedSpan, None, bool]:
        """Yields the damaged span that the frame ends, if any; returns whether it is sound."""
        size = (frame.width, frame.height)
        self._first_size = self._first_size or size
        if frame.is_corrupt:
            self._damage(time_s, "FFmpeg flags a frame as corrupt")
        elif size != self._first_size:
            self._damage(time_s, f"the frame size changes to {size[0]}x{size[1]}")
        elif time_s < self.last_time_s - _MAX_STEP_BACK_S:
            self._damage(time_s, "time stamps go backwards")
        elif time_s <= self.last_time_s:
            return False  # never shown: the frame before it has its place
        elif not self._is_damaged or (frame.key_frame and time_s > self._error_time_s):
            if self._is_damaged:
                yield DamagedSpan(self._sound_until_s(), time_s, self._cause)
            self._is_damaged = False
            self.last_time_s = time_s
        return not self._is_damaged

    def finish(self) -> Iterator[DamagedSpan]:
        """Yields the damage that reaches the end of the file, if any."""
        end_s = self._info.duration_s
        cause = self._cause if self._is_damaged else "these frames were not decoded"
        if end_s - self._sound_until_s() > 0.5 / self._info.fps:
            yield DamagedSpan(self._sound_until_s(), end_s, cause)

    def _damage(self, time_s: float, cause: str) -> None:
        if not self._is_damaged:
            self._cause = cause
        self._is_damaged = True
        self._error_time_s = max(self._error_time_s, time_s)

    def _sound_until_s(self) -> float:
        """End of the last sound frame."""
        if self.last_time_s < 0:
            return 0.0
        times_s = self._info.times_s
        following = times_s[np.searchsorted(times_s, self.last_time_s + 1e-6) :]
        return float(following[0]) if len(following) else self._info.duration_s


class _Clock:
    """FFmpeg's best-effort time stamps, which PyAV does not pass on.

    Some containers (AVI with B-frames) have wrong presentation times but right decoding times:
    whichever has gone backwards less often is believed (libavcodec, ``guess_correct_pts``).
    """

    def __init__(self) -> None:
        self._num_faulty_pts = self._num_faulty_dts = 0
        self._last_pts: int | None = None
        self._last_dts: int | None = None

    def time_s(self, frame: VideoFrame) -> float:
        """Presentation time on the file's own clock."""
        pts, dts = frame.pts, frame.dts
        if dts is not None:
            self._num_faulty_dts += self._last_dts is not None and dts <= self._last_dts
            self._last_dts = dts
        if pts is not None:
            self._num_faulty_pts += self._last_pts is not None and pts <= self._last_pts
            self._last_pts = pts
        is_pts_better = self._num_faulty_pts <= self._num_faulty_dts or dts is None
        stamp = pts if pts is not None and is_pts_better else dts
        if stamp is None or frame.time_base is None:
            raise VideoError("no_time_stamps", "a frame has no presentation time")
        return float(stamp * frame.time_base)


@contextmanager
def _open(path: str) -> Iterator[tuple[InputContainer, VideoStream]]:
    try:
        container = av.open(path, "r")
    except (av.FFmpegError, ValueError) as error:
        raise VideoError("not_a_video", str(error.args[1] if error.args[1:] else error)) from error
    with container:
        if not container.streams.video:
            kinds = sorted({stream.type for stream in container.streams})
            raise VideoError("no_video_stream", f"streams: {', '.join(kinds) or 'none'}")
        stream = container.streams.video[0]
        if stream.codec_context is None:
            raise VideoError("unsupported_codec", "FFmpeg has no decoder for the video stream")
        stream.codec_context.thread_count = 1
        yield container, stream


def _limit_pixels(stream: VideoStream, max_pixels: int) -> None:
    """Makes the decoder itself refuse larger frames, whatever the headers say."""
    side = _ALIGNMENT_PX
    context = stream.codec_context
    limit = max(max_pixels, (context.width + side) * (context.height + side))
    context.options = {"max_pixels": str(limit)}


def _packets(container: InputContainer, stream: VideoStream, deadline: float) -> Iterator[Packet]:
    """Demuxes to the end, the empty flushing packet included.

    Raises:
        VideoError: The deadline passed. A container that breaks off just ends.
    """
    packets = container.demux(stream)
    while True:
        if time.monotonic() > deadline:
            raise VideoError("timeout", "the time for one video is used up")
        try:
            packet = next(packets, None)
        except (av.FFmpegError, OSError):
            return
        if packet is None:
            return
        yield packet


def _scan(
    container: InputContainer, stream: VideoStream, deadline: float
) -> tuple[VideoFrame | None, np.ndarray, float]:
    """Reads every packet.

    Returns:
        The first frame that decodes; the presentation times, float64 [N] seconds, as they come;
        how long the last frame is shown (0 when nobody says).
    """
    first: VideoFrame | None = None
    stamps = array("q")
    last_stamp, last_duration = -(2**63), 0
    for packet in _packets(container, stream, deadline):
        if first is None:
            with suppress(av.FFmpegError):
                first = next(iter(stream.decode(packet)), None)
        stamp = packet.pts if packet.pts is not None else packet.dts
        if stamp is not None and packet.size and not packet.is_discard:
            stamps.append(stamp)
            if stamp > last_stamp:
                last_stamp, last_duration = stamp, packet.duration or 0
    time_base_s = float(stream.time_base or 1)
    return first, np.frombuffer(stamps, np.int64) * time_base_s, last_duration * time_base_s


def _orientation(frame: VideoFrame) -> Orientation:
    """Reads the display matrix: x' = a x + c y, y' = b x + d y (libavutil/display.h)."""
    side_data = frame.side_data.get(SideDataType.DISPLAYMATRIX)  # type: ignore[call-overload]
    if side_data is None:
        return Orientation()
    a, b, _, c, d = np.frombuffer(side_data, np.int32)[:5].tolist()
    if abs(b) + abs(c) > abs(a) + abs(d):
        return Orientation(is_turned=True, flip_x=c < 0, flip_y=b < 0)
    return Orientation(flip_x=a < 0, flip_y=d < 0)


def _display_size(
    frame: VideoFrame, stream: VideoStream, orientation: Orientation
) -> tuple[int, int]:
    aspect = float(stream.sample_aspect_ratio or 1)
    if not _SANE_PIXEL_ASPECT[0] <= aspect <= _SANE_PIXEL_ASPECT[1]:
        aspect = 1.0
    # The longer side grows: no pixel of the source is lost by making them square.
    width = round(frame.width * max(aspect, 1))
    height = round(frame.height / min(aspect, 1))
    return (height, width) if orientation.is_turned else (width, height)


def _declared_duration_s(
    container: InputContainer, stream: VideoStream, num_packets: int, fps: float, duration_s: float
) -> float:
    if stream.frames:
        return duration_s + max(0, stream.frames - num_packets) / fps
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    if container.duration and len(container.streams) == 1:
        return container.duration / av.time_base
    return duration_s
