"""Reads a container packet by packet, and corrects packet times after damage."""

import time
from array import array
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

import av
import numpy as np
from av.container import InputContainer
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from lafp.video.decoders.base import VideoError
from lafp.video.timeline import NO_STAMP, Stamps, TrustedPts

# In AVI, the index points to a chunk's header, and the packet's data follows after this many bytes.
_CHUNK_HEADER_BYTES = 8
# A frame that repeats the one before it is coded as little more than "skip" for every block.
_TINY_BYTES, _PIXELS_PER_TINY_BYTE = 64, 2000
_MOV = "mov,mp4,m4a,3gp,3g2,mj2"
# Packets of these formats reach to the end of the file, except for a small index. If several such
# files are concatenated, FFmpeg reads only the first one or two.
_SEQUENTIAL_FORMATS = ("flv", "asf", "matroska,webm")
_MAX_UNREAD_SHARE, _MAX_UNREAD_BYTES = 0.1, 8192
# Constants of libavformat, because PyAV gives a container's flags as a number.
_AVFMT_NOTIMESTAMPS, _AVFMT_TS_DISCONT = 0x80, 0x200


def read_packets(
    container: InputContainer, stream: VideoStream, deadline: float
) -> Iterator[tuple[Packet, str]]:
    """Demuxes to the end, including the empty flushing packet.

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
        except IndexError:
            # PyAV has counted the streams before, and another one has appeared amid the file, as in
            # transport streams. It goes on where it was.
            packets = container.demux(stream)
            continue
        if packet is None:
            return
        if packet.size or packet.dts is None:  # an empty packet repeats the frame before it
            yield packet, index.mend(packet)


def is_shown(packet: Packet) -> bool:
    """Says whether a packet holds a frame that is shown."""
    return bool(packet.size) and not packet.is_discard


@dataclass(frozen=True, kw_only=True)
class Scan:
    """Holds the data of all packets of a stream."""

    first: VideoFrame | None
    """The first frame that decodes."""
    stamps: Stamps
    num_packets: int
    """Number of packets, including those that are not shown."""
    end_byte: int
    """End of the last packet in the file; 0 if unknown."""
    tiny_share: float
    """Share of packets that are nearly empty."""


def scan(container: InputContainer, stream: VideoStream, deadline: float) -> Scan:
    """Reads every packet and decodes one frame.

    Raises:
        VideoError: The deadline passed.
    """
    first: VideoFrame | None = None
    pts, dts, duration, is_key = array("q"), array("q"), array("q"), array("b")
    context = stream.codec_context
    num_packets = num_tiny = end_byte = 0
    tiny_bytes = _TINY_BYTES + context.width * context.height // _PIXELS_PER_TINY_BYTE
    for packet, _ in read_packets(container, stream, deadline):
        if first is None:
            with suppress(av.FFmpegError):
                first = next(iter(stream.decode(packet)), None)
        num_packets += packet.size > 0
        if packet.pos is not None:
            end_byte = max(end_byte, packet.pos + packet.size)
        if is_shown(packet):
            pts.append(NO_STAMP if packet.pts is None else packet.pts)
            dts.append(NO_STAMP if packet.dts is None else packet.dts)
            duration.append(packet.duration or 0)
            is_key.append(packet.is_keyframe)
            num_tiny += packet.size < tiny_bytes
    time_base = stream.time_base
    stamps = Stamps(
        pts=np.frombuffer(pts, np.int64),
        dts=np.frombuffer(dts, np.int64),
        duration=np.frombuffer(duration, np.int64),
        is_key=np.frombuffer(is_key, bool),
        time_base=(time_base.numerator, time_base.denominator) if time_base else (1, 1),
    )
    return Scan(
        first=first,
        stamps=stamps,
        num_packets=num_packets,
        end_byte=end_byte,
        tiny_share=num_tiny / max(1, len(pts)),
    )


def clock_may_jump(container: InputContainer) -> bool:
    """Says whether the container is made for broadcasts, whose clocks may jump."""
    return bool(container.format.flags & _AVFMT_TS_DISCONT)


def find_trusted_pts(
    container: InputContainer, stream: VideoStream, stamps: Stamps
) -> TrustedPts | None:
    """Returns which presentation times are trusted; None if only decoding can tell."""
    # Only B-frames make the order of presentation differ from the order of decoding.
    if not stream.codec_context.has_b_frames:
        return "all"
    # These containers do not store all presentation times, and FFmpeg guesses the others.
    if container.format.flags & _AVFMT_NOTIMESTAMPS:
        return "none"
    if container.format.name == "mpeg":
        return "near"
    is_known = (stamps.pts != NO_STAMP) & (stamps.dts != NO_STAMP)
    # Reordered frames wait for their presentation for different times. If all frames wait equally
    # long, the presentation times are only shifted decoding times.
    delays = stamps.pts[is_known] - stamps.dts[is_known]
    steps = np.diff(stamps.dts[is_known])
    tells_no_order = len(steps) and np.ptp(delays) < 0.5 * np.median(steps)
    return None if tells_no_order or container.format.name == "avi" else "all"


def missing_s(
    container: InputContainer, stream: VideoStream, num_packets: int, fps: float, end_s: float
) -> float:
    """Returns how many seconds the container's index or header promises after its last packet.

    Args:
        container: The container, read to its end.
        stream: Its video stream.
        num_packets: Number of its packets, including those that are not shown.
        fps: Rate of the video.
        end_s: End of its last frame on the file's own clock.
    """
    if clock_may_jump(container) or container.format.flags & _AVFMT_NOTIMESTAMPS:
        return 0.0  # FFmpeg guesses the length of these containers from packets
    if container.format.name == _MOV and stream.frames:
        # FFmpeg's index does not list packets that an edit list leaves out.
        return max(0, len(stream.index_entries) - num_packets) / fps
    if stream.duration and stream.time_base:
        return max(0.0, float(stream.duration * stream.time_base) - end_s)
    if container.duration and len(container.streams) == 1:
        return max(0.0, container.duration / av.time_base - end_s)
    return 0.0


def unread(container: InputContainer, end_byte: int, deadline: float) -> str:
    """Describes how much of a file lies after its last packet; "" if no more than an index does.

    Args:
        container: The container, read to its end.
        end_byte: End of the last packet of the video; 0 if unknown.
        deadline: Time of the monotonic clock until which packets may be read.
    """
    num_bytes = container.size
    least = max(_MAX_UNREAD_BYTES, _MAX_UNREAD_SHARE * num_bytes)
    if container.format.name not in _SEQUENTIAL_FORMATS or not end_byte:
        return ""
    # Sound may go on after the last picture.
    if num_bytes - end_byte >= least and len(container.streams) > 1:
        with suppress(av.FFmpegError, OSError):
            container.seek(0)
            for packet in container.demux():
                if time.monotonic() > deadline:
                    return ""
                end_byte = max(end_byte, (packet.pos or 0) + packet.size)
    rest = num_bytes - end_byte
    if rest < least:
        return ""
    return f"FFmpeg reads no packet in the last {rest} of {num_bytes} bytes: several files in one?"


class _AviIndex:
    """Corrects packet times in AVI by the index.

    AVI has no time stamps, so FFmpeg counts packets. After a packet that is not found, it would
    show all others too early, and MPEG-4 would decode on as if nothing were missing.
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
        # Packets missing before a key frame damage no frame after it.
        return "packets are missing" if is_gap and not packet.is_keyframe else ""
