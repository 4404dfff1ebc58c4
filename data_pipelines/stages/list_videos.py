"""List the inputs of a source: a folder, a glob, one file, or ``s3://``. Streams, sorted."""

import fnmatch
import itertools
import mimetypes
from collections.abc import Callable, Iterator

from data_pipelines.rows import VideoItem
from lafp import storage
from lafp.config import ConfigError
from lafp.data.shard_format import Split
from lafp.storage import FileInfo

LABELS_SUFFIX = ".npz"
WEBDATASET, WEBDATASET_SUFFIX = "webdataset", ".tar"
"""Reader and suffix of tars with videos."""
# Video containers that `mimetypes` does not know on every system.
_VIDEO_SUFFIXES = {".mkv", ".webm", ".flv", ".3gp", ".ts", ".mts", ".m2ts", ".ogv", ".gif", ".wmv"}
# Folders of other formats hold little else.
_NUM_LOOKED_AT = 100
# Types that are certainly something else; files of unknown type are tried.
_OTHER_TYPES = ("text/", "image/", "audio/", "application/", "font/")
_OTHER_SUFFIXES = {".npz", ".npy", ".parquet", ".jsonl", ".yaml", ".yml", ".md", ".log", ".srt"}


def list_videos(source: str, split: Split | None, has_labels: bool) -> Iterator[VideoItem]:
    """Yields the inputs of one source, sorted by URI.

    Args:
        source: A folder or prefix (searched to any depth), a glob (``*``, ``?``, ``[``), or one
            file.
        split: The split that the source was given for.
        has_labels: Pairs ``x.mp4`` with ``x.npz``; an ``.npz`` without video holds stacked
            episodes. Without labels, ``.npz`` files are no inputs, and tars of videos are.

    Raises:
        ConfigError: The source does not exist or holds no input.
    """
    num_items = num_skipped = 0
    for _, group in itertools.groupby(list_source_files(source), key=lambda file: _stem(file.uri)):
        files = list(group)
        videos = [file for file in files if may_be_video(file.uri)]
        labels = [file for file in files if file.uri.endswith(LABELS_SUFFIX)] if has_labels else []
        if not has_labels:
            videos += [file for file in files if file.uri.endswith(WEBDATASET_SUFFIX)]
        num_skipped += sum(file not in videos and file not in labels for file in files)
        for file in videos or labels:
            num_items += 1
            yield video_item(file.uri, file.num_bytes, split, has_labels)
    if not num_items:
        if _is_glob(source) and not num_skipped:
            raise ConfigError(f"No file matches {source}.")
        found = f"{num_skipped} other file(s)" if num_skipped else "nothing"
        raise ConfigError(f"No videos in {source}: it holds {found}.")


def video_item(uri: str, num_bytes: int, split: Split | None, has_labels: bool) -> VideoItem:
    """A video, a file of stacked episodes (both with labels), or a tar of videos (without)."""
    return VideoItem(
        uri=uri,
        num_bytes=num_bytes,
        split=split,
        labels_uri=f"{_stem(uri)}{LABELS_SUFFIX}" if has_labels else None,
        reader=WEBDATASET if uri.endswith(WEBDATASET_SUFFIX) and not has_labels else "",
    )


def list_source_files(source: str) -> Iterator[FileInfo]:
    """Every file of a folder, a glob, or the one file.

    Raises:
        ConfigError: The source does not exist.
    """
    if _is_glob(source) and not storage.exists(source):
        folder = source[: source.rindex("/", 0, _first_wildcard(source)) + 1]
        _check_exists(folder, source)
        yield from (f for f in storage.list_files(folder) if fnmatch.fnmatch(f.uri, source))
        return
    if storage.is_file(source):
        yield FileInfo(uri=source, num_bytes=storage.num_bytes(source))
        return
    _check_exists(source, source)
    yield from storage.list_files(source)


def holds_files(source: str, is_wanted: Callable[[str], bool]) -> bool:
    """Whether any of the first files of a source is one of a format, by its URI."""
    try:
        files = itertools.islice(list_source_files(source), _NUM_LOOKED_AT)
        return any(is_wanted(file.uri) for file in files)
    except ConfigError:  # a missing source: whoever lists it will say so
        return False


def _check_exists(folder: str, source: str) -> None:
    if not storage.exists(folder):
        raise ConfigError(
            f"No such file or folder: {source}. A source is a folder, a glob, a file or "
            "s3://bucket/prefix."
        )


def _is_glob(source: str) -> bool:
    return any(char in source for char in "*?[")


def _first_wildcard(source: str) -> int:
    return min(source.index(char) for char in "*?[" if char in source)


def _stem(uri: str) -> str:
    folder, slash, name = uri.rpartition("/")
    stem, dot, _ = name.rpartition(".")
    return f"{folder}{slash}{stem if dot else name}"


def may_be_video(uri: str) -> bool:
    """Whether a file is worth a try, by its name."""
    name = uri.rpartition("/")[2].lower()
    suffix = f".{name.rpartition('.')[2]}" if "." in name else ""
    if suffix in _VIDEO_SUFFIXES:
        return True
    if suffix in _OTHER_SUFFIXES:
        return False
    kind, _ = mimetypes.guess_type(f"x{suffix}")
    return kind is None or not kind.startswith(_OTHER_TYPES)
