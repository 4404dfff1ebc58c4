"""Which decoded frames are sound, and when they are shown."""

from collections.abc import Generator, Iterator

import numpy as np
from av.packet import Packet
from av.video.frame import VideoFrame

from lafp.video.decoder import DamagedSpan, VideoError, VideoInfo

# Time stamps of old containers wobble; a longer step back is another time line.
_MAX_STEP_BACK_S = 1.0


class DamageGate:
    """Decides which frames are sound.

    From a flagged frame or a packet that does not decode, everything is cut out until a sound key
    frame that is shown later: what lies between may show the damage without being flagged.
    """

    def __init__(self, info: VideoInfo) -> None:
        self._info = info
        self._first_size: tuple[int, int] | None = None
        self._cause = ""
        self._error_time_s = 0.0
        self._is_damaged = False
        self.last_time_s = -1.0
        """When the last sound frame is shown; negative before the first one."""

    def packet_failed(self, packet: Packet, error: Exception) -> None:
        """Records a packet that does not decode."""
        stamp = packet.pts if packet.pts is not None else packet.dts
        time_base = packet.time_base
        time_s = 0.0 if stamp is None or time_base is None else float(stamp * time_base)
        self._damage(time_s - self._info.first_pts_s, f"a packet does not decode: {error.args[1]}")

    def check(self, frame: VideoFrame, time_s: float) -> Generator[DamagedSpan, None, bool]:
        """Yields the damaged span that the frame ends, if any; returns whether it is sound."""
        size = (frame.width, frame.height)
        self._first_size = self._first_size or size
        if frame.is_corrupt:
            self._damage(time_s, "FFmpeg flags a frame as corrupt")
        elif size != self._first_size:
            self._damage(time_s, f"the frame size changes to {size[0]}x{size[1]}")
        elif time_s < self.last_time_s - _MAX_STEP_BACK_S:
            self._damage(time_s, "time stamps go backwards")
        elif time_s <= self.last_time_s:
            return False  # never shown: the frame before it has its place
        elif not self._is_damaged or (frame.key_frame and time_s > self._error_time_s):
            if self._is_damaged:
                yield DamagedSpan(self._sound_until_s(), time_s, self._cause)
            self._is_damaged = False
            self.last_time_s = time_s
        return not self._is_damaged

    def finish(self) -> Iterator[DamagedSpan]:
        """Yields the damage that reaches the end of the file, if any."""
        end_s = self._info.duration_s
        cause = self._cause if self._is_damaged else "these frames were not decoded"
        if end_s - self._sound_until_s() > 0.5 / self._info.fps:
            yield DamagedSpan(self._sound_until_s(), end_s, cause)

    def _damage(self, time_s: float, cause: str) -> None:
        if not self._is_damaged:
            self._cause = cause
        self._is_damaged = True
        self._error_time_s = max(self._error_time_s, time_s)

    def _sound_until_s(self) -> float:
        """End of the last sound frame."""
        if self.last_time_s < 0:
            return 0.0
        times_s = self._info.times_s
        following = times_s[np.searchsorted(times_s, self.last_time_s + 1e-6) :]
        return float(following[0]) if len(following) else self._info.duration_s


class Clock:
    """FFmpeg's best-effort time stamps, which PyAV does not pass on.

    Some containers (AVI with B-frames) have wrong presentation times but right decoding times:
    whichever has gone backwards less often is believed (libavcodec, ``guess_correct_pts``).
    """

    def __init__(self) -> None:
        self._num_faulty_pts = self._num_faulty_dts = 0
        self._last_pts: int | None = None
        self._last_dts: int | None = None

    def time_s(self, frame: VideoFrame) -> float:
        """Presentation time on the file's own clock."""
        pts, dts = frame.pts, frame.dts
        if dts is not None:
            self._num_faulty_dts += self._last_dts is not None and dts <= self._last_dts
            self._last_dts = dts
        if pts is not None:
            self._num_faulty_pts += self._last_pts is not None and pts <= self._last_pts
            self._last_pts = pts
        is_pts_better = self._num_faulty_pts <= self._num_faulty_dts or dts is None
        stamp = pts if pts is not None and is_pts_better else dts
        if stamp is None or frame.time_base is None:
            raise VideoError("no_time_stamps", "a frame has no presentation time")
        return float(stamp * frame.time_base)
