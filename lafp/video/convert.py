"""Converts decoded frames to upright, progressive, 8-bit RGB pictures with the intended colours."""

from collections import deque
from collections.abc import Iterator
from dataclasses import replace

import av
import numpy as np
from av.filter import Graph
from av.video.frame import VideoFrame
from av.video.reformatter import ColorTrc, Interpolation, VideoReformatter

from lafp.video.damage.gate import Held
from lafp.video.decoders.base import Conversions, DamagedSpan, Orientation
from lafp.video.hdr import Transfer, to_sdr

# Area averaging neither aliases nor blurs. The flags stop swscale from rounding colours down.
SCALING = Interpolation.AREA | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT
_TRANSFERS: dict[int, Transfer] = {ColorTrc.SMPTE2084: "pq", ColorTrc.ARIB_STD_B67: "hlg"}
# Values of libavutil's AVColorSpace, which differ from PyAV's Colorspace.
_RGB, _BT709, _UNSPECIFIED, _BT601, _BT2020 = 0, 1, 2, 5, 9
# Files that do not name their matrix follow the standard of their size.
_MIN_HD_HEIGHT_PX = 720
# Largest difference in aspect ratio that rounding to whole pixels may cause.
_SAME_SHAPE = 0.02


class Scaler:
    """Scales RGB pictures to one size, like the reference decoder scales.

    Args:
        width_px: Width to scale to.
        height_px: Height to scale to.
    """

    def __init__(self, width_px: int, height_px: int) -> None:
        self._size = width_px, height_px
        # One reformatter for all pictures, because PyAV sets a new one up for sizes and formats.
        self._reformatter = VideoReformatter()

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        """Returns uint8 RGB [height, width, 3], which is the input where its size fits."""
        if pixels.shape[1::-1] == self._size:
            return pixels
        frame = VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
        scaled = self._reformatter.reformat(frame, *self._size, interpolation=SCALING, threads=1)
        return scaled.to_ndarray()


def conversions_of(frame: VideoFrame) -> Conversions:
    """Returns what a frame needs beyond the conversion that its own tags describe."""
    transfer = _TRANSFERS.get(frame.color_trc)
    is_unnamed = frame.colorspace == _UNSPECIFIED
    return Conversions(
        from_hdr=transfer is not None,
        from_alpha=any(component.is_alpha for component in frame.format.components),
        from_fields=bool(frame.interlaced_frame),
        with_bt709=is_unnamed and _likely_matrix(frame, transfer) == _BT709,
    )


class ToRgb:
    """Scales frames and converts them to RGB. Transparent areas become black.

    A frame with another aspect ratio than the first one is shown whole, between black bars, as in
    players.

    Args:
        width_px: Upright width to scale to.
        height_px: Upright height to scale to.
        orientation: The transform that makes the coded picture upright.
        coded_size: Width and height of the first frame, as coded.
    """

    def __init__(
        self, width_px: int, height_px: int, orientation: Orientation, coded_size: tuple[int, int]
    ) -> None:
        is_turned = orientation.is_turned
        self._size = (height_px, width_px) if is_turned else (width_px, height_px)
        self._orientation, self._coded_size = orientation, coded_size
        self._scaler, self._to_rgba = VideoReformatter(), VideoReformatter()

    def __call__(self, frame: VideoFrame) -> np.ndarray:
        """Returns uint8 RGB [height, width, 3], upright."""
        transfer = _TRANSFERS.get(frame.color_trc)
        if frame.colorspace == _UNSPECIFIED:
            frame.colorspace = _likely_matrix(frame, transfer)
        if any(component.is_alpha for component in frame.format.components):
            frame = self._on_black(frame, "rgba64le" if transfer else "rgba")
        if transfer:
            pixels = to_sdr(self._scale(frame, "rgb48le"), transfer)
        else:
            pixels = self._scale(frame, "rgb24")
        return self._orientation.apply(self._between_bars(pixels))

    def _on_black(self, frame: VideoFrame, pixel_format: str) -> VideoFrame:
        """Blends an unscaled frame over black: scaling first would mix in hidden colours."""
        rgba = self._to_rgba.reformat(
            frame, format=pixel_format, interpolation=SCALING, threads=1
        ).to_ndarray()
        rgb, alpha = rgba[..., :3], rgba[..., 3:]
        if rgba.dtype == np.uint8:
            # Half of the divisor is added, so that the division rounds instead of rounding down.
            rgb = ((rgb.astype(np.uint16) * alpha + 127) // 255).astype(np.uint8)
            black = VideoFrame.from_ndarray(rgb, format="rgb24")
        else:
            rgb = ((rgb.astype(np.uint32) * alpha + 32767) // 65535).astype(np.uint16)
            black = VideoFrame.from_ndarray(rgb, format="rgb48le")
        black.colorspace = _RGB
        return black

    def _scale(self, frame: VideoFrame, pixel_format: str) -> np.ndarray:
        width_px, height_px = self._size
        coded_width, coded_height = self._coded_size
        wider = frame.width * coded_height / (frame.height * coded_width)
        if wider > 1 + _SAME_SHAPE:
            height_px = max(1, round(height_px / wider))
        elif wider < 1 - _SAME_SHAPE:
            width_px = max(1, round(width_px * wider))
        return self._scaler.reformat(
            frame, width_px, height_px, pixel_format, interpolation=SCALING, threads=1
        ).to_ndarray()

    def _between_bars(self, pixels: np.ndarray) -> np.ndarray:
        width_px, height_px = self._size
        height, width = pixels.shape[:2]
        if (height, width) == (height_px, width_px):
            return pixels
        padded = np.zeros((height_px, width_px, 3), np.uint8)
        top, left = (height_px - height) // 2, (width_px - width) // 2
        padded[top : top + height, left : left + width] = pixels
        return padded


def _likely_matrix(frame: VideoFrame, transfer: Transfer | None) -> int:
    if frame.format.is_rgb:
        return _RGB
    if transfer:
        return _BT2020
    return _BT709 if frame.height >= _MIN_HD_HEIGHT_PX else _BT601


def deinterlaced(events: Iterator[Held | DamagedSpan]) -> Iterator[Held | DamagedSpan]:
    """Passes events on; from the first interlaced frame on through FFmpeg's ``bwdif``.

    One frame comes out for each frame that goes in. Progressive frames in between stay as they are.
    """
    weaver: _Deinterlacer | None = None
    for event in events:
        # The filter looks at neighbouring frames. It starts anew after a cut, where neighbours in
        # the stream are no neighbours in time.
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
    """Holds a filter graph that looks one frame ahead. It ends where damage begins."""

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
            # In the mode "send_frame" one frame comes out for each that goes in, so the times stay
            # in step.
            yield replace(self._waiting.popleft(), frame=frame)
