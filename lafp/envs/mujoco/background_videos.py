"""Plays real videos behind an agent. The episode's seed chooses the video and its crop.

Videos are split between training and test by the hash of the file, so a file belongs to the same
split on every machine and under any name. A process decodes a video again only after its cache has
dropped it.
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
"""Number of frames that are used of a video, from its beginning. At 64 px they take 5 MiB."""
MARGIN = 1.25
"""Videos are scaled to this multiple of the picture's size and cropped at random, so that a few
videos give many different backgrounds."""
MIN_FRAMES = 8
_MAX_PIXELS = 4096 * 4096
_DECODE_TIMEOUT_S = 60.0

_log = logging.getLogger(__name__)


def _digest(path: Path) -> str:
    """Hashes a file's size and first MiB, which is fast and distinguishes videos."""
    with path.open("rb") as file:
        return hashlib.sha256(b"%d " % path.stat().st_size + file.read(1 << 20)).hexdigest()


def _split_of(digest: str) -> VideoSplit:
    return "test" if int(digest[:16], 16) / 2**64 < TEST_SHARE else "train"


@functools.cache
def videos_of(folder: str, split: VideoSplit, num_videos: int | None = None) -> tuple[str, ...]:
    """Lists the first ``num_videos`` videos of one split by their hashes, without repeated files.

    Raises:
        ConfigError: The folder does not exist, or holds no or too few videos of that split.
    """
    root = Path(folder).expanduser()
    if not root.is_dir():
        raise ConfigError(f"distractors.videos: {folder} is not a folder. Name a folder of videos.")
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
    if num_videos is not None and len(found) < num_videos:
        raise ConfigError(
            f"distractors.num_videos is {num_videos}, but {folder} holds only {len(found)} {split} "
            "videos. Put more there, or set num_videos lower."
        )
    return tuple(found[digest] for digest in sorted(found)[:num_videos])


class VideoCache:
    """Keeps decoded videos of one size, and drops the least recently used above ``max_bytes``."""

    def __init__(self, height_px: int, width_px: int, max_bytes: int) -> None:
        self.height_px, self.width_px = round(MARGIN * height_px), round(MARGIN * width_px)
        self._max_bytes, self._num_bytes = max_bytes, 0
        self._clips: OrderedDict[str, np.ndarray | None] = OrderedDict()

    def get(self, path: str) -> np.ndarray | None:
        """Returns frames, uint8 [T, H, W, 3], of ``MARGIN`` times the size; None if damaged."""
        if path not in self._clips:
            # None is kept as well, so that a damaged video is tried only once.
            self._clips[path] = clip = self._decoded(path)
            self._num_bytes += 0 if clip is None else clip.nbytes
        self._clips.move_to_end(path)
        # The video that is asked for stays, even if it alone is larger than the cache.
        while self._num_bytes > self._max_bytes and len(self._clips) > 1:
            _, dropped = self._clips.popitem(last=False)
            self._num_bytes -= 0 if dropped is None else dropped.nbytes
        return self._clips[path]

    def _decoded(self, path: str) -> np.ndarray | None:
        try:
            frames = list(islice(self._frames(path), MAX_FRAMES))
        except VideoError as error:
            _log.warning("%s cannot be a background: %s", path, error)
            return None
        if len(frames) < MIN_FRAMES:
            _log.warning(
                "%s cannot be a background: it has only %d undamaged frames.", path, len(frames)
            )
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
    """Returns this process's cache for a size."""
    return VideoCache(height_px, width_px, max_bytes)


class Background:
    """The video behind one episode.

    The episode's seed determines the video, its first frame, its crop and whether it is mirrored.
    The video is played forwards and backwards in turn.

    Args:
        videos: Paths of the split's videos.
        cache: The cache of this process.
        seed: Seed of the episode.
        hold_steps: Number of steps after which another video begins; None keeps the first one.
    """

    def __init__(
        self, videos: tuple[str, ...], cache: VideoCache, seed: int, hold_steps: int | None
    ) -> None:
        self._videos, self._cache, self._seed, self._hold_steps = videos, cache, seed, hold_steps
        self._number = -1
        self._frames = np.zeros((0, 0, 0, 3), np.uint8)

    def frame(self, step: int, height_px: int, width_px: int) -> np.ndarray:
        """Returns the background at a step of the episode, uint8 [H, W, 3]."""
        number, step = divmod(step, self._hold_steps) if self._hold_steps else (0, step)
        if number != self._number:
            self._number = number
            self._frames = self._chosen(number, height_px, width_px)
        num, start = len(self._frames), keyed_uniform(self._seed, number, 3)
        # Forwards and backwards in turn, so that a short video has no jump where it repeats.
        period = 2 * num - 2
        position = (int(start * period) + step) % period
        return self._frames[min(position, period - position)]

    def _chosen(self, number: int, height_px: int, width_px: int) -> np.ndarray:
        """Returns the cropped frames of the episode's ``number``-th video."""
        seed = self._seed
        order = np.argsort(keyed_uint64(seed, number, 0, np.arange(len(self._videos))))
        for index in order:  # the first one that decodes
            frames = self._cache.get(self._videos[index])
            if frames is not None:
                break
        else:
            raise ConfigError(
                f"None of the {len(self._videos)} background videos can be decoded. Put other "
                "videos into the folder distractors.videos."
            )
        top, left = (
            int(keyed_uniform(seed, number, 1, axis) * (total - size + 1))
            for axis, (total, size) in enumerate(
                zip(frames.shape[1:3], (height_px, width_px), strict=True)
            )
        )
        cropped = frames[:, top : top + height_px, left : left + width_px]
        return cropped[:, :, ::-1] if keyed_uniform(seed, number, 2) < 0.5 else cropped
