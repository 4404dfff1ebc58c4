"""Have the file of a URI on this machine: local, from S3, or downloaded at the hosts' pace."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import ray

from data_pipelines.config import PreprocessConfig
from data_pipelines.rows import VideoItem
from lafp import storage
from lafp.download import DownloadError, download
from lafp.host_gate import Gate, HostGate
from lafp.video.decoder import VideoError

_ACTOR = "lafp-host-gate"
_keep_alive: list[Any] = []


@contextmanager
def fetched(item: VideoItem, cfg: PreprocessConfig) -> Iterator[Path]:
    """A local path with the item's content, in the block.

    Raises:
        VideoError: ``not_found``, ``unreadable``, ``too_many_bytes`` or ``timeout``.
        StorageError: S3 did not answer; the job can be resumed.
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
        try:
            num_bytes = storage.num_bytes(item.uri)
        except storage.AccessDeniedError as error:
            raise VideoError("unreadable", str(error)) from error
        if num_bytes > cfg.limits.max_bytes:
            raise VideoError("too_many_bytes", f"{num_bytes} bytes")
    with storage.local_file(item.uri) as path:
        yield path


def start_host_gate() -> None:
    """Starts what bounds the rate per host over the whole cluster, for this driver's tasks."""
    actor = ray.remote(HostGate).options(
        name=_ACTOR, get_if_exists=True, num_cpus=0, max_restarts=-1, max_task_retries=-1
    )
    _keep_alive[:] = [actor.remote()]  # it lives as long as its handle


def host_gate() -> Gate:
    """The cluster's gate in a Ray task; this process's own elsewhere (a dry run)."""
    is_in_task = ray.is_initialized() and ray.get_runtime_context().worker.mode == ray.WORKER_MODE
    return _ActorGate(ray.get_actor(_ACTOR)) if is_in_task else _own_gate()


@cache
def _own_gate() -> HostGate:
    return HostGate()


class _ActorGate:
    """``HostGate`` in another process."""

    def __init__(self, actor: Any) -> None:
        self._actor = actor

    def ask(
        self, host: str, requests_per_s: float, max_connections: int, lease_s: float
    ) -> tuple[float, int | None]:
        asked = self._actor.ask.remote(host, requests_per_s, max_connections, lease_s)
        wait_s, lease = ray.get(asked)
        return wait_s, lease

    def release(self, host: str, lease: int) -> None:
        ray.get(self._actor.release.remote(host, lease))

    def pause(self, host: str, seconds: float) -> None:
        ray.get(self._actor.pause.remote(host, seconds))
