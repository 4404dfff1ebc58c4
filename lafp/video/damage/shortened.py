"""Says which pieces of a key frame are decoded once more without their end, and by how much.

Damaged data decodes to garbage of another length. Where a decoder does not notice that a slice
needs less data than it has, it is decoded without the last bytes, which a sound one needs.
"""

from collections.abc import Callable, Sequence
from typing import TypeVar

Piece = TypeVar("Piece")

LEFT_OUT_BYTES = 64
"""x265 writes a few bytes behind what a decoder needs. Other encoders may fill up to some
boundary, and garbage hardly ever ends so close to the end."""
_MOST = 8
"""A picture may have hundreds of slices, and each costs a decoding."""


def to_shorten(pieces: Sequence[Piece], num_bytes: Callable[[Piece], int]) -> Sequence[Piece]:
    """Returns the pieces that are long enough, or eight of them, spread over the frame."""
    long = [piece for piece in pieces if num_bytes(piece) > 2 * LEFT_OUT_BYTES]
    return long[:: -(-len(long) // _MOST) or 1]
