"""Second decoders, which see damage that the first one does not notice."""

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

from lafp.video.damage.h264_sps import is_sps, with_higher_pictures
from lafp.video.damage.hevc_pps import has_wavefronts
from lafp.video.damage.signs import CHECKS, decode

# Garbage that skips macroblocks costs next to no bits: so many it cannot skip without an end of the
# slice or of the data. A single row it could, and nothing would be missing.
_MACROBLOCKS_BEYOND = 1500


class SecondLook(Protocol):
    """Goes along with the first decoder, from a key frame on."""

    def packet_damage(self, packet: Packet) -> str:
        """Takes a packet before the first decoder does. A sign of damage in it, or ""."""
        ...

    def frame_damage(self, frame: VideoFrame) -> str:
        """Takes a frame of the first decoder. A sign of damage in it, or ""."""
        ...


def second_look(codec: str, context: VideoCodecContext, is_suspect: bool) -> SecondLook | None:
    """The one for a codec, if there is one.

    Args:
        codec: Its canonical name.
        context: The first decoder.
        is_suspect: The file has shown damage: then what costs most is worth it.
    """
    if codec == "hevc" and has_wavefronts(context.extradata or b""):
        return RowWiseHevc(context)
    if codec == "vp8":
        return KeysOfVp8(context)
    return SliceEnds(context) if codec == "h264" and is_suspect else None


def shows_little(codec: str, context: VideoCodecContext) -> bool:
    """Whether most damage is not seen, neither by the first decoder nor by the second."""
    return codec == "vp8" or (codec == "hevc" and not has_wavefronts(context.extradata or b""))


class SliceEnds:
    """H.264: whether slices end where their data ends. Costs nearly as much as decoding.

    Damaged CABAC decodes on to garbage, but nearly never says "end of slice" just at the last
    macroblock. FFmpeg does not look there: it has all macroblocks, so it stops. Told that pictures
    are higher, it goes on and reports what it must conceal, unless the stream itself says that the
    slice ends. Those pictures are worth nothing.

    It knows parameter sets from the container only, as in MP4 and Matroska, and no interlaced
    video: of others it says nothing.
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
            "skip_bottom": str(num_rows),  # that these rows never come is no error
            "skip_loop_filter": "all",
        }

    def packet_damage(self, packet: Packet) -> str:
        """See ``SecondLook``."""
        if self._decoder is None:
            return ""
        with av.logging.Capture() as messages, suppress(av.FFmpegError):
            self._decoder.decode(self._without_sps(packet))
        is_concealed = any(message.startswith("concealing") for _, _, message in messages)
        return "a slice does not end with its data" if is_concealed else ""

    def frame_damage(self, frame: VideoFrame) -> str:
        """See ``SecondLook``."""
        return ""

    def _without_sps(self, packet: Packet) -> Packet:
        """Without parameter sets, which would tell the true height."""
        data, kept, at, size = bytes(packet), b"", 0, self._num_length_bytes
        while at + size < len(data):
            end = at + size + int.from_bytes(data[at : at + size], "big")
            if not is_sps(data[at + size]):
                kept += data[at:end]
            at = end
        return packet if len(kept) == len(data) else Packet(kept)


class RowWiseHevc:
    """HEVC, decoded row by row from the rows' own offsets (WPP, x265's default).

    FFmpeg's plain decoder reads on where the row before has ended. In a damaged row that is another
    place, so the pictures differ from there on.
    """

    def __init__(self, context: VideoCodecContext) -> None:
        self._decoder = cast(VideoCodecContext, av.CodecContext.create("hevc", "r"))
        self._decoder.extradata = context.extradata
        self._decoder.thread_count, self._decoder.thread_type = 2, ThreadType.SLICE
        self._decoder.options = dict(context.options)
        self._decoder.flags |= Flags.copy_opaque
        # As many as FFmpeg may hold back, and some.
        self._frames: deque[VideoFrame] = deque(maxlen=32)

    def packet_damage(self, packet: Packet) -> str:
        """See ``SecondLook``."""
        self._frames += decode(self._decoder, packet)[0]
        return ""

    def frame_damage(self, frame: VideoFrame) -> str:
        """See ``SecondLook``."""
        while self._frames:
            other = self._frames.popleft()
            if other.opaque is frame.opaque:
                pairs = zip(frame.planes, other.planes, strict=True)
                if all(np.array_equal(_samples(a), _samples(b)) for a, b in pairs):
                    return ""
                break
        return "rows do not begin where the rows before them end"


def _samples(plane: VideoPlane) -> np.ndarray:
    """uint8 [H, bytes], without the padding of rows."""
    rows = np.frombuffer(memoryview(plane), dtype=np.uint8).reshape(plane.height, plane.line_size)
    bytes_per_sample = 1 if plane.line_size < 2 * plane.width else 2
    return rows[:, : plane.width * bytes_per_sample]


class KeysOfVp8:
    """What libvpx alone notices, and of a stream's first frame only: so each key frame is one."""

    def __init__(self, context: VideoCodecContext) -> None:
        self._options = dict(context.options)

    def packet_damage(self, packet: Packet) -> str:
        """See ``SecondLook``."""
        if not packet.is_keyframe:
            return ""
        decoder = cast(VideoCodecContext, av.CodecContext.create("libvpx", "r"))
        decoder.thread_count, decoder.options = 1, self._options
        return decode(decoder, packet)[1]

    def frame_damage(self, frame: VideoFrame) -> str:
        """See ``SecondLook``."""
        return ""
