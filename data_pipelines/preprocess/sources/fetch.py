"""Provides the file of a URI on this machine: local, from S3, or downloaded at a host's pace."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

from data_pipelines.preprocess.config import PreprocessConfig
from data_pipelines.preprocess.rows import VideoItem
from lafp import storage
from lafp.http.answers import DownloadError
from lafp.http.download import download
from lafp.http.host_gate import Gate, HostGate
from lafp.storage.temporary import TemporaryFolder
from lafp.video.decoders.base import VideoError


@contextmanager
def fetched(item: VideoItem, cfg: PreprocessConfig) -> Iterator[Path]:
    """Yields a local path with the item's content, valid in the block.

    Raises:
        VideoError: ``not_found``, ``unreadable``, ``too_many_bytes`` or ``timeout``.
        OSError: The file is missing, not a regular file or not readable; or storage does not
            answer.
    """
    if storage.is_http(item.uri):
        with _download(item, cfg) as path:
            yield path
        return
    if not item.num_bytes:  # the listing does not know the size
        num_bytes = storage.num_bytes(item.uri)
        if num_bytes > cfg.limits.max_bytes:
            raise VideoError("too_many_bytes", f"{num_bytes} bytes")
    with storage.local_file(item.uri) as path:
        yield path


@contextmanager
def downloaded(item: VideoItem, cfg: PreprocessConfig, gate: Gate) -> Iterator[Path]:
    """Yields a local copy of an item on the web, valid in the block.

    Raises:
        VideoError: ``not_found``, ``unreadable``, ``too_many_bytes`` or ``timeout``.
        OSError: The copy cannot be written.
    """
    with TemporaryFolder(ignore_cleanup_errors=True) as folder:
        path = Path(folder) / "download"
        # A file that will be rejected for its size need not be downloaded to its end.
        http = replace(cfg.http, max_bytes=min(cfg.http.max_bytes, cfg.limits.max_bytes))
        try:
            download(item.secret_uri or item.uri, path, http, gate)
        except DownloadError as error:
            raise VideoError(error.reason, error.detail) from error
        yield path


Downloads = Callable[[VideoItem, PreprocessConfig], AbstractContextManager[Path]]
_download: Downloads = partial(downloaded, gate=HostGate())


def download_through(downloads: Downloads) -> None:
    """Sets who downloads for this process, which otherwise does it itself."""
    global _download
    _download = downloads
