"""Offers decord, which is widely used but lacks AV1, GIF, ARM wheels and any sign of damage."""

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import numpy as np

from lafp.config import ConfigError
from lafp.video.decoders.base import (
    DamagedSpan,
    DecodedFrame,
    IsWanted,
    VideoError,
    VideoInfo,
)
from lafp.video.decoders.pyav import PyAVConfig, PyAVDecoder


@dataclass(frozen=True, kw_only=True)
class DecordConfig:
    """Configures decord 0.6. It never notices damage: corrupt spans become wrong pictures."""

    name: Literal["decord"] = "decord"


class DecordDecoder:
    """Decodes with decord, see ``VideoDecoder``.

    It probes with PyAV, because decord's own time stamps are wrong for some files.

    Raises:
        ConfigError: decord is not installed.
    """

    Config = DecordConfig

    def __init__(self, cfg: DecordConfig) -> None:
        self.cfg = cfg
        self._probe = PyAVDecoder(PyAVConfig())
        try:
            import decord
        except ImportError as error:
            raise ConfigError(
                f"video_decoder.name: decord does not import ({error}). It has wheels for Linux on "
                "x86-64 only (`pip install decord`). Use video_decoder.name=pyav elsewhere."
            ) from error
        decord.logging.set_level(decord.logging.QUIET)
        self._decord = decord

    def probe(self, path: str, max_pixels: int, deadline: float) -> VideoInfo:
        """See ``VideoDecoder.probe``."""
        info = self._probe.probe(path, max_pixels, deadline)
        # `frames` below neither starts in the middle nor makes other checks for suspect files.
        return replace(info, can_start_late=False, hides_damage=False)

    def frames(
        self,
        path: str,
        info: VideoInfo,
        width_px: int,
        height_px: int,
        deadline: float,
        start_s: float = 0.0,
        is_wanted: IsWanted | None = None,
        is_suspect: bool = False,
    ) -> Iterator[DecodedFrame | DamagedSpan]:
        """See ``VideoDecoder.frames``. Decodes every frame, and makes no further checks."""
        assert start_s == 0 or info.can_start_late, "decord decodes from the first frame on"
        decord = self._decord
        try:
            reader = decord.VideoReader(
                path, decord.cpu(0), width=width_px, height=height_px, num_threads=1
            )
        except (decord.DECORDError, RuntimeError) as error:
            raise VideoError("does_not_decode", _cause(error)) from error
        times_s = info.times_s
        for i in range(min(len(reader), len(times_s))):
            if time.monotonic() > deadline:
                raise VideoError("timeout", "the time for one video is used up")
            try:
                pixels = _without_row_padding(reader.next().asnumpy(), width_px)
            except (decord.DECORDError, StopIteration) as error:
                yield DamagedSpan(float(times_s[i]), info.duration_s, _cause(error))
                return
            yield DecodedFrame(float(times_s[i]), partial(np.asarray, pixels))
        if len(reader) < len(times_s):
            cut_s = float(times_s[len(reader)])
            yield DamagedSpan(cut_s, info.duration_s, f"decord sees {len(reader)} frames only")


def _without_row_padding(pixels: np.ndarray, width_px: int) -> np.ndarray:
    """Repairs narrow frames: decord 0.6 returns the padding of their rows as further channels."""
    if pixels.shape[-1] == 3:
        return pixels
    return pixels.reshape(len(pixels), -1)[:, : width_px * 3].reshape(len(pixels), width_px, 3)


def _cause(error: Exception) -> str:
    """Returns the message without the clock and the C++ files that it names."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return re.sub(r"\[[\d:]+\] \S+: ", "", lines[0])
