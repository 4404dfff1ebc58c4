"""Scales wanted frames as soon as they are known, and releases all other frames.

Frames wait for the rest of their group of pictures (``damage``), and decoded frames are large. If a
decoder soon gets its buffers back, it runs in the processor's cache.
"""

from collections.abc import Callable

import numpy as np
from av.video.frame import VideoFrame

from lafp.video.damage.gate import DamageGate, Held
from lafp.video.decoders.base import IsWanted


class Thinner:
    """Decides about each frame when the next one comes.

    From the first cut on it keeps all frames, because it is not known which frames are wanted
    after a cut until the cut ends.

    Args:
        to_rgb: Scales a frame.
        is_wanted: See ``VideoDecoder.frames``.
    """

    def __init__(self, to_rgb: Callable[[VideoFrame], np.ndarray], is_wanted: IsWanted) -> None:
        self._to_rgb, self._is_wanted = to_rgb, is_wanted
        self._last: Held | None = None
        self._is_done = False

    def look(self, gate: DamageGate) -> None:
        """Looks at the frame that the gate has just taken in, if it has taken one."""
        newest = gate.newest
        if self._is_done or newest is self._last or newest is None or newest.frame is None:
            return
        # A deinterlacer needs unscaled neighbours.
        if gate.has_cut or newest.frame.interlaced_frame:
            self._is_done = True
            return
        is_wanted = self._is_wanted(newest.time_s)
        if self._last is not None and self._last.frame is not None:
            if is_wanted:
                self._last.pixels = self._to_rgb(self._last.frame)
            self._last.frame = None
        self._last = newest


def pixels_of(held: Held, to_rgb: Callable[[VideoFrame], np.ndarray]) -> np.ndarray:
    """Returns uint8 RGB [H, W, 3], upright.

    Raises:
        RuntimeError: The frame was not wanted.
    """
    if held.pixels is None:
        if held.frame is None:
            raise RuntimeError(f"the frame at {held.time_s:.3f} s was released but is wanted now")
        return to_rgb(held.frame)
    return held.pixels
