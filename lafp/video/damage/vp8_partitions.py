"""Finds damaged VP8 frames: their partitions do not end where they should.

libvpx ends each partition with 8 to 16 zero bits after the last symbol. Damaged data decodes to
garbage of another length. The parser (``vp8_entropy.c``) is in C, because symbols are decoded one
after another, for which Python is too slow. Without it VP8 is checked less well.
"""

import ctypes
from collections.abc import Iterable
from functools import cache

from av.packet import Packet
from av.video.frame import VideoFrame

from lafp.video.damage.compiled import CompiledParser, library

_MAX_PARTITIONS = 9
_PIXELS_PER_BLOCK = 16 * 16
# Bits after the last symbol. libvpx writes 32 zero bits and drops what no decoder needs.
_FEWEST_SPARE, _MOST_SPARE = 8, 16
# Other encoders may end in other ways, but hardly further from the end than this. Garbage does.
_MOST_SPARE_ELSEWHERE = 64


@cache
def parser() -> ctypes.CDLL | None:
    """Returns the compiled parser, or None if there is none."""
    numbers = ctypes.POINTER(ctypes.c_int32)
    return library("vp8", [ctypes.c_int], parse=[numbers, numbers])


class Vp8Parser(CompiledParser):
    """Parses the frames of a VP8 stream in turn, from a key frame on.

    Args:
        max_pixels: Limit of width x height. Larger frames count as damaged.
    """

    def __init__(self, max_pixels: int) -> None:
        self._spare_bits = (ctypes.c_int32 * _MAX_PARTITIONS)()
        self._has_rest = (ctypes.c_int32 * _MAX_PARTITIONS)()
        # Sides are rounded up to whole macroblocks, of which VP8 has at most 1024: it stores sides
        # in 14 bits.
        max_blocks = min(max_pixels // _PIXELS_PER_BLOCK + 2048, 1 << 20)
        super().__init__(parser(), "lafp_vp8", max_blocks)

    def parse(self, data: bytes) -> list[tuple[int, bool]] | None:
        """Parses a frame.

        Returns:
            For each partition the number of bits after its last symbol, and whether one of them is
            set; None if the frame cannot be parsed.
        """
        args = (self._state, data, len(data), self._spare_bits, self._has_rest)
        count = self._library.lafp_vp8_parse(*args)
        if count < 0:
            return None
        return [(self._spare_bits[i], bool(self._has_rest[i])) for i in range(count)]


def is_of_libvpx(frames: Iterable[bytes], max_pixels: int) -> bool:
    """Says whether frames end as libvpx ends them, apart from damaged ones.

    Args:
        frames: The frames of a file from its first key frame on. No more are read once two frames
            end as libvpx ends them.
        max_pixels: See ``Vp8Parser``.
    """
    vp8 = Vp8Parser(max_pixels)
    num_frames = num_padded = num_near = 0
    for data in frames:
        ends = vp8.parse(data)
        num_frames += 1
        num_padded += _are_padded(ends)
        num_near += _are_near(ends)
        if num_padded == 2:
            return True
    # No two frames: the file is short, damaged from its first key frame on, or of another encoder.
    # Frames of another encoder mostly end near the end of their data, garbage does not.
    return num_padded == num_frames or 2 * num_near < num_frames


class Vp8Partitions:
    """Checks whether the partitions of VP8 frames of libvpx end with their data.

    Args:
        max_pixels: See ``Vp8Parser``.
    """

    def __init__(self, max_pixels: int) -> None:
        self._parser = Vp8Parser(max_pixels)

    def packet_sign(self, packet: Packet) -> str:
        """See ``SecondLook``."""
        if not packet.size or _are_padded(self._parser.parse(bytes(packet))):
            return ""
        return "a frame's data does not end with its last symbol"

    def frame_sign(self, frame: VideoFrame) -> str:
        """See ``SecondLook``."""
        return ""


def _are_padded(ends: list[tuple[int, bool]] | None) -> bool:
    return ends is not None and all(
        _FEWEST_SPARE <= spare <= _MOST_SPARE and not has_rest for spare, has_rest in ends
    )


def _are_near(ends: list[tuple[int, bool]] | None) -> bool:
    return ends is not None and all(abs(spare) <= _MOST_SPARE_ELSEWHERE for spare, _ in ends)
