"""Opens a camera whose frames are JPEG or PNG pictures. A broken one costs only its own frame."""

import hashlib
import io
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np
from PIL import Image

from data_pipelines.preprocess.clip.labels.read import EpisodeLabels
from data_pipelines.preprocess.sources.opened import Opened, Unusable
from lafp.video.decoders.arrays import array_frames, pictures_info
from lafp.video.decoders.base import DamagedSpan, DecodedFrame, VideoError

_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "PPM")
"""Pictures may have these formats. Others that Pillow knows start other programs."""
_DEPTH_MODES = "IF"  # whole numbers of 16 or 32 bits, or floats


def open_pictures(
    pictures: Sequence[bytes],
    uri: str,
    episode_id: str,
    fps: float,
    max_pixels: int,
    labels: Callable[[], EpisodeLabels] | None,
    *,
    is_rate_assumed: bool = False,
) -> Opened | Unusable:
    """Opens a video of pictures, one per frame. Empty or broken pictures are damaged frames.

    Args:
        pictures: Encoded pictures.
        uri: URI of the video.
        episode_id: Id that all cameras of the episode share.
        fps: Rate of the pictures.
        max_pixels: Largest width x height.
        labels: Reads the labels; may raise ``VideoError``.
        is_rate_assumed: Whether ``fps`` is a default because the file does not give a rate.
    """
    heads = Counter(head for data in pictures if (head := _head(data)) is not None)
    if not heads:
        return Unusable(uri, "does_not_decode", f"none of its {len(pictures)} pictures can be read")
    # The first picture may be the odd one, so the most common size is the size of the video.
    (mode, (width, height)), _ = heads.most_common(1)[0]
    if mode[0] in _DEPTH_MODES:
        return Unusable(uri, "depth", f"its pictures have mode {mode}")
    if width * height > max_pixels:
        return Unusable(uri, "too_large", f"{width}x{height}")
    return Opened(
        uri=uri,
        video_id=hashlib.sha256(b"".join(pictures)).hexdigest()[:32],
        episode_id=episode_id,
        num_bytes=sum(map(len, pictures)),
        info=pictures_info(len(pictures), height, width, fps, codec="jpeg"),
        frames=partial(_frames, pictures, (width, height), fps),
        labels=labels,
        is_rate_assumed=is_rate_assumed,
    )


def are_one_colour(pictures: Sequence[bytes]) -> bool:
    """Says whether all pictures are equal and of one colour."""
    if any(data != pictures[0] for data in pictures):
        return False
    try:
        with Image.open(io.BytesIO(pictures[0]), formats=_FORMATS) as picture:
            return bool(np.ptp(np.asarray(picture)) == 0)
    except Exception:  # a hostile picture may raise anything
        return False


def _head(data: bytes) -> tuple[str, tuple[int, int]] | None:
    """Returns mode and size of a picture; None if it cannot be read."""
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as picture:
            return picture.mode, picture.size
    except Exception:  # a hostile picture may raise anything
        return None


def _frames(
    pictures: Sequence[bytes], size: tuple[int, int], fps: float, width_px: int, height_px: int
) -> Iterator[DecodedFrame | DamagedSpan]:
    pixels = (_pixels(i, data, size) for i, data in enumerate(pictures))
    return array_frames(pixels, fps, width_px, height_px)


def _on_black(picture: Image.Image) -> Image.Image:
    """Converts a picture to RGB. Transparent areas become black, as in videos."""
    if not picture.has_transparency_data:
        return picture.convert("RGB")
    blended = Image.new("RGBA", picture.size, "black")
    blended.alpha_composite(picture.convert("RGBA"))
    return blended.convert("RGB")


def _pixels(index: int, data: bytes, size: tuple[int, int]) -> np.ndarray | VideoError:
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as picture:
            if picture.size != size:
                what = f"is {picture.size[0]}x{picture.size[1]}, the others {size[0]}x{size[1]}"
            else:
                return np.asarray(_on_black(picture))
    except Exception as error:  # a hostile picture may raise anything
        what = f"cannot be read: {error}" if data else "is empty"
    return VideoError("damaged", f"picture {index} {what}")
