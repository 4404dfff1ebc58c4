"""Reads a container packet by packet, and puts right what damage does to their times."""

import time
from collections.abc import Iterator

import av
from av.container import InputContainer
from av.packet import Packet
from av.video.stream import VideoStream

from lafp.video.decoder import VideoError

# AVI: what the index points to, and the data of the packet behind it.
_CHUNK_HEADER_BYTES = 8


def read_packets(
    container: InputContainer, stream: VideoStream, deadline: float
) -> Iterator[tuple[Packet, str]]:
    """Demuxes to the end, the empty flushing packet included.

    Yields:
        A packet; a sign that something is missing before it, or "".

    Raises:
        VideoError: The deadline passed. A container that breaks off just ends.
    """
    packets = container.demux(stream)
    index = _AviIndex(container, stream)
    while True:
        if time.monotonic() > deadline:
            raise VideoError("timeout", "the time for one video is used up")
        try:
            packet = next(packets, None)
        except (av.FFmpegError, OSError):
            return
        if packet is None:
            return
        yield packet, index.mend(packet)


class _AviIndex:
    """AVI has no time stamps, so FFmpeg counts packets; the index knows better.

    After a packet that is not found all others would be shown too early, and MPEG-4 decodes on as
    if nothing were missing.
    """

    def __init__(self, container: InputContainer, stream: VideoStream) -> None:
        entries = stream.index_entries if container.format.name == "avi" else ()
        filled = [(entry.pos, entry.timestamp) for entry in entries if entry.size]
        self._places = {
            pos + _CHUNK_HEADER_BYTES: (number, stamp) for number, (pos, stamp) in enumerate(filled)
        }
        self._next = 0

    def mend(self, packet: Packet) -> str:
        """Corrects the packet's time. Returns a sign of damage, or ""."""
        if not packet.size or packet.pos not in self._places:
            return ""
        number, stamp = self._places[packet.pos]
        is_gap, self._next = number != self._next, number + 1
        if packet.dts is not None and packet.dts != stamp:
            if packet.pts is not None:
                packet.pts += stamp - packet.dts
            packet.dts = stamp
        # What is missing before a key frame spoils nothing after it.
        return "packets are missing" if is_gap and not packet.is_keyframe else ""
