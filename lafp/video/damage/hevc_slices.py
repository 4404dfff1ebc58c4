"""Finds damaged HEVC pictures: their slices do not end where their data ends.

A sound slice says that it ends exactly where its data ends, and the slices of a packet cover its
picture. Damaged data decodes to garbage of another length, which FFmpeg hardly ever notices. The
parser (``hevc_entropy.c``) is in C, because symbols are decoded one after another, for which Python
is too slow. It decodes no pictures, so it also checks pictures whose references are damaged.
"""

import ctypes
from functools import cache
from typing import Literal

from av.packet import Packet
from av.video.frame import VideoFrame

from lafp.video.damage.compiled import CompiledParser, library

# The numbers of hevc_sets.h.
_SIGNS = {
    1: "units do not fill their packet",
    2: "a parameter set is broken",
    3: "a slice's header is broken",
    4: "slices do not cover their picture",
    5: "a slice holds an impossible code",
    6: "a slice does not end with its data",
}
_NEW: Literal["new_extradata"] = "new_extradata"


@cache
def parser() -> ctypes.CDLL | None:
    """Returns the compiled parser, or None if there is none."""
    return library("hevc", [ctypes.c_int64], read_sets=[], parse=[])


class HevcParser(CompiledParser):
    """Parses the packets of an HEVC stream in turn.

    Args:
        extradata: The file's parameter sets: ``hvcC``, or units with start codes.
        max_pixels: Limit of width x height. Larger pictures count as damaged.
    """

    def __init__(self, extradata: bytes, max_pixels: int) -> None:
        super().__init__(parser(), "lafp_hevc", max_pixels)
        self.is_supported = self.read_sets(extradata) == 0
        """Whether the parameter sets can be read, and name only tools that are parsed."""

    def read_sets(self, extradata: bytes) -> int:
        """Reads other parameter sets; returns a number like ``parse``."""
        return int(self._library.lafp_hevc_read_sets(self._state, extradata, len(extradata)))

    def parse(self, data: bytes) -> int:
        """Returns the sign of damage in a packet; 0 if it is sound, less if that is not known."""
        return int(self._library.lafp_hevc_parse(self._state, data, len(data)))


class HevcSlices:
    """Checks whether HEVC slices end with their data, and cover their pictures.

    Args:
        parser: Has read the parameter sets of the file.
    """

    def __init__(self, parser: HevcParser) -> None:
        self._parser = parser

    def packet_sign(self, packet: Packet) -> str:
        """See ``SecondLook``."""
        if not packet.size:
            return ""
        if packet.has_sidedata(_NEW):  # another part of the file, with other parameter sets
            self._parser.read_sets(bytes(packet.get_sidedata(_NEW)))
        return _SIGNS.get(self._parser.parse(bytes(packet)), "")

    def frame_sign(self, frame: VideoFrame) -> str:
        """See ``SecondLook``."""
        return ""


def of_file(extradata: bytes, max_pixels: int) -> HevcSlices | None:
    """Returns the check of a file; None if there is no parser, or it does not know what is used.

    Args:
        extradata: See ``HevcParser``.
        max_pixels: See ``HevcParser``.
    """
    if parser() is None:
        return None
    hevc = HevcParser(extradata, max_pixels)
    return HevcSlices(hevc) if hevc.is_supported else None
