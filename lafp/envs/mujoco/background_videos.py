"""Real videos behind an agent: chosen, cropped and played as an episode's seed says.

Videos are split between training and test by the hash of the file, so the same file is on the same
side on every machine, under any name. Each process decodes a video once, while it is in its cache.
"""

# Shape letters in this file: T frames, H height, W width.

import functools
import hashlib
import logging
import time
from collections import OrderedDict
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Literal

import numpy as np

from lafp.config import ConfigError
from lafp.data.randomness import keyed_uint64, keyed_uniform
from lafp.video.decoders.base import DamagedSpan, VideoError
from lafp.video.decoders.pyav import PyAVConfig, PyAVDecoder

VideoSplit = Literal["train", "test"]

TEST_SHARE = 0.25
SUFFIXES = frozenset({".avi", ".gif", ".m4v", ".mkv", ".mov", ".mp4", ".mpg", ".webm"})
MAX_FRAMES = 256
"""Of a video, from its beginning: at 64 px they take 5 MiB. Played there and back."""
MARGIN = 1.25
"""Videos are scaled to cover so many picture widths, and cropped at random: few look like many."""
MIN_FRAMES = 8
_MAX_PIXELS = 4096 * 4096
_DECODE_TIMEOUT_S = 60.0

_log = logging.getLogger(__name__)


def _digest(path: Path) -> str:
    """Hash of a file's size and first MiB: enough to tell videos apart, however large they are."""
    with path.open("rb") as file:
        return hashlib.sha256(b"%d " % path.stat().st_size + file.read(1 << 20)).hexdigest()


def _split_of(digest: str) -> VideoSplit:
    return "test" if int(digest[:16], 16) / 2**64 < TEST_SHARE else "train"


@functools.cache
def videos_of(folder: str, split: VideoSplit) -> tuple[str, ...]:
    """The videos of one side, in the order of their hashes, files of one content once.

    Raises:
        ConfigError: There is no such folder, or no video on that side.
    """
    root = Path(folder).expanduser()
    if not root.is_dir():
        raise ConfigError(f"distractors.videos: {folder} is no folder. Name a folder of videos.")
    found: dict[str, str] = {}
    for path in sorted(path for path in root.rglob("*") if path.suffix.lower() in SUFFIXES):
        digest = _digest(path)
        if _split_of(digest) == split:
            found.setdefault(digest, str(path))
    if not found:
        raise ConfigError(
            f"distractors.videos: {folder} holds no {split} video. One of four files, by hash, "
            f"belongs to test. Put more videos ({', '.join(sorted(SUFFIXES))}) there."
        )
    return tuple(found[digest] for digest in sorted(found))


class VideoCache:
    """Decoded videos at one size, least recently used ones dropped beyond ``max_bytes``."""

    def __init__(self, height_px: int, width_px: int, max_bytes: int) -> None:
        self.height_px, self.width_px = round(MARGIN * height_px), round(MARGIN * width_px)
        self._max_bytes, self._num_bytes = max_bytes, 0
        self._clips: OrderedDict[str, np.ndarray | None] = OrderedDict()

    def get(self, path: str) -> np.ndarray | None:
        """Frames, uint8 [T, H, W, 3] at ``MARGIN`` times the size; None if it does not decode."""
        if path not in self._clips:
            self._clips[path] = clip = self._decoded(path)
            self._num_bytes += 0 if clip is None else clip.nbytes
        self._clips.move_to_end(path)
        while self._num_bytes > self._max_bytes and len(self._clips) > 1:
            _, dropped = self._clips.popitem(last=False)
            self._num_bytes -= 0 if dropped is None else dropped.nbytes
        return self._clips[path]

    def _decoded(self, path: str) -> np.ndarray | None:
        try:
            frames = list(islice(self._frames(path), MAX_FRAMES))
        except VideoError as error:
            _log.warning("%s is no background: %s", path, error)
            return None
        if len(frames) < MIN_FRAMES:
            _log.warning("%s is no background: only %d sound frames.", path, len(frames))
            return None
        return np.stack(frames)

    def _frames(self, path: str) -> Iterator[np.ndarray]:
        decoder, deadline = PyAVDecoder(PyAVConfig()), time.monotonic() + _DECODE_TIMEOUT_S
        info = decoder.probe(path, _MAX_PIXELS, deadline)
        scale = max(self.height_px / info.height_px, self.width_px / info.width_px)
        height_px = max(self.height_px, round(scale * info.height_px))
        width_px = max(self.width_px, round(scale * info.width_px))
        top, left = (height_px - self.height_px) // 2, (width_px - self.width_px) // 2
        for frame in decoder.frames(path, info, width_px, height_px, deadline):
            if not isinstance(frame, DamagedSpan):
                pixels = frame.pixels()
                yield pixels[top : top + self.height_px, left : left + self.width_px].copy()


@functools.lru_cache(maxsize=4)
def cache_of_process(height_px: int, width_px: int, max_bytes: int) -> VideoCache:
    """The one cache of this process for a size."""
    return VideoCache(height_px, width_px, max_bytes)


class Background:
    """The video behind one episode.

    Which video, where it begins, its crop and whether it is mirrored are drawn from the episode's
    seed; it is played there and back. With ``hold_steps`` another one begins after as many steps.

    Args:
        videos: Paths of the split.
        cache: Of the process.
        seed: Of the episode.
        hold_steps: Steps of one video; None keeps it.
    """

    def __init__(
        self, videos: tuple[str, ...], cache: VideoCache, seed: int, hold_steps: int | None
    ) -> None:
        self._videos, self._cache, self._seed, self._hold_steps = videos, cache, seed, hold_steps
        self._number = -1
        self._frames = np.zeros((0, 0, 0, 3), np.uint8)

    def frame(self, step: int, height_px: int, width_px: int) -> np.ndarray:
        """uint8 [H, W, 3] at a step of the episode."""
        number, step = divmod(step, self._hold_steps) if self._hold_steps else (0, step)
        if number != self._number:
            self._number = number
            self._frames = self._chosen(number, height_px, width_px)
        num, start = len(self._frames), keyed_uniform(self._seed, number, 3)
        period = 2 * num - 2
        position = (int(start * period) + step) % period
        return self._frames[min(position, period - position)]

    def _chosen(self, number: int, height_px: int, width_px: int) -> np.ndarray:
        """The frames of the episode's ``number``-th video, cropped."""
        seed = self._seed
        order = np.argsort(keyed_uint64(seed, number, 0, np.arange(len(self._videos))))
        for index in order:  # the first one that decodes
            frames = self._cache.get(self._videos[index])
            if frames is not None:
                break
        else:
            raise ConfigError(f"None of the {len(self._videos)} background videos decodes.")
        top, left = (
            int(keyed_uniform(seed, number, 1, axis) * (total - size + 1))
            for axis, (total, size) in enumerate(
                zip(frames.shape[1:3], (height_px, width_px), strict=True)
            )
        )
        cropped = frames[:, top : top + height_px, left : left + width_px]
        return cropped[:, :, ::-1] if keyed_uniform(seed, number, 2) < 0.5 else cropped
