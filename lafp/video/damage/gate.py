"""Decides which decoded frames are sound, and when they are shown."""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from av.packet import Packet
from av.video.frame import VideoFrame

from lafp.video.decoders.base import DamagedSpan, VideoInfo
from lafp.video.decoders.packets import is_shown
from lafp.video.timeline import MAX_STEP_BACK_S, FrameClock

# Codecs whose frames may be predicted from frames of another size.
_SIZE_CHANGES_ANYWHERE = ("vp9", "av1")
_NUM_RECENT = 50


@dataclass(eq=False)
class _Gop:
    """Describes a group of pictures: a key frame and all frames that are decoded from it."""

    before: "_Gop | None"
    """The previous group, while frames shown before this key frame may still depend on it."""
    sign: str = ""
    """The first sign of damage in the group; empty if there is none."""
    is_shown: bool = False
    """Whether its key frame has come out. Frames before that may depend on the previous group."""

    @property
    def leading_sign(self) -> str:
        """Returns the sign of damage that concerns frames shown before the key frame, or ""."""
        return self.sign or (self.before.sign if self.before else "")


@dataclass(frozen=True)
class _Sent:
    """Describes the packet of a frame."""

    gop: _Gop
    is_keyframe: bool
    number: int | None
    """Number among the shown packets."""


@dataclass
class Held:
    """Holds a frame and the time at which it is shown."""

    time_s: float
    frame: VideoFrame | None = field(repr=False)
    """The frame as decoded, until it is scaled or found to be unwanted."""
    gop: _Gop = field(repr=False)
    pixels: np.ndarray | None = field(default=None, repr=False)
    """The frame as scaled."""
    parting: str = ""
    """Why no clip may cross from the frame before to this one; empty if one may."""


class DamageGate:
    """Passes only frames of groups of pictures without any sign of damage.

    A damaged packet spoils the frames decoded after it, often without a sign, and frames before the
    first sign are often wrong too. So a group is cut out as a whole, and its frames are held back
    until the next key frame shows that the group is complete. Beyond ``max_held_bytes`` the oldest
    frames pass, unless there was a sign already.

    Args:
        info: The probe's result.
        clock: Tells when frames are shown.
        max_held_bytes: Limit of the decoded frames that are held back.
        shows_little: Most damage of this codec gives no sign. After the first sign, all later
            frames count as damaged.
        marks_keys: The decoder marks key frames. If not, the container's marks are used.
    """

    def __init__(
        self,
        info: VideoInfo,
        clock: FrameClock,
        max_held_bytes: int,
        *,
        shows_little: bool,
        marks_keys: bool,
    ) -> None:
        self._info, self._clock = info, clock
        self._max_held_bytes = max_held_bytes
        self._shows_little, self._marks_keys = shows_little, marks_keys
        self._gop = _Gop(None)
        self._recent = deque([self._gop], maxlen=_NUM_RECENT)
        self._held: deque[Held] = deque()
        self._max_held = 0
        self._size: tuple[int, int] | None = None
        self._parting = ""
        # The first frame of a file is at 0, so -1 stands for none.
        self._last_time_s = -1.0
        self._sound_time_s = -1.0
        self.newest: Held | None = None
        """The frame that was taken in last."""
        self.has_cut = False
        """Whether anything was or will be cut out."""
        self._dropped_for = ""
        """The sign for which frames since the last sound one were dropped."""
        self._last_sign = ""
        """The frames that this sign damaged may never come out of the decoder."""

    @property
    def is_damaged(self) -> bool:
        """Returns whether the current group of pictures shows damage."""
        return bool(self._gop.sign)

    def damaged_share(self) -> float:
        """Returns the share of the last groups of pictures that show damage."""
        return sum(bool(gop.sign) for gop in self._recent) / len(self._recent)

    def sent(self, packet: Packet) -> None:
        """Notes a packet that the decoder is about to get."""
        if packet.is_keyframe:
            self._next_gop()
        number = self._clock.sent(is_shown(packet))
        packet.opaque = _Sent(self._gop, packet.is_keyframe, number)
        # Counters restart with another recording, so FFmpeg flags the last packet before it (or,
        # because a parser lags behind, the packet before that). This is not damage.
        is_last = self._clock.is_before_joint(0) or self._clock.is_before_joint(1)
        if packet.is_corrupt and not is_last:
            self.found("the container flags a packet as corrupt")

    def part(self, why: str) -> None:
        """Notes that the next frame does not continue from the last one."""
        self._gop, self._parting, self.has_cut = _Gop(None), why, True

    def found(self, sign: str) -> None:
        """Notes a sign of damage in the packet that was sent last."""
        self._mark(self._gop, sign)

    def check(self, frame: VideoFrame, sign: str = "") -> Iterator[Held | DamagedSpan]:
        """Takes a frame as it comes; yields the frames now known to be sound, and cut spans.

        Args:
            frame: The frame as decoded.
            sign: A sign of damage in the frame's data, or "".
        """
        sent = frame.opaque if isinstance(frame.opaque, _Sent) else _Sent(self._gop, False, None)
        gop = sent.gop
        is_key = frame.key_frame or (sent.is_keyframe and not self._marks_keys)
        gop.is_shown |= is_key
        time_s = self._clock.time_s(sent.number, frame.pts, is_key)
        # A frame that is shown before its key frame may depend on the group before, so the damage
        # may lie there.
        if sign:
            self._mark(gop if gop.is_shown else gop.before or gop, sign)
        if frame.is_corrupt:
            self._mark(gop, "FFmpeg flags a frame as corrupt")
        if time_s is None:
            self._mark(gop, "a frame has no presentation time")
        elif not self._has_good_size(frame, is_key):
            self._drop(f"the frame size changes to {frame.width}x{frame.height}")
        elif time_s < self._last_time_s - MAX_STEP_BACK_S:
            self._drop("time stamps go backwards")
        elif time_s > self._last_time_s:  # else the frame is never shown: its time is taken
            self._last_time_s = time_s
            # A key frame completes the group before it: what has shown no sign until now is sound.
            if is_key:
                yield from self._release()
                gop.before = None
            self.newest = Held(time_s, frame, gop, parting=self._parting)
            self._parting = ""
            self._held.append(self.newest)
            while len(self._held) > self._max_held:
                yield from self._pop()

    def finish(self) -> Iterator[Held | DamagedSpan]:
        """Yields the last frames, and any damage that reaches the end of the file."""
        yield from self._release()
        end_s = self._info.duration_s
        # Less than half a frame is the rounding of time stamps, not a missing frame.
        if end_s - self._sound_until_s() > 0.5 / self._info.fps:
            sign = self._dropped_for or self._last_sign or "these frames were not decoded"
            yield DamagedSpan(self._sound_until_s(), end_s, sign)

    def _has_good_size(self, frame: VideoFrame, is_key: bool) -> bool:
        """Says whether a frame has the size of those before it, or may change the size."""
        size = (frame.width, frame.height)
        if size == self._size:
            return True
        if self._size is not None:
            if not is_key and self._info.codec not in _SIZE_CHANGES_ANYWHERE:
                return False
            self._parting = f"the frame size changes to {frame.width}x{frame.height}"
            self.has_cut = True
        self._size = size
        self._max_held = self._max_held_bytes // _num_bytes(frame)
        return True

    def _next_gop(self) -> None:
        if self._gop.before:
            self._gop.before.before = None  # otherwise all groups would stay in memory as a chain
        self._gop = _Gop(self._gop, self._gop.sign if self._shows_little else "")
        self._recent.append(self._gop)

    def _mark(self, gop: _Gop, sign: str) -> None:
        """Counts a group as damaged."""
        gop.sign = gop.sign or sign
        if self._shows_little:
            self._gop.sign = self._gop.sign or sign
        self._last_sign, self.has_cut = gop.sign, True

    def _drop(self, sign: str) -> None:
        """Notes that a frame is dropped."""
        self._dropped_for, self.has_cut = self._dropped_for or sign, True

    def _release(self) -> Iterator[Held | DamagedSpan]:
        while self._held:
            yield from self._pop()

    def _pop(self) -> Iterator[Held | DamagedSpan]:
        """Yields the oldest held frame if it is sound, and the span that was cut out before it."""
        held = self._held.popleft()
        if sign := held.gop.leading_sign:
            self._drop(sign)
            return
        # A damaged packet may give no frame at all. Then only the hole before this frame shows what
        # is lost.
        if self._last_sign and held.time_s - self._sound_until_s() > 0.5 / self._info.fps:
            self._drop(self._last_sign)
        if self._dropped_for:
            yield DamagedSpan(self._sound_until_s(), held.time_s, self._dropped_for)
            self._dropped_for = self._last_sign = ""
        elif held.parting:
            yield DamagedSpan(held.time_s, held.time_s, held.parting)
        self._sound_time_s = held.time_s
        yield held

    def _sound_until_s(self) -> float:
        """Returns the end of the last sound frame."""
        if self._sound_time_s < 0:
            return 0.0
        times_s = self._info.times_s
        # The small step keeps rounding from finding the frame itself as the next one.
        following = times_s[np.searchsorted(times_s, self._sound_time_s + 1e-6) :]
        return float(following[0]) if len(following) else self._info.duration_s


def _num_bytes(frame: VideoFrame) -> int:
    return sum(plane.buffer_size for plane in frame.planes)
