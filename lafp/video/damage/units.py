"""Finds the units (NAL units) of H.264 in a packet of MP4 or Matroska."""

from collections.abc import Iterator


def spans_of_units(data: bytes, num_length_bytes: int) -> Iterator[tuple[int, int]]:
    """Yields where each unit begins and ends, without the size that stands before it.

    Args:
        data: The packet.
        num_length_bytes: Number of bytes of each size (ISO/IEC 14496-15).

    Yields:
        Begin and end. In a damaged packet the last end may lie beyond the data.
    """
    at = 0
    while at + num_length_bytes < len(data):
        start = at + num_length_bytes
        at = start + int.from_bytes(data[at:start], "big")
        yield start, at
