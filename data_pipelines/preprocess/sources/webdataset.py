"""Reads WebDataset shards of raw videos, like video2dataset's: tars of ``key.mp4``, ``key.json``.

A tar on disk or S3 is read as a stream, whatever its size: one member at a time is copied to disk.
A tar may be compressed, and a file may hold several tars, one after the other.

The tars are not read through ``webdataset.tariterators``: it skips links silently, stops after the
first of several tars, takes a truncated tar for a whole one, reads each member into memory, and
imports torch into every worker.
"""

import bz2
import gzip
import lzma
import os
import posixpath
import shutil
import tarfile
import zlib
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

from data_pipelines.preprocess.config import PreprocessConfig
from data_pipelines.preprocess.faults import concerns_the_job
from data_pipelines.preprocess.rows import LeftOut, VideoItem
from data_pipelines.preprocess.sources.fetch import fetched
from data_pipelines.preprocess.sources.file_kinds import (
    LABELS_SUFFIX,
    kind_of_name,
    labeled_format,
    other_kind,
    suffix_of,
)
from data_pipelines.preprocess.sources.opened import Opened, Unusable, open_file
from lafp import storage
from lafp.storage.names import safe_suffix, uri_of_name
from lafp.storage.temporary import TemporaryFolder
from lafp.video.decoders.base import VideoDecoder, VideoError

# Headers hold names and attributes. A header that claims to be larger than this is broken.
_MAX_HEADER_BYTES = 2**20
_READ_BYTES = 2**20
# Videos hardly compress. Tars of video2dataset have 10,000 members.
MAX_RATIO, MAX_MEMBERS, _SMALL_TAR_BYTES = 50, 2_000_000, 2**30
_DEVICES = (tarfile.CHRTYPE, tarfile.BLKTYPE)
_BROKEN_STREAM = (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile)


def open_webdataset(
    item: VideoItem, cfg: PreprocessConfig, video_decoder: VideoDecoder
) -> Iterator[Opened | Unusable | LeftOut]:
    """Yields every video of a tar, by the URI ``x.tar#key.mp4``, and the files that are not videos.

    As in folders, a file's name decides what it is, or its content where the name leaves that open.

    Raises:
        VideoError: The rest of the tar is broken.
        OSError: The tar cannot be read, or storage does not answer.
    """
    uris: set[str] = set()
    with _stream(item, cfg) as (file, max_bytes):
        for number, member in enumerate(_members(file, max_bytes)):
            if number == MAX_MEMBERS:
                raise VideoError("too_many_bytes", f"more than {MAX_MEMBERS} members in a tar")
            if _is_hidden(member.name):
                continue
            uri = f"{item.uri}#{uri_of_name(member.name)}"
            if left_out := _left_out(member, uri):
                yield left_out
                continue
            target = _target(member, item.uri)
            while uri in uris:  # a tar may hold a name twice
                uri += f"@{member.offset}"
            if unusable := _unusable(member, uri, target, target in uris, cfg):
                yield unusable
            else:
                with TemporaryFolder() as folder:
                    path = Path(folder) / f"video{safe_suffix(member.name)}"
                    yield _open_member(file, member, path, uri, cfg, video_decoder)
            uris.add(uri)
    if not uris:
        raise VideoError("no_video_stream", "a tar without videos")


@contextmanager
def _stream(item: VideoItem, cfg: PreprocessConfig) -> Iterator[tuple[BinaryIO, int]]:
    """Yields the decompressed tar, and the number of bytes at which it counts as a bomb."""
    if storage.is_http(item.uri):
        with fetched(item, cfg) as path, path.open("rb") as file:
            yield _decompressed(file), _max_bytes(file)
    else:
        with storage.open_file(item.uri) as file:
            yield _decompressed(file), _max_bytes(file)


def _max_bytes(file: BinaryIO) -> int:
    place = file.tell()
    size = file.seek(0, os.SEEK_END)
    file.seek(place)
    return _SMALL_TAR_BYTES + MAX_RATIO * size


def _decompressed(file: BinaryIO) -> BinaryIO:
    """Returns the decompressed tar."""
    head = file.read(6)
    file.seek(0)
    if head.startswith(b"\x1f\x8b"):
        return cast("BinaryIO", gzip.GzipFile(fileobj=file))
    if head.startswith(b"BZh"):
        return cast("BinaryIO", bz2.BZ2File(file))
    if head.startswith(b"\xfd7zXZ\0"):
        return cast("BinaryIO", lzma.LZMAFile(file))
    if head.startswith(b"\x28\xb5\x2f\xfd"):
        raise VideoError("unreadable", "a tar compressed with Zstandard: unpack it")
    return file


def _is_hidden(name: str) -> bool:
    """Says whether a file is hidden, like ``.DS_Store``, or ``._x.mp4`` from macOS."""
    return any(part.startswith(".") and part.strip(".") for part in name.split("/"))


def _left_out(member: tarfile.TarInfo, uri: str) -> LeftOut | None:
    """Says why a member is not an input, by its type or name as in folders; None if it may be."""
    if not (member.isreg() or member.islnk() or member.issym()):
        kinds = {tarfile.FIFOTYPE: "a named pipe"} | dict.fromkeys(_DEVICES, "a device")
        what = kinds.get(member.type, "a member of unknown type")
        return LeftOut(uri=uri, what=what, why="not a file")
    why = other_kind(member.name)
    if suffix_of(member.name) == LABELS_SUFFIX or labeled_format(member.name):
        why = "holds labels: unpack the tar and set labels to read it"
    return LeftOut(uri=uri, what=kind_of_name(member.name), why=why) if why else None


def _target(member: tarfile.TarInfo, tar_uri: str) -> str:
    """Returns the URI to which a link in a tar leads; empty for members that are not links."""
    if not (member.islnk() or member.issym()):
        return ""
    # A symbolic link names its target from its own folder, a hard link from the root of the tar.
    folder = posixpath.dirname(member.name) if member.issym() else ""
    name = posixpath.normpath(posixpath.join(folder, member.linkname))
    is_dotted = member.name.startswith("./")
    return f"{tar_uri}#{uri_of_name(f'./{name}' if is_dotted else name)}"


def _unusable(
    member: tarfile.TarInfo, uri: str, target: str, is_there: bool, cfg: PreprocessConfig
) -> Unusable | None:
    if target and is_there:
        return Unusable(uri, "same_file", target, original_uri=target)
    if target:
        detail = f"a link to {member.linkname}, which is not an earlier video in the tar"
        return Unusable(uri, "not_found", detail)
    if member.issparse():
        return Unusable(uri, "unreadable", "a sparse file: pack it with tar's default options")
    if member.size > cfg.limits.max_bytes:
        return Unusable(uri, "too_many_bytes", f"{member.size} bytes")
    return None


def _open_member(
    file: BinaryIO,
    member: tarfile.TarInfo,
    path: Path,
    uri: str,
    cfg: PreprocessConfig,
    video_decoder: VideoDecoder,
) -> Opened | Unusable:
    file.seek(member.offset_data)
    # The member is copied, because decoders seek, and a stream from S3 cannot.
    with path.open("wb") as copy:
        try:
            shutil.copyfileobj(_Limited(file, member.size), copy)
        except _BROKEN_STREAM as error:
            return Unusable(uri, "truncated", str(error))
    if path.stat().st_size < member.size:
        return Unusable(uri, "truncated", f"the tar ends after {path.stat().st_size} bytes of it")
    try:
        return open_file(path, uri, cfg.limits, video_decoder)
    except VideoError as error:
        return Unusable(uri, error.reason, error.detail)


class _Limited:
    """Reads only the next ``num_bytes`` of a file."""

    def __init__(self, file: BinaryIO, num_bytes: int) -> None:
        self._file, self._left = file, num_bytes

    def read(self, length: int = 0, /) -> bytes:
        data = self._file.read(min(length, self._left))
        self._left -= len(data)
        return data


class _HeaderFile:
    """Limits how large a header ``tarfile`` reads into memory, because a hostile tar may lie."""

    def __init__(self, file: BinaryIO) -> None:
        self.seek, self.tell, self._file = file.seek, file.tell, file

    def read(self, num_bytes: int) -> bytes:
        if not 0 <= num_bytes <= _MAX_HEADER_BYTES:
            raise tarfile.ReadError(f"a header of {num_bytes} bytes")
        return self._file.read(num_bytes)


def _members(file: BinaryIO, max_bytes: int) -> Iterator[tarfile.TarInfo]:
    """Yields the members of all tars in a file, one tar after the other, without folders."""
    start: int | None = 0
    while start is not None:
        start = yield from _members_of_one(file, start, max_bytes)


def _check_unpacked(num_bytes: int, max_bytes: int) -> None:
    if num_bytes > max_bytes:
        detail = f"a compressed tar that unpacks to more than {MAX_RATIO} times its size"
        raise VideoError("too_many_bytes", detail)


def _members_of_one(
    file: BinaryIO, start: int, max_bytes: int
) -> Generator[tarfile.TarInfo, None, int | None]:
    """Yields the members of the tar that begins at ``start``, without folders.

    Unlike ``tarfile``, it distinguishes the end of a tar from a broken header.

    Returns:
        Where the next tar in the file begins; None if there is none.
    """
    end = start
    try:
        file.seek(start)
        tar = tarfile.open(fileobj=_HeaderFile(file), mode="r:")  # type: ignore[call-overload] # noqa: SIM115
        while member := tar.next():
            tar.members.clear()  # tarfile would keep them all in memory
            if member.offset < end or member.size < 0:
                raise tarfile.ReadError("members that overlap")
            end = member.offset_data
            # Before the member is unpacked, be it only to skip it.
            # A sparse file takes less room than its size, and is refused by itself.
            _check_unpacked(end + (0 if member.issparse() else member.size), max_bytes)
            if not member.isdir():
                yield member
        # `tarfile` ends at a broken header as at the end mark, so the next block is looked at.
        end = tar.offset
        file.seek(end)
        block = file.read(tarfile.BLOCKSIZE)
        following = None if block.strip(b"\0") else _next_content(file, max_bytes)
    except VideoError:
        raise
    except Exception as error:  # a hostile header may raise anything
        if concerns_the_job(error):
            raise
        message = str(error) or type(error).__name__
        raise VideoError("damaged", f"the tar is broken after byte {end}: {message}") from error
    if block.strip(b"\0"):
        raise VideoError("damaged", f"the tar is broken at byte {end}")
    if not block:
        raise VideoError("truncated", f"the tar ends at byte {end} without an end mark")
    return following


def _next_content(file: BinaryIO, max_bytes: int) -> int | None:
    """Finds the first block after the end mark that is not empty; None if there is none."""
    while data := file.read(_READ_BYTES):
        _check_unpacked(file.tell(), max_bytes)
        if data.strip(b"\0"):
            num_empty = len(data) - len(data.lstrip(b"\0"))
            at = file.tell() - len(data) + num_empty
            # A header may begin with zero bytes, so the block begins earlier than its first other
            # byte.
            return at - at % tarfile.BLOCKSIZE
    return None
