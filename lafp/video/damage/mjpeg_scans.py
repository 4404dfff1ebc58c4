"""Finds damaged JPEG pictures in videos: their codes break rules that encoders keep.

FFmpeg decodes a JPEG picture until it has all blocks, and does not mind what is left. The parser
(``mjpeg_entropy.c``) checks that the last code of every restart interval lies where the data ends,
and that pixels lie within their range. Damage that changes a code for one of the same length, and
moves pixels only a little, shows in neither. Such damage is a fifth of all visible damage. So where
much is damaged, seams between blocks count too (``seams.py``).
"""

import ctypes
from collections import Counter, deque
from collections.abc import Iterable
from functools import cache

from av.packet import Packet
from av.video.frame import VideoFrame

from lafp.video.damage.compiled import CompiledParser, library
from lafp.video.damage.seams import Seams

# The numbers of mjpeg_entropy.c, those that break the rules first.
_SIGNS = {
    1: "a picture's header is broken",
    2: "a picture holds an invalid code",
    4: "a picture has more blocks than data",
    8: "a restart marker is missing",
    16: "a picture's data does not end with its last block",
    32: "the padding of a picture's data is neither zeros nor ones",
    64: "a picture has pixels out of range",
}
# Pictures with these signs break the rules. 128 marks a packet without a picture.
_UNPARSED = 1 | 2 | 4 | 8 | 128
# Seams count if more than 10 % of the last 50 pictures show damage. Below that share, fewer than
# 2 % of the other pictures hide visible damage.
_NUM_RECENT, _MUCH_DAMAGE = 50, 0.1
# In clips that were coded anew 10 % of the sound pictures have larger seams, and 82 % of those with
# hidden visible damage.
_MOST_TIMES = 2.25


@cache
def parser() -> ctypes.CDLL | None:
    """Returns the compiled parser, or None if there is none."""
    return library("mjpeg", [], parse=[])


class MjpegParser(CompiledParser):
    """Parses packets of a JPEG video in turn. Huffman tables stay from picture to picture."""

    def __init__(self) -> None:
        super().__init__(parser(), "lafp_mjpeg")

    def parse(self, data: bytes) -> int:
        """Returns the signs of damage in a packet's pictures: a sum of powers of two."""
        return int(self._library.lafp_mjpeg_parse(self._state, data, len(data)))


def usual_signs(packets: Iterable[bytes]) -> int:
    """Returns the signs that a file's encoder leaves in sound pictures, so that they tell nothing.

    Some hardware fills the data up with extra bytes, for example. If no picture can be parsed, it
    is of a kind that the parser does not know, such as progressive JPEG, and no sign counts.

    Args:
        packets: The first packets of the file.
    """
    jpeg = MjpegParser()
    found = Counter(jpeg.parse(data) for data in packets)
    parsed = {signs: num for signs, num in found.items() if not signs & _UNPARSED}
    num_parsed = sum(parsed.values())
    if not num_parsed:
        return sum(_SIGNS)
    # Damage leaves the same sign in few of the pictures that break no rule.
    shows = {sign: sum(n for signs, n in parsed.items() if signs & sign) for sign in _SIGNS}
    return sum(sign for sign, num in shows.items() if 2 * num > num_parsed)


class MjpegScans:
    """Checks the data of JPEG pictures.

    Args:
        usual: Signs that do not count, see ``usual_signs``.
    """

    def __init__(self, usual: int) -> None:
        self._parser = MjpegParser()
        self._usual = usual
        self._recent: deque[bool] = deque(maxlen=_NUM_RECENT)
        self._seams = Seams(_MOST_TIMES)

    def packet_sign(self, packet: Packet) -> str:
        """See ``SecondLook``."""
        signs = self._parser.parse(bytes(packet)) & ~self._usual if packet.size else 0
        if packet.size:
            self._recent.append(signs > 0)
        return next((text for sign, text in _SIGNS.items() if signs & sign), "")

    def frame_sign(self, frame: VideoFrame) -> str:
        """See ``SecondLook``."""
        num_damaged = sum(self._recent)
        if not num_damaged:
            self._seams = Seams(_MOST_TIMES)
            return ""
        is_torn = self._seams.is_torn(frame)
        is_likely = num_damaged > max(1, _MUCH_DAMAGE * len(self._recent))
        return "blocks do not fit together" if is_torn and is_likely else ""
