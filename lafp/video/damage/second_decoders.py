"""Runs second decoders, which see damage that the first decoder does not notice."""

from collections import deque
from contextlib import suppress
from typing import Protocol, cast

import av
import numpy as np
from av.codec.context import Flags, ThreadType
from av.packet import Packet
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.plane import VideoPlane

from lafp.video.damage import mjpeg_scans
from lafp.video.damage.h264_sps import is_sps, with_higher_pictures
from lafp.video.damage.hevc_pps import has_wavefronts
from lafp.video.damage.signs import CHECKS, decode
from lafp.video.damage.vp8_partitions import Vp8Partitions
from lafp.video.damage.vp9_keys import Vp9Keys
from lafp.video.decoders.base import VideoInfo

# Skipped macroblocks cost almost no bits, so garbage could fill one added row without an error. It
# cannot fill this many macroblocks before the slice or the data ends.
_MACROBLOCKS_BEYOND = 1500


class SecondLook(Protocol):
    """Checks packets and frames beside the first decoder, from a key frame on."""

    def packet_sign(self, packet: Packet) -> str:
        """Takes a packet before the first decoder does. Returns a sign of damage in it, or ""."""
        ...

    def frame_sign(self, frame: VideoFrame) -> str:
        """Takes a frame of the first decoder. Returns a sign of damage in it, or ""."""
        ...


def second_look(info: VideoInfo, context: VideoCodecContext, is_suspect: bool) -> SecondLook | None:
    """Returns the second decoder of a file, or None.

    Args:
        info: The probe's result.
        context: The first decoder.
        is_suspect: Whether the file has shown damage, which justifies the most expensive check.
    """
    # Always, although it costs more than decoding: FFmpeg notices only a third of HEVC's damage.
    if info.codec == "hevc" and has_wavefronts(context.extradata or b""):
        return RowWiseHevc(context)
    if info.codec == "vp8":
        return Vp8Partitions(info.max_pixels) if info.is_of_libvpx else KeysOfVp8(context)
    if info.codec == "vp9":
        return Vp9Keys(context, info.max_pixels)
    if info.codec == "mjpeg" and mjpeg_scans.parser() is not None:
        return mjpeg_scans.MjpegScans(info.usual_signs)
    # This check costs nearly as much as decoding, so it is for files that have shown damage.
    return SliceEnds(context) if info.codec == "h264" and is_suspect else None


def shows_little(info: VideoInfo, context: VideoCodecContext) -> bool:
    """Says whether most damage of a file escapes both the first and the second decoder."""
    if info.codec == "vp8":
        return not info.is_of_libvpx
    return info.codec == "hevc" and not has_wavefronts(context.extradata or b"")


class SliceEnds:
    """Checks whether H.264 slices end where their data ends. Costs nearly as much as decoding.

    Damaged CABAC decodes to garbage, but almost never says "end of slice" exactly at the last
    macroblock. FFmpeg does not check this: it stops once it has all macroblocks. If parameter sets
    claim higher pictures, FFmpeg decodes on and reports the macroblocks that it must conceal,
    unless the stream itself says that the slice ends. The decoded pictures are not used.

    The check works only if the container holds the parameter sets, as in MP4 and Matroska, and only
    for progressive video. For other video it never finds damage.
    """

    def __init__(self, context: VideoCodecContext) -> None:
        self._decoder: VideoCodecContext | None = None
        avcc = context.extradata or b""
        try:
            extradata, num_rows = with_higher_pictures(avcc, _MACROBLOCKS_BEYOND)
        except (ValueError, IndexError):
            return
        self._num_length_bytes = 1 + (avcc[4] & 3)
        self._decoder = cast(VideoCodecContext, av.CodecContext.create("h264", "r"))
        self._decoder.extradata, self._decoder.thread_count = extradata, 1
        self._decoder.options = {
            "err_detect": CHECKS["h264"],
            "skip_bottom": str(num_rows),  # the added rows may be missing without an error
            # The pictures are not used, so they need not be filtered.
            "skip_loop_filter": "all",
        }

    def packet_sign(self, packet: Packet) -> str:
        """See ``SecondLook``."""
        if self._decoder is None:
            return ""
        with av.logging.Capture() as messages, suppress(av.FFmpegError):
            self._decoder.decode(self._without_sps(packet))
        is_concealed = any(message.startswith("concealing") for _, _, message in messages)
        return "a slice does not end with its data" if is_concealed else ""

    def frame_sign(self, frame: VideoFrame) -> str:
        """See ``SecondLook``."""
        return ""

    def _without_sps(self, packet: Packet) -> Packet:
        """Removes parameter sets from a packet, because they would reveal the true height."""
        data, kept, at, size = bytes(packet), b"", 0, self._num_length_bytes
        while at + size < len(data):
            end = at + size + int.from_bytes(data[at : at + size], "big")
            if not is_sps(data[at + size]):
                kept += data[at:end]
            at = end
        return packet if len(kept) == len(data) else Packet(kept)


class RowWiseHevc:
    """Decodes HEVC row by row from the rows' own offsets (WPP, x265's default).

    FFmpeg's plain decoder starts a row where the row before ended. In a damaged row that is another
    place, so the pictures of the two decoders differ from there on.
    """

    def __init__(self, context: VideoCodecContext) -> None:
        self._decoder = cast(VideoCodecContext, av.CodecContext.create("hevc", "r"))
        self._decoder.extradata = context.extradata
        # FFmpeg reads the rows' own offsets only if several slice threads decode.
        self._decoder.thread_count, self._decoder.thread_type = 2, ThreadType.SLICE
        self._decoder.options = dict(context.options)
        self._decoder.flags |= Flags.copy_opaque
        # More frames than FFmpeg holds back.
        self._frames: deque[VideoFrame] = deque(maxlen=32)

    def packet_sign(self, packet: Packet) -> str:
        """See ``SecondLook``."""
        self._frames += decode(self._decoder, packet)[0]
        return ""

    def frame_sign(self, frame: VideoFrame) -> str:
        """See ``SecondLook``."""
        while self._frames:
            other = self._frames.popleft()
            if other.opaque is frame.opaque:
                if have_equal_samples(frame, other):
                    return ""
                break
        return "rows do not begin where the rows before them end"


def have_equal_samples(frame: VideoFrame, other: VideoFrame) -> bool:
    """Says whether two frames of one format hold the same pictures, whatever pads their rows."""
    # Not told by the length of rows: those of narrow pictures are padded to more than twice theirs.
    num_bytes = -(-frame.format.components[0].bits // 8)
    pairs = zip(frame.planes, other.planes, strict=True)
    return all(np.array_equal(_samples(a, num_bytes), _samples(b, num_bytes)) for a, b in pairs)


def _samples(plane: VideoPlane, num_bytes: int) -> np.ndarray:
    """Returns uint8 [H, bytes], without the padding of rows, of samples of ``num_bytes``."""
    rows = np.frombuffer(memoryview(plane), dtype=np.uint8).reshape(plane.height, plane.line_size)
    return rows[:, : plane.width * num_bytes]


class KeysOfVp8:
    """Decodes each VP8 key frame with a new libvpx decoder, for files of other encoders.

    Only libvpx notices some damage, and only in the first frame of a stream. So every key frame
    becomes the first frame of a stream.
    """

    def __init__(self, context: VideoCodecContext) -> None:
        self._options = dict(context.options)

    def packet_sign(self, packet: Packet) -> str:
        """See ``SecondLook``."""
        if not packet.is_keyframe:
            return ""
        decoder = cast(VideoCodecContext, av.CodecContext.create("libvpx", "r"))
        decoder.thread_count, decoder.options = 1, self._options
        return decode(decoder, packet)[1]

    def frame_sign(self, frame: VideoFrame) -> str:
        """See ``SecondLook``."""
        return ""
