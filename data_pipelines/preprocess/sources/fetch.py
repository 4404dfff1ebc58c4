"""Have the file of a URI on this machine: local, from S3, or downloaded at the hosts' pace."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from data_pipelines.preprocess.config import PreprocessConfig
from data_pipelines.preprocess.rows import VideoItem
from lafp import storage
from lafp.http.download import DownloadError, download
from lafp.http.host_gate import Gate, HostGate
from lafp.video.decoders.base import VideoError

_gates: list[Gate] = []


@contextmanager
def fetched(item: VideoItem, cfg: PreprocessConfig) -> Iterator[Path]:
    """A local path with the item's content, in the block.

    Raises:
        VideoError: ``not_found``, ``unreadable``, ``too_many_bytes`` or ``timeout``.
        OSError: It is not there, is no file, or may not be read; or storage does not answer.
    """
    if storage.is_http(item.uri):
        with tempfile.TemporaryDirectory(prefix="lafp-") as folder:
            path = Path(folder) / "download"
            http = replace(cfg.http, max_bytes=min(cfg.http.max_bytes, cfg.limits.max_bytes))
            try:
                download(item.uri, path, http, host_gate())
            except DownloadError as error:
                raise VideoError(error.reason, error.detail) from error
            yield path
        return
    if not item.num_bytes:  # the listing does not know
        num_bytes = storage.num_bytes(item.uri)
        if num_bytes > cfg.limits.max_bytes:
            raise VideoError("too_many_bytes", f"{num_bytes} bytes")
    with storage.local_file(item.uri) as path:
        yield path


def use_gate(gate: Gate) -> None:
    """Makes all downloads of this process ask ``gate``; without it they have one of their own."""
    _gates[:] = [gate]


def host_gate() -> Gate:
    """The gate that downloads of this process ask."""
    if not _gates:
        _gates.append(HostGate())
    return _gates[0]
