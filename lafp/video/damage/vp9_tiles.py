"""Finds damaged VP9 frames: their tiles do not end where they should.

After the last symbol of a tile, or of a frame's compressed header, there are a few bits of zeros.
Damaged data decodes to garbage of another length. The parser (``vp9_entropy.c``) is in C, because
symbols are decoded one after another, for which Python is too slow. Without it only libvpx itself
notices damage.
"""

import ctypes
from collections.abc import Iterable
from functools import cache, reduce
from operator import or_

from av.packet import Packet
from av.video.frame import VideoFrame

from lafp.video.damage.compiled import CompiledParser, library

_BROKEN, _ENDS_FAR, _HAS_REST, _HAS_ZEROS, _HAS_VALUE = 1, 2, 4, 8, 16
_SIGNS = {
    _BROKEN: "a frame's data is broken or too short",
    _ENDS_FAR: "a tile ends before its data",
    _HAS_REST: "a tile does not end with its last symbol",
    _HAS_ZEROS: "a tile ends in too many zeros",
    _HAS_VALUE: "a tile does not end as others of the file",
}
_NO_TILES = 32  # a packet that only repeats a frame
# An encoder shows these if it leaves something else than zeros.
_CARELESS = _HAS_REST | _HAS_VALUE
# A decoder compares so many bits, and libvpx refuses a tile that holds fewer after its last symbol.
_FEWEST_SPARE = 8
# libvpx as an encoder adds at most 24. Hardware may fill up to some boundary.
_MOST_ZEROS = 8 * 64
# Another encoder may leave something else, but hardly more than this. Garbage leaves more.
_MOST_REST = 64
# The parser says this of the bits after the last symbol.
_REST_OF_VALUE, _REST_OF_DATA = 1, 2


@cache
def parser() -> ctypes.CDLL | None:
    """Returns the compiled parser, or None if there is none."""
    return library("vp9", [ctypes.c_int64], parse=[ctypes.POINTER(_Ends)])


class _Ends(ctypes.Structure):
    """Mirrors the structure of vp9_entropy.c: how the tiles and headers of a packet end."""

    _fields_ = [(name, ctypes.c_int64) for name in ("fewest", "most", "rest", "count")]
    fewest: int
    most: int
    rest: int
    count: int


class Vp9Parser(CompiledParser):
    """Parses the packets of a VP9 stream in turn, from a key frame on.

    Args:
        max_pixels: Limit of width x height. Larger frames count as damaged.
    """

    def __init__(self, max_pixels: int) -> None:
        self._ends = _Ends()
        super().__init__(parser(), "lafp_vp9", max_pixels)

    def parse(self, data: bytes) -> int:
        """Returns the signs of damage in a packet's frames: a sum of powers of two."""
        ends = self._ends
        if self._library.lafp_vp9_parse(self._state, data, len(data), ctypes.byref(ends)):
            return _BROKEN
        if not ends.count:
            return _NO_TILES
        if ends.fewest < _FEWEST_SPARE:
            return _BROKEN
        if ends.rest == _REST_OF_DATA:
            return _HAS_REST | _ENDS_FAR * (ends.most > _MOST_REST)
        has_value = ends.rest == _REST_OF_VALUE
        return _HAS_VALUE * has_value | _HAS_ZEROS * (ends.most > _MOST_ZEROS)


def usual_signs(packets: Iterable[bytes], max_pixels: int) -> int:
    """Returns the signs that a file's encoder leaves in sound frames, so that they tell nothing.

    The format only knows zeros behind the last symbol, but of any number, and does not say which of
    the values that mean the last symbol is to be written. libvpx writes the lowest one.

    Args:
        packets: The first packets of the file. No more are read once two more end as libvpx ends
            them than with another value or more zeros.
        max_pixels: See ``Vp9Parser``.
    """
    vp9 = Vp9Parser(max_pixels)
    found: list[int] = []
    in_zeros: list[int] = []
    for data in packets:
        signs = vp9.parse(data)
        if signs != _NO_TILES:
            found.append(signs)
        # Damage hardly ever leaves only zeros, so such an end is a habit.
        in_zeros = [signs for signs in found if not signs & (_BROKEN | _HAS_REST)]
        if 2 * in_zeros.count(0) == len(in_zeros) + 2:
            return 0
    # The file is short, damaged from its first key frame on, or of another encoder. Frames of
    # another encoder mostly end in zeros or near the end of their data, garbage does not.
    if 2 * len(in_zeros) >= len(found):
        return reduce(or_, in_zeros, 0)
    return _CARELESS if 2 * sum(not s & ~_CARELESS for s in found) >= len(found) else 0


class Vp9Tiles:
    """Checks whether the tiles of VP9 frames end with their data.

    Args:
        max_pixels: See ``Vp9Parser``.
        usual: Signs that do not count, see ``usual_signs``.
    """

    def __init__(self, max_pixels: int, usual: int) -> None:
        self._parser = Vp9Parser(max_pixels)
        self._usual = usual

    def packet_sign(self, packet: Packet) -> str:
        """See ``SecondLook``."""
        signs = self._parser.parse(bytes(packet)) & ~self._usual if packet.size else 0
        return next((text for sign, text in _SIGNS.items() if signs & sign), "")

    def frame_sign(self, frame: VideoFrame) -> str:
        """See ``SecondLook``."""
        return ""
