"""Signs of damage that FFmpeg's decoders can be made to show, codec by codec."""

import logging
from collections.abc import Iterator
from typing import cast

import av
import numpy as np
from av.codec.context import Flags, ThreadType
from av.packet import Packet
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.plane import VideoPlane
from av.video.stream import VideoStream

from lafp.video.damage import Shows

# libvpx notices 97 of 100 overwritten bytes in VP9 where FFmpeg's own decoder notices 19.
STRICTER_DECODERS = {"vp9": "libvpx-vp9"}
# What share of damaged packets shows: of HEVC and VP8 a quarter, where not said nine of ten.
SHOWS: dict[str, Shows] = {"av1": "all", "vp9": "all", "hevc": "little", "vp8": "little"}
# Off by default in FFmpeg. "aggressive" refuses sound MPEG-4 of old encoders, and "explode" loses
# frames that were decoded before: the log tells the same.
_CHECKS = {"": "crccheck+bitstream+buffer", "h264": "crccheck+aggressive"}


def listen_to_ffmpeg() -> None:
    """Lets FFmpeg log what ``decode`` looks at, and keeps all of it off the terminal."""
    av.logging.set_level(av.logging.INFO)
    av.logging.set_skip_repeated(False)
    logging.getLogger("libav").propagate = False
    logging.getLogger("libav").addHandler(logging.NullHandler())


def checking_context(stream: VideoStream) -> VideoCodecContext:
    """The decoder that notices most damage, with all of its checks on."""
    context = stream.codec_context
    options = {**context.options, "err_detect": _CHECKS.get(context.name, _CHECKS[""])}
    if name := STRICTER_DECODERS.get(context.name):
        stricter = cast(VideoCodecContext, av.CodecContext.create(name, "r"))
        stricter.extradata, stricter.thread_count = context.extradata, 1
        stricter.color_trc = context.color_trc  # only the container knows it
        context = stricter
    context.options = options
    context.flags |= Flags.copy_opaque  # which packet a frame comes from
    return context


def decode(context: VideoCodecContext, packet: Packet) -> tuple[list[VideoFrame], str]:
    """Decodes a packet.

    Returns:
        The frames that come out now; the first sign of damage that FFmpeg raises or logs, or "".
    """
    frames: list[VideoFrame] = []
    sign = ""
    with av.logging.Capture() as messages:
        try:
            frames = context.decode(packet)
        except av.FFmpegError as error:
            sign = f"a packet does not decode: {error.args[1]}"
    for level, _, message in messages:
        if level <= av.logging.WARNING or message.startswith("concealing"):
            sign = sign or f"FFmpeg: {message.strip()}"
    return frames, sign


def vp8_key_damage(packet: Packet, options: dict[str, str]) -> str:
    """What libvpx alone notices, and of a stream's first frame only: so each key frame is one."""
    context = cast(VideoCodecContext, av.CodecContext.create("libvpx", "r"))
    context.thread_count, context.options = 1, options
    return decode(context, packet)[1]


class SliceWiseHevc:
    """Decodes HEVC row by row from the rows' own offsets (WPP, x265's default).

    FFmpeg's plain decoder reads on where the row before has ended. In damaged rows that is another
    place, so the pictures differ: in 13 of 15 files with one overwritten byte that shows.
    """

    def __init__(self, stream: VideoStream, packets: Iterator[Packet]) -> None:
        context = stream.codec_context
        context.thread_count, context.thread_type = 2, ThreadType.SLICE
        self._frames = (frame for packet in packets for frame in decode(context, packet)[0])

    def __call__(self, frame: VideoFrame) -> bool:
        """Whether the next frame of this decoder is another one than ``frame``."""
        other = next(self._frames, None)
        if other is None or other.pts != frame.pts:
            return True
        return any(
            not np.array_equal(_samples(a), _samples(b))
            for a, b in zip(frame.planes, other.planes, strict=True)
        )


def _samples(plane: VideoPlane) -> np.ndarray:
    """uint8 [H, bytes], without the padding of rows."""
    rows = np.frombuffer(memoryview(plane), dtype=np.uint8).reshape(plane.height, plane.line_size)
    bytes_per_sample = 1 if plane.line_size < 2 * plane.width else 2
    return rows[:, : plane.width * bytes_per_sample]
