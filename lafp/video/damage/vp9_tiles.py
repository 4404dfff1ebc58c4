"""Finds damaged VP9 frames: their tiles do not end where they should.

libvpx ends each tile of a frame, and its compressed header, with 8 to 24 zero bits after the last
symbol. Damaged data decodes to garbage of another length. The parser (``vp9_entropy.c``) is in C,
because symbols are decoded one after another, for which Python is too slow. Without it only libvpx
itself notices damage.
"""

import ctypes
from collections.abc import Iterable
from functools import cache

from av.packet import Packet
from av.video.frame import VideoFrame

from lafp.video.damage.compiled import CompiledParser, library

_BROKEN, _UNLIKE_LIBVPX, _HAS_REST, _ENDS_FAR = 1, 2, 4, 8
_SIGNS = {
    _BROKEN: "a frame's data is broken or too short",
    _UNLIKE_LIBVPX: "a tile does not end as others of the file",
    _HAS_REST: "a tile does not end with its last symbol",
    _ENDS_FAR: "a tile ends before its data",
}
# What other encoders may do: end nearly like libvpx, add many zeros, or leave something else.
_HABITS = (_UNLIKE_LIBVPX, _UNLIKE_LIBVPX | _ENDS_FAR, _UNLIKE_LIBVPX | _HAS_REST)
_NO_TILES = 16  # a packet that only repeats a frame
# libvpx writes 32 zero bits, drops what no decoder needs, and adds a zero byte if the last one
# could be taken for an index of frames.
_FEWEST_SPARE, _MOST_SPARE = 8, 24
# Other encoders may leave more behind the last symbol, but hardly more than this. Garbage does.
_MOST_SPARE_ELSEWHERE = 64
# What the parser says of the bits after the last symbol.
_REST_IS_ZERO, _REST_IS_SET = 0, 2


@cache
def parser() -> ctypes.CDLL | None:
    """Returns the compiled parser, or None if there is none."""
    found = library("vp9_entropy")
    if found is not None:
        found.lafp_vp9_new.restype = ctypes.c_void_p
        found.lafp_vp9_new.argtypes = [ctypes.c_int64]
        found.lafp_vp9_free.argtypes = [ctypes.c_void_p]
        found.lafp_vp9_parse.argtypes = [
            *(ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t),
            ctypes.POINTER(_Ends),
        ]
    return found


class _Ends(ctypes.Structure):
    """Mirrors the structure of vp9_entropy.c: how the tiles and headers of a packet end."""

    _fields_ = [(name, ctypes.c_int32) for name in ("fewest", "most", "rest", "count")]
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
        # libvpx, as a decoder, refuses these too.
        if ends.fewest < _FEWEST_SPARE:
            return _BROKEN
        has_rest = ends.rest == _REST_IS_SET
        is_like_libvpx = ends.most <= _MOST_SPARE and ends.rest == _REST_IS_ZERO
        return (
            _UNLIKE_LIBVPX * (not is_like_libvpx)
            + _HAS_REST * has_rest
            + _ENDS_FAR * (ends.most > _MOST_SPARE_ELSEWHERE)
        )


def usual_signs(packets: Iterable[bytes], max_pixels: int) -> int:
    """Returns the signs that a file's encoder leaves in sound frames, so that they tell nothing.

    The format only knows zeros behind the last symbol, of any number. Only libvpx is known to add
    as few as it does.

    Args:
        packets: The first packets of the file. No more are read once two of them end as libvpx ends
            them.
        max_pixels: See ``Vp9Parser``.
    """
    vp9 = Vp9Parser(max_pixels)
    found: list[int] = []
    for data in packets:
        signs = vp9.parse(data)
        if signs != _NO_TILES:
            found.append(signs)
        if found.count(0) == 2:
            return 0
    # No two packets: the file is short, damaged from its first key frame on, or of another encoder.
    # Frames of another encoder mostly end near the end of their data, garbage does not.
    if found.count(0) == len(found):
        return 0
    # The most careful habit comes first.
    for usual in _HABITS:
        if 2 * sum(not signs & ~usual for signs in found) >= len(found):
            return usual
    return 0


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
