"""Encodes and decodes the clips in shards: H.264 with short GOPs, which common tools can play."""

import io
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace, Interpolation, VideoReformatter

from lafp.config.ranges import check_at_least

# BT.601 for every size. It is written into the stream, so that no reader has to guess the matrix.
_SMPTE_170M = 6
# Without these flags swscale rounds down, and drops half of the colour on conversion to RGB.
_EXACT = Interpolation.BILINEAR | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT


@dataclass(frozen=True, kw_only=True)
class EncodeConfig:
    """Configures H.264 encoding by libx264, without B-frames."""

    # docs/videos.md compares these defaults with other codecs and settings ("The clips in a
    # shard").
    crf: int = 18
    """Constant rate factor, 0 (lossless YUV) to 51. At 18, clips look almost like the original."""
    # A distance of 100 saves 14 % of the bytes, but a seek takes twice as long, and damage to a
    # shard costs a whole clip.
    gop_frames: int = 12
    """Largest distance of key frames, so the most frames that a seek into the clip decodes."""
    # "ultrafast" decodes in two thirds of the time, but takes half as many bytes again.
    preset: Literal["ultrafast", "superfast", "veryfast", "faster", "fast", "medium"] = "fast"
    """Trades encoding time for bytes."""
    pixel_format: Literal["yuv420p", "yuv444p"] = "yuv420p"
    """yuv444p keeps colour at full resolution, which small pictures need. Clips of odd width or
    height always use it, because halved colour needs even sizes."""

    def __post_init__(self) -> None:
        if not 0 <= self.crf <= 51:
            raise ValueError(f"crf must be in [0, 51], got {self.crf}.")
        check_at_least(self, 1, "gop_frames")


def encode_clip(frames: np.ndarray, fps: float, cfg: EncodeConfig) -> bytes:
    """Encodes one clip as an mp4. The same frames give the same bytes.

    Args:
        frames: uint8 RGB [T, H, W, 3], at least one frame.
        fps: Frames per second.
        cfg: Quality, GOP and speed.

    Raises:
        ValueError: ``frames`` has another shape or dtype, or ``fps`` is not positive.
    """
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8 or not len(frames):
        raise ValueError(
            f"Expected frames uint8 [T, H, W, 3] with T >= 1, got {frames.dtype} {frames.shape}."
        )
    if fps <= 0:
        raise ValueError(f"fps must be positive, got {fps}.")
    buffer = io.BytesIO()
    with ClipWriter(buffer, frames.shape[1:3], fps, cfg) as writer:
        for pixels in frames:
            writer.add(pixels)
    return buffer.getvalue()


class ClipWriter:
    """Encodes frames one by one, for videos that do not fit into memory. Use as a context manager.

    Args:
        file: A path, or a file in memory.
        size: Height and width.
        fps: Frames per second.
        cfg: Quality, GOP and speed.
        clock_hz: Set where frames have times of their own: the ticks per second in which these are
            written. None: frames follow each other at ``fps``.
    """

    def __init__(
        self,
        file: str | io.BytesIO,
        size: tuple[int, ...],
        fps: float,
        cfg: EncodeConfig,
        clock_hz: int | None = None,
    ) -> None:
        height, width = size
        is_odd = height % 2 or width % 2
        self._container = av.open(file, "w", format="mp4")
        # The exact fraction of a float has a denominator that FFmpeg's 32-bit fractions cannot
        # hold.
        stream = self._container.add_stream("libx264", rate=Fraction(fps).limit_denominator(10_000))
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height = width, height
        stream.pix_fmt = "yuv444p" if is_odd else cfg.pixel_format
        context = stream.codec_context
        context.colorspace, context.thread_count = _SMPTE_170M, 1
        if clock_hz is not None:
            context.time_base = Fraction(1, clock_hz)
        context.options = {
            "crf": str(cfg.crf),
            "preset": cfg.preset,
            "g": str(cfg.gop_frames),
            # Without B-frames, packet t is frame t. Readers rely on this (`open_clip`).
            "bf": "0",
            # With mbtree, up to 1 in 7 small clips had other bytes when encoded again.
            "mbtree": "0",
        }
        self._stream, self._to_yuv, self._num_frames = stream, VideoReformatter(), 0

    def __enter__(self) -> "ClipWriter":
        return self

    def __exit__(self, kind: object, *exc: object) -> None:
        if kind is None:
            self._container.mux(self._stream.encode())
        self._container.close()

    def add(self, pixels: np.ndarray, ticks: int | None = None) -> None:
        """Appends a frame, uint8 RGB [H, W, 3], at its time in ticks if there is a clock."""
        rgb = av.VideoFrame.from_ndarray(pixels, format="rgb24")
        frame = self._to_yuv.reformat(
            rgb,
            format=self._stream.pix_fmt,
            dst_colorspace=Colorspace.ITU601,
            dst_color_range=ColorRange.MPEG,
            interpolation=_EXACT,
            threads=1,
        )
        frame.pts = self._num_frames if ticks is None else ticks
        self._num_frames += 1
        self._container.mux(self._stream.encode(frame))


def decode_clip(data: bytes) -> np.ndarray:
    """Decodes every frame of a clip that ``encode_clip`` wrote.

    Returns:
        uint8 RGB [T, H, W, 3].

    Raises:
        ValueError: ``data`` holds no decodable video.
    """
    with open_clip(data) as (stream, packets):
        context = stream.codec_context
        frames = np.empty((len(packets), context.height, context.width, 3), np.uint8)
        _decode_into(frames, stream, packets, range(len(packets)))
        return frames


def decode_frames(data: bytes, times: Sequence[int], out: np.ndarray) -> int:
    """Decodes some frames of a clip that ``encode_clip`` wrote.

    It decodes only the groups of pictures that hold one of the frames, and each only up to the last
    frame that is requested.

    Args:
        data: The clip.
        times: Frame numbers, ascending.
        out: uint8 RGB [at least len(times), H, W, 3]; row i becomes frame ``times[i]``.

    Returns:
        T, the number of frames in the clip.

    Raises:
        ValueError: ``data`` holds no decodable video, not these frames, or frames of another size.
    """
    with open_clip(data) as (stream, packets):
        if len(times) and times[-1] >= len(packets):
            raise ValueError(f"A clip of {len(packets)} frames has no frame {times[-1]}.")
        size = stream.codec_context.height, stream.codec_context.width, 3
        if out.shape[1:] != size:
            raise ValueError(f"A clip has frames {size}, expected {out.shape[1:]}.")
        _decode_into(out, stream, packets, times)
        return len(packets)


@contextmanager
def open_clip(data: bytes) -> Iterator[tuple[av.VideoStream, list[av.Packet]]]:
    """Opens the video and its packets: one per frame, in the order of the frames (no B-frames).

    Raises:
        ValueError: ``data`` holds no video.
    """
    try:
        # Bytes that are no mp4, a playlist for instance, could make FFmpeg open other files.
        options = {"protocol_whitelist": ""}
        with av.open(io.BytesIO(data), "r", format="mp4", options=options) as container:
            stream = container.streams.video[0]
            if stream.codec_context is None:
                raise ValueError(f"A clip of {len(data)} bytes has an unknown codec.")
            stream.codec_context.thread_count = 1
            packets = [packet for packet in container.demux(stream) if packet.size]
            if not packets:
                raise ValueError(f"A clip of {len(data)} bytes holds no frames.")
            yield stream, packets
    except (av.FFmpegError, IndexError) as error:
        raise ValueError(f"A clip of {len(data)} bytes does not decode: {error}") from error


def _decode_into(
    out: np.ndarray, stream: av.VideoStream, packets: Sequence[av.Packet], times: Sequence[int]
) -> None:
    height, width = out.shape[1:3]
    to_rgb = VideoReformatter()
    row = 0
    for time, frame in _decoded(stream.codec_context, packets, times):
        if time != times[row]:
            continue
        rgb = to_rgb.reformat(frame, format="rgb24", interpolation=_EXACT, threads=1)
        plane = rgb.planes[0]
        # FFmpeg pads its rows. Reading the plane itself saves the copy that `to_ndarray` would
        # make.
        lines = np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)
        out[row] = lines[:height, : width * 3].reshape(height, width, 3)
        row += 1
    if row < len(times):
        raise ValueError(f"Frame {times[row]} of a clip does not decode.")


def _decoded(
    context: av.VideoCodecContext, packets: Sequence[av.Packet], times: Sequence[int]
) -> Iterator[tuple[int, av.VideoFrame]]:
    """Yields every frame that must be decoded to reach those at ``times``, with its number."""
    starts = [t for t, packet in enumerate(packets) if packet.is_keyframe or t == 0]
    last_of_group = {bisect_right(starts, time) - 1: time for time in times}
    fed = [t for group, last in last_of_group.items() for t in range(starts[group], last + 1)]

    def frames() -> Iterator[av.VideoFrame]:
        for t in fed:
            yield from context.decode(packets[t])
        yield from context.decode(None)

    # A damaged clip gives fewer frames than packets. `_decode_into` names the first missing frame.
    yield from zip(fed, frames(), strict=False)
