"""Finds and opens the masks of a video: a mask video, or a folder of pictures."""

import re
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import NoReturn

from data_pipelines.preprocess.clip.probe import LimitsConfig
from data_pipelines.preprocess.rows import LeftOut, VideoItem
from data_pipelines.preprocess.sources.file_kinds import file_name
from data_pipelines.preprocess.sources.opened import Opened, Unusable, open_file
from data_pipelines.preprocess.sources.pictures import open_pictures
from lafp import storage
from lafp.config import ConfigError
from lafp.video.decoders.base import VideoDecoder, VideoError

MASK_SUFFIXES = (".mp4", ".mkv", ".mov", ".avi", ".webm")
_PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".ppm")
_WILDCARDS = "*?["


def with_masks(
    listed: Iterable[VideoItem | LeftOut], source: str, masks: str
) -> Iterator[VideoItem | LeftOut]:
    """Passes a listing on and says where the masks of each video would lie.

    Args:
        listed: The listing of ``source``.
        source: Folder, glob, list or file.
        masks: Folder of the masks.

    Raises:
        ConfigError: The folder holds nothing, an input is no video file, or two videos have the
            same masks.
    """
    if next(iter(storage.list_files(masks)), None) is None:
        raise ConfigError(f"masks: no files in {masks}. Name the folder of the masks of {source}.")
    owners = _Owners()
    for found in listed:
        if isinstance(found, VideoItem):
            found = replace(found, masks_uri=masks_uri(found, source, masks))
            owners.add(found)
        yield found


def masks_uri(item: VideoItem, source: str, masks: str) -> str:
    """Returns where the masks of a video lie if it has any, without suffix.

    Args:
        item: An input of ``source``.
        source: Folder, glob, list or file.
        masks: Folder of the masks.

    Raises:
        ConfigError: The input is no video file.
    """
    if item.reader or item.labels_uri == item.uri:
        raise ConfigError(
            f"masks belong to video files, {item.uri} holds episodes of another kind. "
            "Leave masks out, or convert it to videos."
        )
    return storage.join(masks, _stem(_relative(item.uri, source)))


class _Owners:
    """Notices two videos of one name, which would share masks that belong to one of them.

    A listing may be longer than the memory, so the names lie in a database in an unnamed file.
    """

    def __init__(self) -> None:
        self._db = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        self._db.execute("CREATE TABLE owners (masks BLOB PRIMARY KEY, uri BLOB) WITHOUT ROWID")
        self._db.execute("BEGIN")  # a transaction for each row would be slow

    def add(self, item: VideoItem) -> None:
        """Adds a video.

        Raises:
            ConfigError: Masks are there that belong to it and to an earlier one.
        """
        assert item.masks_uri is not None
        # Names of files may hold bytes that are no UTF-8.
        masks, uri = (text.encode(errors="surrogatepass") for text in (item.masks_uri, item.uri))
        added = self._db.execute("INSERT OR IGNORE INTO owners VALUES (?, ?)", (masks, uri))
        if added.rowcount:
            return
        (other,) = self._db.execute("SELECT uri FROM owners WHERE masks = ?", (masks,)).fetchone()
        if other != uri and (_mask_video(item.masks_uri) or _pictures(item.masks_uri)):
            raise ConfigError(
                f"masks: {item.masks_uri} would belong to two videos, "
                f"{other.decode(errors='surrogatepass')} and {item.uri}. Give them other names, "
                "or put a list into a folder above its videos and masks in the same folders."
            )


def _relative(uri: str, source: str) -> str:
    """Returns the path of a video below its source; its name alone if it lies elsewhere."""
    folder = source.rstrip("/")
    if not uri.startswith(f"{folder}/"):  # a file, a glob or a list
        first = min((source.index(char) for char in _WILDCARDS if char in source), default=None)
        folder = source[:first].rpartition("/")[0]
    return uri.removeprefix(f"{folder}/") if uri.startswith(f"{folder}/") else file_name(uri)


def _stem(path: str) -> str:
    folder, slash, name = path.rpartition("/")
    return f"{folder}{slash}{name.rpartition('.')[0] or name}"


@contextmanager
def found_masks(
    item: VideoItem, limits: LimitsConfig, video_decoder: VideoDecoder
) -> Iterator[Callable[[float], Opened] | None]:
    """Yields a function that opens the item's masks, valid in the block; None if it has none.

    The function takes the rate of the video, because pictures have none. It may raise
    ``VideoError``.
    """
    if item.masks_uri is None:
        yield None
        return
    if uri := _mask_video(item.masks_uri):
        if (num_bytes := storage.num_bytes(uri)) > limits.max_bytes:
            yield partial(_refuse_size, num_bytes)
            return
        with storage.local_file(uri) as path:
            yield lambda _: open_file(path, uri, limits, video_decoder)
        return
    pictures = _pictures(item.masks_uri)
    yield partial(_open_pictures, pictures, item.masks_uri, limits) if pictures else None


def _mask_video(masks_uri: str) -> str | None:
    uris = (f"{masks_uri}{suffix}" for suffix in MASK_SUFFIXES)
    return next(filter(storage.is_file, uris), None)


def _pictures(masks_uri: str) -> list[storage.FileInfo]:
    return _in_order(storage.list_files(masks_uri), masks_uri)


def _in_order(files: Iterable[storage.FileInfo], folder: str) -> list[storage.FileInfo]:
    """Returns the pictures directly in a folder, by number if their names are numbered alike."""
    found = {
        name.rpartition(".")[0]: file
        for file in files
        if (name := file.uri.removeprefix(f"{folder}/")).lower().endswith(_PICTURE_SUFFIXES)
        and "/" not in name
    }
    prefixes = {re.sub(r"\d+$", "", stem) for stem in found}
    if len(prefixes) == 1 and not prefixes & found.keys():  # each name ends in a number
        start = len(prefixes.pop())
        return [found[stem] for stem in sorted(found, key=lambda stem: int(stem[start:]))]
    return [found[stem] for stem in sorted(found)]


def _refuse_size(num_bytes: int, _: float) -> NoReturn:
    raise VideoError("too_many_bytes", f"the masks have {num_bytes} bytes")


def _open_pictures(
    files: list[storage.FileInfo], uri: str, limits: LimitsConfig, fps: float
) -> Opened:
    # All pictures are in memory while the video is gone through.
    if (num_bytes := sum(file.num_bytes for file in files)) > limits.max_bytes:
        _refuse_size(num_bytes, fps)
    pictures = [storage.read_bytes(file.uri) for file in files]
    opened = open_pictures(pictures, uri, "", fps, limits.max_pixels, labels=None)
    if isinstance(opened, Unusable):
        raise VideoError(opened.reason, opened.detail)
    return opened
