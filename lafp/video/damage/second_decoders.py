"""Runs second decoders, which see damage that the first decoder does not notice."""

from collections.abc import Callable
from contextlib import suppress
from typing import Protocol, cast

import av
from av.packet import Packet
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame

from lafp.video.damage import hevc_slices, mjpeg_scans, vp9_tiles
from lafp.video.damage.h264_sps import is_sps, with_higher_pictures
from lafp.video.damage.seams import Seams
from lafp.video.damage.signs import CHECKS, decode
from lafp.video.damage.vp8_partitions import Vp8Partitions
from lafp.video.decoders.base import VideoInfo

# Skipped macroblocks cost almost no bits, so garbage could fill one added row without an error. It
# cannot fill this many macroblocks before the slice or the data ends.
_MACROBLOCKS_BEYOND = 1500
# Up to 11 % of the sound groups of pictures of MPEG-2 have larger seams, and half of those with
# hidden visible damage. MPEG-4 hides less, and a quarter of its sound groups would be lost.
_MOST_TIMES, _MUCH_DAMAGE = 4.0, 0.1


class SecondLook(Protocol):
    """Checks packets and frames beside the first decoder, from a key frame on."""

    def packet_sign(self, packet: Packet) -> str:
        """Takes a packet before the first decoder does. Returns a sign of damage in it, or ""."""
        ...

    def frame_sign(self, frame: VideoFrame) -> str:
        """Takes a frame of the first decoder. Returns a sign of damage in it, or ""."""
        ...


def second_look(
    info: VideoInfo,
    context: VideoCodecContext,
    is_suspect: bool,
    damaged_share: Callable[[], float],
) -> SecondLook | None:
    """Returns the second decoder of a file, or None.

    Args:
        info: The probe's result.
        context: The first decoder.
        is_suspect: Whether the file has shown damage, which justifies the most expensive check.
        damaged_share: Returns the share of the last groups of pictures that showed damage.
    """
    if info.codec == "hevc":
        return hevc_slices.of_file(context.extradata or b"", info.max_pixels)
    if info.codec == "vp8":
        return Vp8Partitions(info.max_pixels) if info.is_of_libvpx else KeysOfVp8(context)
    if info.codec == "vp9" and vp9_tiles.parser() is not None:
        return vp9_tiles.Vp9Tiles(info.max_pixels, info.usual_signs)
    if info.codec == "mjpeg" and mjpeg_scans.parser() is not None:
        return mjpeg_scans.MjpegScans(info.usual_signs)
    if info.codec in ("mpeg1video", "mpeg2video"):
        return TornBlocks(damaged_share)
    # This check costs nearly as much as decoding, so it is for files that have shown damage.
    return SliceEnds(context) if info.codec == "h264" and is_suspect else None


def shows_little(info: VideoInfo, context: VideoCodecContext) -> bool:
    """Says whether most damage of a file escapes both the first and the second decoder."""
    if info.codec == "vp8":
        return not info.is_of_libvpx
    look = hevc_slices.of_file
    return info.codec == "hevc" and look(context.extradata or b"", info.max_pixels) is None


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


class TornBlocks:
    """Checks whether blocks fit together, where much of a file of MPEG-1 or MPEG-2 is damaged.

    Their decoders often regain their position after damage, so that no error follows.
    """

    def __init__(self, damaged_share: Callable[[], float]) -> None:
        self._damaged_share, self._seams = damaged_share, Seams(_MOST_TIMES)

    def packet_sign(self, packet: Packet) -> str:
        """See ``SecondLook``."""
        return ""

    def frame_sign(self, frame: VideoFrame) -> str:
        """See ``SecondLook``."""
        share = self._damaged_share()
        if not share:  # most files show no damage, and seams cost as much as decoding
            return ""
        is_torn = self._seams.is_torn(frame)
        return "blocks do not fit together" if is_torn and share > _MUCH_DAMAGE else ""


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
