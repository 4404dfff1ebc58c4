"""Offers torchcodec, which decodes with FFmpeg's shared libraries of the system, or on a GPU."""

import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from itertools import repeat
from typing import Any, Literal

import numpy as np

from lafp.config import ConfigError
from lafp.video.convert import Scaler
from lafp.video.decoders.base import (
    DamagedSpan,
    DecodedFrame,
    IsWanted,
    Orientation,
    VideoError,
    VideoInfo,
)
from lafp.video.decoders.pyav import PyAVConfig, PyAVDecoder

_UPRIGHT_OR_TURNED = (
    Orientation(),
    Orientation(is_turned=True, flip_x=True),
    Orientation(is_turned=True, flip_y=True),
    Orientation(flip_x=True, flip_y=True),
)
# A stamp that differs by more from the packet's is another frame. Both are float64 of one fraction.
_SAME_TIME_S = 1e-6
# Decoding that starts late gives frames from this long before the start on.
_MARGIN_S = 1.0
# torchcodec takes a matrix that is not named for that of BT.601 (Rec. ITU-R BT.601, luma weights
# 0.299 and 0.114), players take HD for BT.709 (0.2126, 0.0722).
_BT601_WEIGHTS, _BT709_WEIGHTS = (0.299, 0.114), (0.2126, 0.0722)


@dataclass(frozen=True, kw_only=True)
class TorchCodecConfig:
    """Configures torchcodec. It never notices damage: corrupt spans become wrong pictures.

    HDR, interlaced, transparent and mirrored videos, and files whose time stamps are not to be
    trusted, become rejects, because it would show them wrongly.
    """

    name: Literal["torchcodec"] = "torchcodec"
    device: Literal["cpu", "cuda"] = "cpu"
    """``cuda`` decodes on the first GPU (NVDEC). Videos that it cannot decode are decoded on the
    CPU, and their number is reported."""


class TorchCodecDecoder:
    """Decodes with torchcodec, see ``VideoDecoder``.

    It probes with PyAV, so that limits, time stamps and reject reasons are those of PyAV.

    Raises:
        ConfigError: torchcodec, FFmpeg's libraries or the GPU are missing.
    """

    Config = TorchCodecConfig

    def __init__(self, cfg: TorchCodecConfig) -> None:
        self.cfg = cfg
        self._probe = PyAVDecoder(PyAVConfig())
        self._video_decoder = import_torchcodec().decoders.VideoDecoder
        if cfg.device == "cuda":
            _check_cuda()

    def probe(self, path: str, max_pixels: int, deadline: float) -> VideoInfo:
        """See ``VideoDecoder.probe``.

        Raises:
            VideoError: Also if torchcodec would show the video wrongly.
        """
        info = self._probe.probe(path, max_pixels, deadline)
        if why := _shown_wrongly(info):
            raise VideoError("beyond_decoder", f"torchcodec {why}; video_decoder.name=pyav does it")
        fallback = ""
        if self.cfg.device == "cuda":
            found = self._open(path).cpu_fallback
            fallback = str(found) if found else ""
        # `frames` below makes no other checks for suspect files.
        return replace(info, hides_damage=False, fallback=fallback)

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
        """See ``VideoDecoder.frames``. It makes no further checks, and ends at the first error."""
        reader = self._open(path)
        to_rgb = _ToSize(width_px, height_px, info)
        times_s = info.times_s
        first = max(0, int(np.searchsorted(times_s, start_s - _MARGIN_S, "right")) - 1)
        wanted = _wanted(times_s[first:], is_wanted)
        for i, is_used in enumerate(wanted, start=first):
            if time.monotonic() > deadline:
                raise VideoError("timeout", "the time for one video is used up")
            time_s = float(times_s[i])
            if not is_used:
                # Its pixels are not converted, unless they are asked for.
                yield DecodedFrame(time_s, partial(_pixels, reader, i, info, to_rgb))
                continue
            try:
                pixels = _pixels(reader, i, info, to_rgb)
            except VideoError as error:
                yield DamagedSpan(time_s, info.duration_s, error.detail)
                return
            yield DecodedFrame(time_s, partial(np.asarray, pixels))

    def _open(self, path: str) -> Any:
        try:
            return self._video_decoder(
                path, dimension_order="NHWC", num_ffmpeg_threads=1, device=self.cfg.device
            )
        # torchcodec raises errors of many kinds, those of C++ as RuntimeError.
        except Exception as error:
            raise VideoError("does_not_decode", _cause(error)) from error


def import_torchcodec() -> Any:
    """Imports torchcodec with FFmpeg's libraries.

    Raises:
        ConfigError: It is not installed, or does not find or fit FFmpeg or torch.
    """
    try:
        import torchcodec.decoders
    except ImportError as error:
        raise ConfigError(
            f"video_decoder.name: torchcodec does not import ({error}). Install it with: "
            "pip install 'lafp[torchcodec]', or use video_decoder.name=pyav."
        ) from None
    except (RuntimeError, OSError) as error:
        # Its message holds a traceback for each version of FFmpeg.
        what = "libavutil" if "libavutil.so" in str(error) else "a library"
        raise ConfigError(
            f"video_decoder.name: torchcodec does not find {what} that it needs. Install FFmpeg's "
            "shared libraries, version 4 to 8 (Debian and Ubuntu: apt-get install ffmpeg), and a "
            f"torchcodec that fits torch {version('torch')}; or use video_decoder.name=pyav, which "
            "needs neither."
        ) from None
    return torchcodec


def _check_cuda() -> None:
    """Checks that torch sees a GPU.

    Raises:
        ConfigError: It does not.
    """
    # torchcodec has loaded it. Other decoders must not, so this package does not import it.
    if not sys.modules["torch"].cuda.is_available():
        raise ConfigError(
            f"video_decoder.device: cuda, but torch {version('torch')} sees no GPU in the process "
            "that decodes. Use video_decoder.device=cpu, or install CUDA builds of torch and "
            "torchcodec and run on nodes with a GPU (tasks.node_labels)."
        )


def _shown_wrongly(info: VideoInfo) -> str:
    """Says why torchcodec would show a video wrongly; empty if it would not."""
    needs = info.conversions
    if needs.from_hdr:
        return "does not convert HDR"
    if needs.from_fields:
        return "does not deinterlace"
    if needs.from_alpha:
        return "shows the hidden colours of transparent areas"
    if info.orientation not in _UPRIGHT_OR_TURNED:
        return "does not mirror pictures"
    if info.timeline is not None and not info.timeline.is_plain:
        return "believes the time stamps, which are wrong here"
    return ""


def _wanted(times_s: np.ndarray, is_wanted: IsWanted | None) -> Iterator[bool]:
    """Says for each frame whether its pixels are wanted."""
    if is_wanted is None:
        yield from repeat(True, len(times_s))
        return
    is_wanted(float(times_s[0]))
    for time_s in times_s[1:]:
        yield is_wanted(float(time_s))
    yield True


def _pixels(reader: Any, index: int, info: VideoInfo, to_size: "_ToSize") -> np.ndarray:
    """Decodes one frame.

    Raises:
        VideoError: It does not decode, or to another frame or size than the probe has seen.
    """
    try:
        frame = reader.get_frame_at(index)
    except Exception as error:
        raise VideoError("damaged", _cause(error)) from error
    time_s = frame.pts_seconds - info.first_pts_s
    if abs(time_s - info.times_s[index]) > _SAME_TIME_S:
        detail = f"torchcodec shows the frame of {time_s:.3f} s at {info.times_s[index]:.3f} s"
        raise VideoError("damaged", detail)
    return to_size(frame.data.cpu().numpy())


class _ToSize:
    """Scales pictures as torchcodec gives them: upright, whole, as coded."""

    def __init__(self, width_px: int, height_px: int, info: VideoInfo) -> None:
        self._scale = Scaler(width_px, height_px)
        width, height = info.coded_size
        self._whole = (width, height) if info.orientation.is_turned else (height, width)
        self._matrix = _from_bt601_to_bt709() if info.conversions.with_bt709 else None

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        """Returns uint8 RGB [height, width, 3].

        Raises:
            VideoError: The picture has another size than the first one.
        """
        height, width = pixels.shape[:2]
        if (height, width) != self._whole:
            raise VideoError("damaged", f"the frame size changes to {width}x{height}")
        pixels = self._scale(pixels)
        if self._matrix is None:
            return pixels
        return np.rint(pixels @ self._matrix).clip(0, 255).astype(np.uint8)


def _from_bt601_to_bt709() -> np.ndarray:
    """Returns float32 [3, 3] that turns RGB decoded by BT.601's matrix into that by BT.709's."""
    to_yuv = _yuv_matrix(*_BT601_WEIGHTS)
    return (np.linalg.inv(_yuv_matrix(*_BT709_WEIGHTS)) @ to_yuv).T.astype(np.float32)


def _yuv_matrix(red: float, blue: float) -> np.ndarray:
    """Returns float64 [3, 3] from R, G, B to Y, Cb, Cr, where Kr and Kb are the luma's weights."""
    luma = np.array([red, 1 - red - blue, blue])
    from_blue = (np.array([0, 0, 1]) - luma) / (2 * (1 - blue))
    from_red = (np.array([1, 0, 0]) - luma) / (2 * (1 - red))
    return np.stack([luma, from_blue, from_red])


def _cause(error: Exception) -> str:
    """Returns the message without the C++ file and function that it names."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].rpartition("cpp:")[2].partition(", ")[2] or lines[0]
