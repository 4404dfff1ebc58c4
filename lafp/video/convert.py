"""Decoded frames -> upright, progressive, 8-bit RGB pictures with the colours that were meant."""

from collections import deque
from collections.abc import Iterator
from dataclasses import replace

import av
import numpy as np
from av.filter import Graph
from av.video.frame import VideoFrame
from av.video.reformatter import ColorTrc, Interpolation, VideoReformatter

from lafp.video.damage import Held
from lafp.video.decoder import DamagedSpan, Orientation
from lafp.video.hdr import Transfer, to_sdr

# Area averaging neither aliases nor blurs; the flags stop swscale from rounding colours down.
SCALING = Interpolation.AREA | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT
_TRANSFERS: dict[int, Transfer] = {ColorTrc.SMPTE2084: "pq", ColorTrc.ARIB_STD_B67: "hlg"}
# AVColorSpace of libavutil, which PyAV's Colorspace is not.
_RGB, _BT709, _UNSPECIFIED, _BT601, _BT2020 = 0, 1, 2, 5, 9
# Files that do not name their matrix follow the standard of their size.
_MIN_HD_HEIGHT_PX = 720


class ToRgb:
    """Scales frames and turns them to RGB. Transparent places become black.

    Args:
        width_px: Upright width to scale to.
        height_px: Upright height.
        orientation: What makes the coded picture upright.
    """

    def __init__(self, width_px: int, height_px: int, orientation: Orientation) -> None:
        is_turned = orientation.is_turned
        self._size = (height_px, width_px) if is_turned else (width_px, height_px)
        self._orientation = orientation
        self._scaler = VideoReformatter()

    def __call__(self, frame: VideoFrame) -> np.ndarray:
        """Returns uint8 RGB [height, width, 3], upright."""
        transfer = _TRANSFERS.get(frame.color_trc)
        if frame.colorspace == _UNSPECIFIED:
            frame.colorspace = _likely_matrix(frame, transfer)
        if transfer:
            pixels = to_sdr(self._scale(frame, "rgb48le"), transfer)
        elif any(component.is_alpha for component in frame.format.components):
            rgba = self._scale(frame, "rgba").astype(np.uint16)
            pixels = ((rgba[..., :3] * rgba[..., 3:] + 127) // 255).astype(np.uint8)
        else:
            pixels = self._scale(frame, "rgb24")
        return self._orientation.apply(pixels)

    def _scale(self, frame: VideoFrame, pixel_format: str) -> np.ndarray:
        return self._scaler.reformat(
            frame, *self._size, pixel_format, interpolation=SCALING, threads=1
        ).to_ndarray()


def _likely_matrix(frame: VideoFrame, transfer: Transfer | None) -> int:
    if frame.format.is_rgb:
        return _RGB
    if transfer:
        return _BT2020
    return _BT709 if frame.height >= _MIN_HD_HEIGHT_PX else _BT601


def deinterlaced(events: Iterator[Held | DamagedSpan]) -> Iterator[Held | DamagedSpan]:
    """Passes events on, and from the first interlaced frame on through FFmpeg's ``bwdif``.

    One frame comes out for each that goes in; progressive frames in between stay as they are.
    """
    weaver: _Deinterlacer | None = None
    for event in events:
        if isinstance(event, DamagedSpan):
            if weaver is not None:
                yield from weaver.finish()
                weaver = None
            yield event
            continue
        frame = event.frame
        if weaver is None and frame is not None and frame.interlaced_frame:
            weaver = _Deinterlacer(frame)
        if weaver is None:
            yield event
        else:
            yield from weaver.push(event)
    if weaver is not None:
        yield from weaver.finish()


class _Deinterlacer:
    """A filter graph, which looks one frame ahead. It ends where the damage begins."""

    def __init__(self, frame: VideoFrame) -> None:
        self._waiting: deque[Held] = deque()
        self._graph = Graph()
        source = self._graph.add_buffer(
            width=frame.width,
            height=frame.height,
            format=frame.format,
            time_base=frame.time_base,
        )
        bwdif = self._graph.add("bwdif", "mode=send_frame:deint=interlaced")
        sink = self._graph.add("buffersink")
        source.link_to(bwdif)
        bwdif.link_to(sink)
        self._graph.configure()

    def push(self, held: Held) -> Iterator[Held]:
        assert held.frame is not None, "frames stay whole from the first interlaced one on"
        self._waiting.append(held)
        self._graph.push(held.frame)
        yield from self._pull()

    def finish(self) -> Iterator[Held]:
        self._graph.push(None)
        yield from self._pull()

    def _pull(self) -> Iterator[Held]:
        while True:
            try:
                frame = self._graph.pull()
            except (av.BlockingIOError, av.EOFError):
                return
            assert isinstance(frame, VideoFrame)
            yield replace(self._waiting.popleft(), frame=frame)
