"""Finds damaged key frames of VP9: their tiles end long before their data.

Damaged data decodes to garbage of another length. libvpx notices if that needs more data than there
is, and if the last tile of a frame needs less. It does not notice if another tile needs less. So
these tiles are decoded once more without their last bytes, which a sound tile needs.

Section numbers are those of the VP9 Bitstream & Decoding Process Specification, version 0.6.
"""

from typing import NamedTuple

from av.packet import Packet
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame

from lafp.video.damage.bits import Bits
from lafp.video.damage.shortened import LEFT_OUT_BYTES, to_shorten
from lafp.video.damage.signs import another_decoder, decode

# The longest header has fewer bytes.
_HEADER_BYTES = 128
_SYNC_CODE = 0x498342
_RGB = 7
_BLOCK_PX = 64
_MIN_TILE_BLOCKS, _MAX_TILE_BLOCKS = 4, 64
# Two of a segment's features have a sign (6.2.11).
_FEATURE_BITS = (8 + 1, 6 + 1, 2, 0)


class Tile(NamedTuple):
    """Says where a tile's data lies in a frame. The four bytes before it hold its size."""

    start: int
    end: int


class Vp9Keys:
    """Checks whether the tiles of VP9 key frames end with their data.

    From a width of 512 pixels on a frame may be in several tiles. A key frame is decoded once more
    for each tile but the last, at most eight times. Frames between key frames cannot be checked,
    because a decoder that has met an error only goes on at a key frame.

    Args:
        context: The first decoder.
        max_pixels: Larger frames are not checked.
    """

    def __init__(self, context: VideoCodecContext, max_pixels: int) -> None:
        self._context, self._max_pixels = context, max_pixels

    def packet_sign(self, packet: Packet) -> str:
        """See ``SecondLook``."""
        frame = _first_frame(bytes(packet))
        for tile in to_shorten(tiles(frame, self._max_pixels), lambda tile: tile.end - tile.start):
            shortened = Packet(_shortened(frame, tile))
            if not decode(another_decoder(self._context), shortened)[1]:
                return "a tile ends before its data"
        return ""

    def frame_sign(self, frame: VideoFrame) -> str:
        """See ``SecondLook``."""
        return ""


def tiles(frame: bytes, max_pixels: int) -> list[Tile]:
    """Finds the tiles of a key frame, but for the last one (6.1, 6.2, 6.4).

    Returns:
        The tiles; none if this is no key frame of 8 bits, is too large, or cannot be read.
    """
    bits = Bits(frame[:_HEADER_BYTES])
    if bits.read(2) != 2:
        return []
    profile = bits.read(1) | bits.read(1) << 1
    shows_another, is_inter = bits.read(1), bits.read(1)
    if profile > 1 or shows_another or is_inter:
        return []
    bits.read(1)  # whether it is shown
    is_resilient = bits.read(1)
    if bits.read(24) != _SYNC_CODE:
        return []
    is_rgb = bits.read(3) == _RGB
    if is_rgb and profile == 0:
        return []
    # The range of the colours; the chroma format and a reserved bit.
    bits.read((0 if is_rgb else 1) + {0: 0, 1: 1 if is_rgb else 3}[profile])
    width_px, height_px = bits.read(16) + 1, bits.read(16) + 1
    if width_px * height_px > max_pixels:
        return []
    if bits.read(1):
        bits.read(32)  # the size at which it is shown
    bits.read((0 if is_resilient else 2) + 2)  # which probabilities it changes
    _skip_loop_filter(bits)
    _skip_quantization(bits)
    _skip_segmentation(bits)
    num_log2 = _read_num_tiles(bits, -(-width_px // _BLOCK_PX))
    num_bytes = bits.read(16)  # of the header of probabilities
    if bits.at > len(bits.text):
        return []
    return _lay_out(frame, -(-bits.at // 8) + num_bytes, 1 << num_log2)


def _skip_loop_filter(bits: Bits) -> None:
    bits.read(6 + 3)
    if bits.read(1) and bits.read(1):
        _skip_optional(bits, 4 + 2, 6 + 1)


def _skip_quantization(bits: Bits) -> None:
    bits.read(8)
    _skip_optional(bits, 3, 4 + 1)


def _skip_segmentation(bits: Bits) -> None:
    if not bits.read(1):
        return
    if bits.read(1):  # a map of segments
        _skip_optional(bits, 7, 8)
        if bits.read(1):
            _skip_optional(bits, 3, 8)
    if bits.read(1):  # features of segments
        bits.read(1)
        for _ in range(8):
            for num_bits in _FEATURE_BITS:
                _skip_optional(bits, 1, num_bits)


def _skip_optional(bits: Bits, num_values: int, num_bits: int) -> None:
    """Skips values before each of which a bit says whether it is there."""
    for _ in range(num_values):
        if bits.read(1):
            bits.read(num_bits)


def _read_num_tiles(bits: Bits, num_blocks: int) -> int:
    """Returns the binary logarithm of the number of tiles, whose limits follow from the width."""
    num_log2 = 0
    while _MAX_TILE_BLOCKS << num_log2 < num_blocks:
        num_log2 += 1
    while num_blocks >> num_log2 + 1 >= _MIN_TILE_BLOCKS and bits.read(1):
        num_log2 += 1
    if bits.read(1):
        num_log2 += 1 + bits.read(1)  # rows
    return num_log2


def _lay_out(frame: bytes, at: int, num_tiles: int) -> list[Tile]:
    found = []
    for _ in range(num_tiles - 1):
        start = at + 4
        at = start + int.from_bytes(frame[at:start], "big")
        if at > len(frame):
            return []
        found.append(Tile(start, at))
    return found


def _shortened(frame: bytes, tile: Tile) -> bytes:
    """Returns the frame without the last bytes of a tile."""
    end = tile.end - LEFT_OUT_BYTES
    size = (end - tile.start).to_bytes(4, "big")
    return frame[: tile.start - 4] + size + frame[tile.start : end] + frame[tile.end :]


def _first_frame(data: bytes) -> bytes:
    """Returns the first frame of a packet, which may hold several (Annex B)."""
    marker = data[-1] if data else 0
    if marker & 0b11100000 != 0b11000000:
        return data
    num_frames, num_bytes = 1 + (marker & 7), 1 + (marker >> 3 & 3)
    index = data[-2 - num_frames * num_bytes :]
    if index[0] != marker:
        return data
    return data[: int.from_bytes(index[1 : 1 + num_bytes], "little")]
