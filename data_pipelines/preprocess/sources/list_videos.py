"""Streams the inputs of a source in sorted order: a folder, a glob, one file, or a URI."""

import fnmatch
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace

from data_pipelines.preprocess.faults import video_error
from data_pipelines.preprocess.rejects import Refused
from data_pipelines.preprocess.rows import LeftOut, VideoItem
from data_pipelines.preprocess.sources.file_kinds import (
    LABELS_SUFFIX,
    is_tar,
    is_video,
    kind_of_name,
    labeled_format,
    other_kind,
    suffix_of,
)
from lafp import storage
from lafp.config import ConfigError
from lafp.data.shards.format import Split
from lafp.storage import FileInfo, NotAFileError

WEBDATASET = "webdataset"
"""Name of the reader of tars with videos."""


def list_videos(
    files: Iterable[FileInfo], split: Split | None, has_labels: bool
) -> Iterator[VideoItem | LeftOut | FileInfo]:
    """Yields the inputs among the files of one source, and the files that are left out.

    A file is an input unless its name says that it is not a video. The kind of other files becomes
    known from their content when they are opened.

    Args:
        files: The output of ``list_source_files``.
        split: The split for which the user gave the source.
        has_labels: Whether the source has labels. If so, ``x.mp4`` is paired with ``x.npz``, an
            ``.npz`` without a video holds stacked episodes, and files of a labeled format are
            passed on for their reader to list. Without labels none of these are inputs, but tars of
            videos are.
    """
    if has_labels:
        yield from _with_labels(files, split)
        return
    for file in files:
        why = other_kind(file.uri)
        if suffix_of(file.uri) == LABELS_SUFFIX or labeled_format(file.uri):
            why = "holds labels: set labels to read it"
        yield _left_out(file, why) or _input(file, split, has_labels)


def _with_labels(
    files: Iterable[FileInfo], split: Split | None
) -> Iterator[VideoItem | LeftOut | FileInfo]:
    """Pairs videos with their label files.

    All files of one stem follow each other, but files of longer stems may stand between them:
    ``a.mp4``, ``a.mp4.md5``, ``a.npz``.
    """
    open_stems: dict[str, list[FileInfo]] = {}
    for file in files:
        for stem in [stem for stem in open_stems if not file.uri.startswith(stem)]:
            yield from _pairs(open_stems.pop(stem), split)
        why = "tars are read only without labels" if is_tar(file.uri) else other_kind(file.uri)
        if left_out := _left_out(file, why):
            yield left_out
        elif labeled_format(file.uri) and file.error is None:
            yield file
        else:
            open_stems.setdefault(_stem(file.uri), []).append(file)
    for group in open_stems.values():
        yield from _pairs(group, split)


def _pairs(group: list[FileInfo], split: Split | None) -> Iterator[VideoItem | LeftOut]:
    """Yields the inputs among the files of one stem."""
    labels = [file for file in group if suffix_of(file.uri) == LABELS_SUFFIX]
    videos = [file for file in group if file not in labels]
    for file in labels[1:] if videos else []:  # `x.NPZ` beside `x.npz`
        yield LeftOut(uri=file.uri, what=LABELS_SUFFIX, why="the labels are in another file")
    for file in videos or labels:
        item = _input(file, split, has_labels=True)
        is_pair = bool(videos and labels)
        yield replace(item, labels_uri=labels[0].uri, is_guess=False) if is_pair else item


def _left_out(file: FileInfo, why: str) -> LeftOut | None:
    if isinstance(file.error, NotAFileError):
        what = str(file.error).removeprefix(f"{file.uri} is ").removesuffix(", not a file")
        return LeftOut(uri=file.uri, what=what, why="not a file")
    return LeftOut(uri=file.uri, what=kind_of_name(file.uri), why=why) if why else None


def _input(file: FileInfo, split: Split | None, has_labels: bool) -> VideoItem:
    item = video_item(file.uri, file.num_bytes, split, has_labels)
    if file.error is not None:
        found = video_error(file.error)
        return replace(item, refused=Refused(found.reason, found.detail))
    is_known = item.reader or is_video(file.uri) or suffix_of(file.uri) == LABELS_SUFFIX
    return replace(item, is_guess=not is_known)


def video_item(uri: str, num_bytes: int, split: Split | None, has_labels: bool) -> VideoItem:
    """Makes the item of a video or (with labels) stacked episodes or (without) a tar of videos."""
    is_stacked = has_labels and suffix_of(uri) == LABELS_SUFFIX
    labels_uri = uri if is_stacked else f"{_stem(uri)}{LABELS_SUFFIX}"
    return VideoItem(
        uri=uri,
        num_bytes=num_bytes,
        split=split,
        labels_uri=labels_uri if has_labels else None,
        reader=WEBDATASET if is_tar(uri) and not has_labels else "",
    )


def check_inputs(
    listed: Iterable[VideoItem | LeftOut], source: str
) -> Iterator[VideoItem | LeftOut]:
    """Passes a listing on and checks that it is not empty.

    Raises:
        ConfigError: The listing ended without an input.
    """
    num_items, others = 0, Counter[str]()
    for found in listed:
        if isinstance(found, VideoItem):
            num_items += 1
        else:
            others[f"{found.what} ({found.why})"] += 1
        yield found
    if num_items:
        return
    if is_glob(source) and not others:
        raise ConfigError(f"No file matches {source}. Correct the pattern, or name a folder.")
    held = ", ".join(f"{num} {what}" for what, num in others.most_common(4))
    what = f"{others.total()} other file(s): {held}" if others else "nothing"
    raise ConfigError(f"No videos in {source}: it holds {what}. Name another source.")


def list_source_files(source: str) -> Iterator[FileInfo]:
    """Yields every file of a folder or a glob, or the one file.

    Raises:
        ConfigError: The source does not exist.
    """
    # The name of a folder or file may itself hold brackets, so one that exists is no pattern.
    if is_glob(source) and not storage.exists(source):
        folder = source[: source.rindex("/", 0, _first_wildcard(source)) + 1]
        _check_exists(folder, source)
        yield from (f for f in storage.list_files(folder) if fnmatch.fnmatch(f.uri, source))
        return
    if storage.is_file(source):
        yield FileInfo(uri=source, num_bytes=storage.num_bytes(source))
        return
    _check_exists(source, source)
    yield from storage.list_files(source)


def _check_exists(folder: str, source: str) -> None:
    if not storage.exists(folder):
        raise ConfigError(
            f"No such file or folder: {source}. A source is a folder, a glob, a file or "
            "s3://bucket/prefix (or gs://, az://, hf://datasets/...)."
        )


def is_glob(source: str) -> bool:
    """Says whether a source has wildcards."""
    return any(char in source for char in "*?[")


def _first_wildcard(source: str) -> int:
    return min(source.index(char) for char in "*?[" if char in source)


def _stem(uri: str) -> str:
    folder, slash, name = uri.rpartition("/")
    stem, dot, _ = name.rpartition(".")
    return f"{folder}{slash}{stem if dot else name}"
