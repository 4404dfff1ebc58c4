"""Decodes HEVC a second time in another way. Of sound files both ways give the same pictures."""

from collections import deque
from collections.abc import Iterator
from random import Random
from typing import Literal

import numpy as np
from av.codec.context import Flags, ThreadType
from av.packet import Packet
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.plane import VideoPlane

from lafp.video.damage.shortened import LEFT_OUT_BYTES, to_shorten
from lafp.video.damage.signs import another_decoder, decode
from lafp.video.damage.units import spans_of_units

# Any bytes but zeros, which could look like the beginning of another unit.
_MORE = bytes(Random(0).choices(range(1, 256), k=64))
_NEW: Literal["new_extradata"] = "new_extradata"
_FIRST_PARAMETER_SET = 32
"""Units of lower types are slices (ITU-T H.265, table 7-1)."""


class _Twin:
    """Decodes with another decoder, and compares its frames with those of the first decoder."""

    _unequal = ""
    """The sign of damage if two frames differ."""

    def __init__(self, context: VideoCodecContext) -> None:
        self._decoder = another_decoder(context)
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
        return self._unequal


class RowWiseHevc(_Twin):
    """Decodes HEVC row by row from the rows' own offsets (WPP, x265's default).

    FFmpeg's plain decoder starts a row where the row before ended. In a damaged row that is another
    place, so the pictures of the two decoders differ from there on.
    """

    _unequal = "rows do not begin where the rows before them end"

    def __init__(self, context: VideoCodecContext) -> None:
        super().__init__(context)
        # FFmpeg reads the rows' own offsets only if several slice threads decode.
        self._decoder.thread_count, self._decoder.thread_type = 2, ThreadType.SLICE


class HevcSliceEnds(_Twin):
    """Decodes HEVC with more data behind each slice, and key frames with less.

    Damaged data decodes to garbage of another length, and FFmpeg does not notice. If the garbage
    needs more data than there is, other data behind it gives other pictures. If it needs less, a
    picture does not change without the last bytes of its data. Sound slices say where they end, so
    no data behind them count, and they need their last bytes. The second way is taken for key
    frames only, because the next pictures depend on a changed one.

    Args:
        context: The first decoder, of a file whose units have their size before them (``hvcC``).
    """

    _unequal = "a slice does not end with its data"

    def __init__(self, context: VideoCodecContext) -> None:
        super().__init__(context)
        self._context, self._extradata = context, context.extradata
        self._num_length_bytes = 1 + ((context.extradata or b"")[21] & 3)

    def packet_sign(self, packet: Packet) -> str:
        """See ``SecondLook``."""
        if not packet.size:  # no more packets: the frames that are held back come out
            return super().packet_sign(packet)
        if packet.has_sidedata(_NEW):  # another part of the file, with other parameter sets
            self._extradata = bytes(packet.get_sidedata(_NEW))
        units = self._units(bytes(packet))
        longer = Packet(self._joined([u + _MORE if _is_slice(u) else u for u in units]))
        longer.opaque, longer.pts, longer.dts = packet.opaque, packet.pts, packet.dts
        for data in packet.iter_sidedata():
            longer.set_sidedata(data)
        super().packet_sign(longer)
        if not packet.is_keyframe or (picture := self._alone(bytes(packet))) is None:
            return ""
        others = map(self._alone, self._shortened(units))
        is_same = any(other and have_equal_samples(picture, other) for other in others)
        return self._unequal if is_same else ""

    def _shortened(self, units: list[bytes]) -> Iterator[bytes]:
        """Yields copies of a packet, in each of which another slice is shortened."""
        slices = [i for i, unit in enumerate(units) if _is_slice(unit)]
        for i in to_shorten(slices, lambda i: len(units[i])):
            yield self._joined([*units[:i], units[i][:-LEFT_OUT_BYTES], *units[i + 1 :]])

    def _alone(self, data: bytes) -> VideoFrame | None:
        """Decodes a key frame; None if the decoder shows a sign of damage."""
        decoder = another_decoder(self._context)
        decoder.extradata = self._extradata
        frames, sign = decode(decoder, Packet(data))
        last, last_sign = decode(decoder, None)
        frames += last
        return frames[0] if frames and not sign and not last_sign else None

    def _units(self, data: bytes) -> list[bytes]:
        return [data[start:end] for start, end in spans_of_units(data, self._num_length_bytes)]

    def _joined(self, units: list[bytes]) -> bytes:
        size = self._num_length_bytes
        return b"".join(len(u).to_bytes(size, "big") + u for u in units if len(u) < 256**size)


def _is_slice(unit: bytes) -> bool:
    return bool(unit) and unit[0] >> 1 & 63 < _FIRST_PARAMETER_SET


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
