"""WebDataset shards of raw videos, as video2dataset leaves them: tars of ``key.mp4``, ``key.json``.

A tar on disk or S3 is read as a stream, whatever its size: one member at a time is copied to disk.
"""

import re
import shutil
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from data_pipelines.config import PreprocessConfig
from data_pipelines.rows import VideoItem
from data_pipelines.sources.fetch import fetched
from data_pipelines.sources.opened import Opened, Unusable, open_file
from data_pipelines.stages.list_videos import may_be_video
from lafp import storage
from lafp.storage import StorageError
from lafp.video.decoder import VideoDecoder, VideoError

# Names and attributes; a header that claims more than this lies.
_MAX_HEADER_BYTES = 2**20


def open_webdataset(
    item: VideoItem, cfg: PreprocessConfig, decoder: VideoDecoder
) -> Iterator[Opened | Unusable]:
    """Yields every video of a tar, by the URI ``x.tar#key.mp4``.

    Raises:
        VideoError: The tar is broken from here on.
        StorageError: S3 did not answer.
    """
    uris: set[str] = set()
    with _stream(item, cfg) as file:
        for member in _members(file):
            if not may_be_video(member.name):
                continue
            uri = f"{item.uri}#{member.name}"
            if uri in uris:  # a tar may hold a name twice
                uri += f"@{member.offset}"
            uris.add(uri)
            if member.size > cfg.limits.max_bytes:
                yield Unusable(uri, "too_many_bytes", f"{member.size} bytes")
                continue
            with tempfile.TemporaryDirectory(prefix="lafp-") as folder:
                path = Path(folder) / f"video{_suffix(member.name)}"
                yield _open_member(file, member, path, uri, cfg, decoder)
    if not uris:
        raise VideoError("no_video_stream", "a tar without videos")


@contextmanager
def _stream(item: VideoItem, cfg: PreprocessConfig) -> Iterator[BinaryIO]:
    if storage.is_http(item.uri):
        with fetched(item, cfg) as path, path.open("rb") as file:
            yield file
    else:
        with storage.open_file(item.uri) as file:
            yield file


def _open_member(
    file: BinaryIO,
    member: tarfile.TarInfo,
    path: Path,
    uri: str,
    cfg: PreprocessConfig,
    decoder: VideoDecoder,
) -> Opened | Unusable:
    file.seek(member.offset_data)
    with path.open("wb") as copy:
        shutil.copyfileobj(_Limited(file, member.size), copy)
    if path.stat().st_size < member.size:
        return Unusable(uri, "truncated", f"the tar ends after {path.stat().st_size} bytes of it")
    try:
        return open_file(path, uri, cfg.limits, decoder)
    except VideoError as error:
        return Unusable(uri, error.reason, error.detail)


class _Limited:
    """The next ``num_bytes`` of a file."""

    def __init__(self, file: BinaryIO, num_bytes: int) -> None:
        self._file, self._left = file, num_bytes

    def read(self, length: int = 0, /) -> bytes:
        data = self._file.read(min(length, self._left))
        self._left -= len(data)
        return data


class _HeaderFile:
    """A file for ``tarfile``, which reads a header of any size that a tar claims into memory."""

    def __init__(self, file: BinaryIO) -> None:
        self.seek, self.tell, self._file = file.seek, file.tell, file

    def read(self, num_bytes: int) -> bytes:
        if not 0 <= num_bytes <= _MAX_HEADER_BYTES:
            raise tarfile.ReadError(f"a header of {num_bytes} bytes")
        return self._file.read(num_bytes)


def _members(file: BinaryIO) -> Iterator[tarfile.TarInfo]:
    """The regular files of a tar. Unlike ``tarfile``, it tells the end from a broken header."""
    end = 0
    try:
        tar = tarfile.open(fileobj=_HeaderFile(file), mode="r:")  # type: ignore[call-overload] # noqa: SIM115
        while member := tar.next():
            tar.members.clear()  # it would remember them all
            if member.offset < end or member.size < 0:
                raise tarfile.ReadError("members that overlap")
            end = member.offset_data
            if member.isreg():
                yield member
        end = tar.offset
        file.seek(end)
        block = file.read(tarfile.BLOCKSIZE)
    except StorageError:
        raise
    except Exception as error:  # whatever a hostile header leads to
        message = str(error) or type(error).__name__
        raise VideoError("damaged", f"the tar is broken behind byte {end}: {message}") from error
    if block.strip(b"\0"):
        raise VideoError("damaged", f"the tar is broken at byte {end}")
    if not block:
        raise VideoError("truncated", f"the tar ends at byte {end} without an end mark")


def _suffix(name: str) -> str:
    """For decoders that look at it."""
    found = re.search(r"\.[A-Za-z0-9]{1,8}$", name)
    return found[0] if found else ""
