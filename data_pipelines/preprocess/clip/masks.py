"""Reads masks of the agent, videos in black and white, for the frames that a clip shows."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from data_pipelines.preprocess.clip.labels.flawed import SAME_S
from data_pipelines.preprocess.clip.resize import ResizeConfig, crop_or_pad, scaled_size
from data_pipelines.preprocess.faults import video_error
from data_pipelines.preprocess.sources.opened import Opened
from lafp.video.decoders.base import DamagedSpan, DecodedFrame, VideoError, VideoInfo

# A pixel shows the agent if it is at least this bright after scaling: half of its area is white.
_WHITE = 128
# Pictures whose brightest pixel is no brighter hold numbers of objects, or 0 and 1.
_NUMBERS = 10
# Largest difference in aspect ratio that rounding to whole pixels may cause.
_SAME_SHAPE = 0.02


@dataclass(frozen=True, kw_only=True)
class MasksConfig:
    """Says where the masks of the agent lie, white on black, with one frame per frame of its video.

    The masks of ``SOURCE/a/b.mp4`` are ``MASKS/a/b.mp4`` (or .mkv, .mov, .avi, .webm), or the
    pictures in the folder ``MASKS/a/b/`` in the order of their names. Where the source is a list,
    they are found by names relative to the list's folder. Videos without masks become clips without
    masks. Masks go with video files, also labeled ones, not with other formats of episodes.
    """

    source: str | None = None
    """Folder of the masks of `source`. null takes those that `collect` wrote in the same run
    (`draw_masks`), if the videos are its too."""
    val_source: str | None = None
    """Folder of the masks of `val_source`. null: its videos have none."""


def open_masks(video: Opened) -> Opened | None:
    """Opens the masks of a video, if it has any, and checks that they have its frames and shape.

    Raises:
        VideoError: ``bad_masks``, ``masks_mismatch``.
    """
    if video.masks is None:
        return None
    info = video.info
    try:
        masks = video.masks(info.fps)
    except Exception as error:
        raise VideoError("bad_masks", video_error(error).detail) from error
    num_masks, num_frames = len(masks.info.times_s), len(info.times_s)
    if num_masks != num_frames:
        raise VideoError("masks_mismatch", f"{num_frames} frames, {num_masks} masks")
    found, wanted = ((i.width_px, i.height_px) for i in (masks.info, info))
    if abs(found[0] * wanted[1] / (found[1] * wanted[0]) - 1) > _SAME_SHAPE:
        sizes = f"masks of {found[0]}x{found[1]} px, frames of {wanted[0]}x{wanted[1]} px"
        raise VideoError("masks_mismatch", f"{sizes}: their aspect ratios differ")
    return masks


class MaskReader:
    """Decodes the masks of a video's clips, whose frames must be asked for in ascending order.

    Args:
        masks: The opened masks.
        info: The video. Masks are scaled and cropped as its frames are.
        cfg: Size of the clips.
    """

    def __init__(self, masks: Opened, info: VideoInfo, cfg: ResizeConfig) -> None:
        self._masks, self._info, self._cfg = masks, info, cfg
        self._events: Iterator[DecodedFrame | DamagedSpan] | None = None
        self._number, self._packed = -1, np.empty(0, np.uint8)

    def of_clip(self, shown_s: np.ndarray) -> np.ndarray:
        """Returns the packed masks of a clip's frames, ``Labels.mask``.

        Args:
            shown_s: float64 [T]: when each of its frames begins in the video.

        Raises:
            VideoError: A mask does not decode.
        """
        numbers = np.searchsorted(self._info.times_s, shown_s + SAME_S, side="right") - 1
        return np.stack([self._of_frame(int(number)) for number in numbers.clip(min=0)])

    def _of_frame(self, number: int) -> np.ndarray:
        if self._events is None:
            self._events = self._events_from(number)
        if self._number < number:
            self._packed = self._pack(self._decode(number))
        if self._number != number:
            raise VideoError("damaged", f"the mask of frame {number} does not decode")
        return self._packed

    def _events_from(self, number: int) -> Iterator[DecodedFrame | DamagedSpan]:
        size = scaled_size(self._info, self._cfg)
        if self._masks.frames_from is None:
            return self._masks.frames(*size)
        start_s = float(self._masks.info.times_s[number])
        return self._masks.frames_from(*size, start_s, None, False)

    def _decode(self, number: int) -> np.ndarray:
        """Decodes the mask of a frame, or, if it is damaged, the next one."""
        assert self._events is not None
        for event in self._events:
            if isinstance(event, DecodedFrame):
                times_s = self._masks.info.times_s
                self._number = int(np.searchsorted(times_s, event.time_s + SAME_S, "right")) - 1
                if self._number >= number:
                    return event.pixels()
        raise VideoError("damaged", f"the masks end before frame {number}")

    def _pack(self, pixels: np.ndarray) -> np.ndarray:
        if self._masks.frames_from is None and 0 < (brightest := int(pixels.max())) <= _NUMBERS:
            raise VideoError(
                "damaged", f"the brightest pixel of a mask is {brightest}, not white (255) on black"
            )
        is_agent = crop_or_pad(pixels, self._cfg).max(axis=2) >= _WHITE
        return np.packbits(is_agent, axis=1)
