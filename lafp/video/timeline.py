"""Computes from the time stamps of packets, not from headers, when a file's frames are shown.

Clocks of containers start late, restart (two recordings in one file) and jump; program streams
stamp only some packets, elementary streams none. ``lay_out`` puts the packets of all of these on
one time line without gaps: a frame lasts until the next one, and a recording begins where the one
before it ends.
"""

from bisect import bisect_left, bisect_right
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

NO_STAMP = -(2**63)  # FFmpeg's AV_NOPTS_VALUE
# Time stamps of old containers wobble. A longer step back starts another recording.
MAX_STEP_BACK_S = 1.0
# At a key frame a shorter step back starts another recording too, if the next packet also stays
# behind. Unit: steps.
_MIN_STEPS_BACK = 1.5
# FFmpeg guesses missing stamps (program streams have one for every few packets) within this many
# frames.
_MAX_PLACES_OFF = 3
# In a container with presentation times only, stamps may step back by this much due to reordering.
_MAX_STEPS_BACK = 20.0
# Largest number of frames that H.264 and HEVC hold back to reorder them.
_MAX_REORDERED = 16
# Step that players treat as a jump of the clock, in containers whose clocks may jump (ffmpeg's
# -dts_delta_threshold).
_MAX_STEP_FORWARD_S = 10.0
# No frame is shown for longer. A stamp that claims so is not trusted.
_MAX_CLAIM_S = 24 * 3600.0
# The last frame of a variable-rate video may be shown for a while, but not for longer than this.
MAX_LAST_FRAME_S = 10.0


@dataclass(frozen=True, kw_only=True)
class Stamps:
    """Holds the time stamps of the shown packets, in the order of decoding."""

    pts: np.ndarray
    """int64 [N]: presentation times; ``NO_STAMP`` where missing."""
    dts: np.ndarray
    """int64 [N]: decoding times; ``NO_STAMP`` where missing."""
    duration: np.ndarray
    """int64 [N]: durations; 0 where unknown."""
    is_key: np.ndarray
    """bool [N]."""
    time_base: tuple[int, int]
    """Seconds per unit of the fields above, as numerator and denominator."""


TrustedPts = Literal["all", "near", "none"]
"""Says which presentation times are trusted: all, those near the order of the frames (the
others are FFmpeg's guesses), or none."""


@dataclass(frozen=True, kw_only=True)
class Recording:
    """Describes a run of packets on one clock."""

    first_packet: int
    """Number of its first packet among the shown packets."""
    origin_s: float
    """Seconds to subtract from its clock."""


@dataclass(frozen=True, kw_only=True)
class Timeline:
    """Holds when the frames of a file are shown, where the first is at 0."""

    times_s: np.ndarray = field(repr=False)
    """float64 [N], ascending: when the frame of each shown packet is shown."""
    recordings: tuple[Recording, ...]
    time_base: tuple[int, int]
    last_frame_s: float
    """Seconds for which the last frame is shown; 0 if unknown."""
    goes_by_order: bool
    """Whether frames take the times in the order in which the decoder outputs them, because some
    have no presentation time that is trusted."""
    trusted_pts: TrustedPts

    @property
    def is_plain(self) -> bool:
        """Returns whether a frame's time stamp alone determines when it is shown."""
        return not self.goes_by_order and len(self.recordings) == 1


def lay_out(
    stamps: Stamps, *, trusted_pts: TrustedPts, can_jump: bool, otherwise_step_s: float
) -> Timeline:
    """Puts packets on one time line.

    Args:
        stamps: Time stamps of at least one packet.
        trusted_pts: Says which presentation times are trusted.
        can_jump: Whether the container's clock may jump forward.
        otherwise_step_s: Time from frame to frame, if packets have no durations.
    """
    num, den = stamps.time_base
    seconds_per_unit = num / den
    has_pts, has_dts = stamps.pts != NO_STAMP, stamps.dts != NO_STAMP
    goes_by_order = trusted_pts != "all" or not has_pts.all()
    durations = stamps.duration[stamps.duration > 0]
    step_s = float(np.median(durations)) * seconds_per_unit if len(durations) else 0.0
    if not 0 < step_s <= MAX_LAST_FRAME_S:
        step_s = otherwise_step_s
    # Decoding times ascend even where the order of presentation differs. Matroska does not hold
    # them. FFmpeg computes them, but not those of the first few packets if frames are reordered.
    first_dts = int(has_dts.argmax())
    uses_dts = has_dts.sum() >= has_pts.sum() or (
        bool(has_dts[first_dts:].all()) and first_dts <= _MAX_REORDERED
    )
    clock, is_known = (stamps.dts, has_dts) if uses_dts else (stamps.pts, has_pts)
    clock_s = np.where(is_known, clock * seconds_per_unit, np.nan)
    pts_s = np.where(has_pts, stamps.pts * seconds_per_unit, np.nan)
    certain_s = pts_s if trusted_pts == "all" else np.full(len(pts_s), np.nan)
    starts = _recording_starts(clock_s, certain_s, stamps.is_key, step_s, can_jump)
    recordings, times_s, start_s, last_s = [], [], 0.0, 0.0
    for first, end in zip(starts, [*starts[1:], len(clock_s)], strict=True):
        if goes_by_order:
            part_s = _even_times(clock_s[first:end], step_s)
            origin_s = _origin(pts_s[first:end], part_s, stamps.is_key[first:end]) - start_s
            last_packet = end - 1
        else:
            origin_s = float(pts_s[first:end].min()) - start_s
            last_packet = first + int(pts_s[first:end].argmax())
            part_s = np.sort(pts_s[first:end]) - (origin_s + start_s)
        recordings.append(Recording(first_packet=first, origin_s=origin_s))
        times_s.append(part_s + start_s)
        last_s = float(stamps.duration[last_packet]) * seconds_per_unit
        start_s += float(part_s[-1]) + (last_s if 0 < last_s <= MAX_LAST_FRAME_S else step_s)
    return Timeline(
        times_s=np.concatenate(times_s),
        recordings=tuple(recordings),
        time_base=stamps.time_base,
        last_frame_s=last_s,
        goes_by_order=goes_by_order,
        trusted_pts=trusted_pts,
    )


def _recording_starts(
    clock_s: np.ndarray, pts_s: np.ndarray, is_key: np.ndarray, step_s: float, can_jump: bool
) -> list[int]:
    """Lists the packets at which another clock begins, including the first packet."""
    known = np.flatnonzero(~np.isnan(clock_s))
    steps_s = np.diff(clock_s[known])
    if not len(steps_s) or (steps_s.min() >= 0 and not steps_s.max() > _MAX_STEP_FORWARD_S):
        return [0]
    starts, highest_s, shown_s = [0], float(clock_s[known[0]]), float(pts_s[known[0]])
    following = [*clock_s[known[2:]].tolist(), -np.inf]
    for packet, step, next_s in zip(known[1:].tolist(), steps_s.tolist(), following, strict=True):
        time_s, packet_pts_s = float(clock_s[packet]), float(pts_s[packet])
        back_s = highest_s - time_s
        stays_back = is_key[packet] and back_s > _MIN_STEPS_BACK * step_s and next_s < highest_s
        # Presentation times are ahead of the clock if frames are reordered. So a step of the clock
        # is no jump if the presentation times do not jump: a frame is just shown for long.
        jumps = (
            # `not ... <=` holds for NaN too, so where presentation times are unknown the clock
            # alone decides.
            step > (_MAX_STEP_FORWARD_S if can_jump else _MAX_CLAIM_S)
            and not packet_pts_s - shown_s <= _MAX_STEP_FORWARD_S
        )
        if back_s > max(MAX_STEP_BACK_S, _MAX_STEPS_BACK * step_s) or stays_back or jumps:
            starts.append(packet)
            highest_s, shown_s = time_s, packet_pts_s
        highest_s = max(highest_s, time_s)
        # `fmax` ignores NaN, which stands for packets without a presentation time.
        shown_s = np.fmax(shown_s, packet_pts_s)
    return starts


def _even_times(clock_s: np.ndarray, step_s: float) -> np.ndarray:
    """Returns ascending times from 0: the known times, and even steps between them."""
    known = np.flatnonzero(~np.isnan(clock_s))
    packets = np.arange(len(clock_s))
    if not len(known):
        return packets * step_s
    since_s = clock_s[known] - clock_s[known[0]]
    if half := len(known) // 2:
        # A median over long distances, because durations are rounded and single stamps wrong.
        slopes_s = (since_s[half:] - since_s[:-half]) / (known[half:] - known[:-half])
        step_s = float(np.median(slopes_s)) or step_s
    even_s = packets * step_s
    if np.abs(since_s - (even_s[known] - even_s[known[0]])).max() <= _MAX_PLACES_OFF * step_s:
        return even_s
    # Stamps may step back a little, but frames are shown in ascending order.
    times_s = np.interp(packets, known, np.maximum.accumulate(since_s))
    times_s[: known[0]] -= step_s * (known[0] - packets[: known[0]])
    times_s[known[-1] :] += step_s * (packets[known[-1] :] - known[-1])
    return times_s - times_s[0]


def _origin(pts_s: np.ndarray, times_s: np.ndarray, is_key: np.ndarray) -> float:
    """Returns the presentation time of the first frame; 0 if none is known.

    A key frame is shown at the place where it is decoded, or later if frames that follow it are
    shown before it. In the first group of pictures those frames are the first ones.
    """
    latest_s = np.where(is_key, pts_s - times_s, np.nan)
    keys = np.flatnonzero(is_key)
    first_gop = slice(0, keys[1] if len(keys) > 1 else None)
    latest_s[first_gop] = np.fmin(latest_s[first_gop], pts_s[first_gop])
    return 0.0 if np.isnan(latest_s).all() else float(np.nanmin(latest_s))


class FrameClock:
    """Tells when each decoded frame is shown. Takes packets and frames in the order they come."""

    def __init__(self, timeline: Timeline) -> None:
        self._timeline = timeline
        self._starts = [recording.first_packet for recording in timeline.recordings]
        self._next_packet = 0
        self._next_frame = 0
        self._since_key: list[int] = []
        """Packets of the frames since the last key frame, including the key frame's."""

    def sent(self, is_shown: bool) -> int:
        """Counts a packet and returns its number."""
        packet = self._next_packet
        self._next_packet += is_shown
        return packet

    def is_before_joint(self, num_packets: int) -> bool:
        """Says whether another recording begins after exactly this many more shown packets."""
        place = bisect_left(self._starts, self._next_packet, lo=1)
        return place < len(self._starts) and self._starts[place] == self._next_packet + num_packets

    def time_s(self, packet: int | None, pts: int | None, is_key: bool) -> float | None:
        """Returns when a frame is shown; None if unknown.

        Args:
            packet: Number of the packet of the frame, if the decoder tells.
            pts: Presentation time of the frame.
            is_key: Whether the frame is a key frame.
        """
        if self._timeline.goes_by_order:
            return self._time_by_order(packet, pts, is_key)
        if pts is None:
            return None
        num, den = self._timeline.time_base
        return pts * num / den - self._recording(packet).origin_s

    def _recording(self, packet: int | None) -> Recording:
        recordings = self._timeline.recordings
        if len(recordings) == 1 or packet is None:
            return recordings[0]
        return recordings[bisect_right(self._starts, packet) - 1]

    def _time_by_order(self, packet: int | None, pts: int | None, is_key: bool) -> float | None:
        """Returns the next time in order, or a later one if a key frame or a stamp shows a gap."""
        times_s, place = self._timeline.times_s, self._next_frame
        if is_key and packet is not None:
            # All packets before a key frame are shown before it, and so were those frames of its
            # group that came already. This corrects the shift from lost frames.
            place = max(place, packet + sum(other > packet for other in self._since_key))
        if self._timeline.trusted_pts != "none" and pts is not None:
            stamped = self._place(packet, pts)
            is_near = stamped - place <= _MAX_PLACES_OFF
            if is_near or self._timeline.trusted_pts == "all":
                place = max(place, stamped)
        if is_key:
            self._since_key.clear()
        if packet is not None:
            self._since_key.append(packet)
        self._next_frame = place + 1
        return float(times_s[place]) if place < len(times_s) else None

    def _place(self, packet: int | None, pts: int) -> int:
        """Returns the index of the time nearest to a time stamp."""
        times_s = self._timeline.times_s
        num, den = self._timeline.time_base
        time_s = pts * num / den - self._recording(packet).origin_s
        after = int(np.searchsorted(times_s, time_s))
        if after == len(times_s) or (
            after > 0 and time_s - times_s[after - 1] < times_s[after] - time_s
        ):
            return after - 1
        return after
