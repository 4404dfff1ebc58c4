"""Gives the decoding process the files of its input from object stores and the web.

That process has neither keys nor network (``lafp.confined``), so the worker reads for it: only what
the current input names, whatever is asked for. Files are handed over as open file descriptors.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from data_pipelines.preprocess.config import PreprocessConfig
from data_pipelines.preprocess.rows import VideoItem
from data_pipelines.preprocess.sandbox.messages import Messages
from data_pipelines.preprocess.sources.fetch import downloaded
from data_pipelines.preprocess.sources.masks import MASK_SUFFIXES
from lafp import storage
from lafp.http.host_gate import Gate
from lafp.storage import remote
from lafp.storage.names import safe_suffix
from lafp.storage.temporary import TemporaryFolder
from lafp.video.decoders.base import VideoError

_READ_BYTES = 8 * 2**20
_MAX_LISTED = 1_000_000
"""Pictures of masks of one video."""
_ERRORS = {
    kind.__name__: kind
    for kind in (
        FileNotFoundError,
        storage.AccessDeniedError,
        storage.ChangedError,
        storage.CredentialsError,
        storage.FullError,
        storage.UnreachableError,
        storage.StorageError,
    )
}


class FileServer:
    """Answers requests of the decoding process, in the worker."""

    def __init__(self, messages: Messages, cfg: PreprocessConfig, gate: Gate) -> None:
        self._messages, self._cfg, self._gate = messages, cfg, gate

    def answer(self, method: str, args: list[Any], item: VideoItem) -> None:
        """Answers one request for a file of ``item``; errors are answers, too.

        Raises:
            OSError: The other end is gone.
        """
        data, file = b"", None
        try:
            message, data, file = self._answer(method, args, item)
        except VideoError as error:
            message = {"reason": error.reason, "detail": error.detail}
        except OSError as error:
            name, number = type(error).__name__, error.errno
            message = {"error": name, "text": str(error), "errno": number}
        except Exception as error:  # such as a header that no parser expects: of this input alone
            message = {"reason": "failed", "detail": f"{type(error).__name__}: {error}"}
        # Nothing is sent before this line: a second answer would be taken for that of the next
        # request.
        self._messages.send(message, data)
        if file is not None:
            with file:
                self._messages.send_file(file)

    def _answer(
        self, method: str, args: list[Any], item: VideoItem
    ) -> tuple[dict[str, Any], bytes, BinaryIO | None]:
        """Returns a message, its bytes, and an open file where one was asked for."""
        if method == "download" and storage.is_http(item.uri):
            with downloaded(item, self._cfg, self._gate) as path:
                return {}, b"", path.open("rb")
        uri, *rest = args
        if not (_is_of(item, uri) and storage.is_remote(uri)):
            raise storage.AccessDeniedError(f"{uri} is no object that belongs to {item.uri}")
        if method == "local_file":
            with storage.local_file(uri) as path:
                return {}, b"", path.open("rb")
        if method == "read_bytes":
            offset, length, version = rest
            wanted = min(int(length), _READ_BYTES)
            return {}, storage.read_bytes(uri, int(offset), wanted, version), None
        if method == "list_files":
            listed = islice(storage.list_files(uri), _MAX_LISTED)
            return {"result": [(file.uri, file.num_bytes) for file in listed]}, b"", None
        if method == "look_up":
            info = storage.look_up(uri)
            return {"result": (info.num_bytes, info.version)}, b"", None
        return {"result": storage.is_file(uri)}, b"", None


def _is_of(item: VideoItem, uri: str) -> bool:
    """Tells whether an input names this URI, or it belongs to the input's masks."""
    spans = item.details.get("episodes", ())  # of a LeRobot file
    if uri in (item.uri, item.labels_uri, *(span["data_uri"] for span in spans)):
        return True
    masks = item.masks_uri
    return masks is not None and (
        uri.startswith(f"{masks}/") or uri in (masks, *(masks + end for end in MASK_SUFFIXES))
    )


class RemoteFiles:
    """Reads through a ``FileServer``, in the decoding process: see ``lafp.storage``."""

    def __init__(self, messages: Messages) -> None:
        self._messages = messages

    def is_file(self, uri: str) -> bool:
        """See ``storage.is_file``."""
        return bool(self._ask("is_file", uri)[0]["result"])

    def look_up(self, uri: str) -> storage.ObjectInfo:
        """See ``storage.look_up``."""
        num_bytes, version = self._ask("look_up", uri)[0]["result"]
        return storage.ObjectInfo(num_bytes=int(num_bytes), version=version)

    def read_bytes(
        self, uri: str, offset: int, length: int | None, version: str | None = None
    ) -> bytes:
        """See ``storage.read_bytes``. Any length is read in pieces, so the worker holds one."""
        data = bytearray()
        while length is None or len(data) < length:
            wanted = _READ_BYTES if length is None else min(_READ_BYTES, length - len(data))
            piece = self._ask("read_bytes", uri, offset + len(data), wanted, version)[1]
            data += piece
            if len(piece) < wanted:  # the end of the file
                break
        return bytes(data)

    def list_files(self, uri: str) -> Iterator[storage.FileInfo]:
        """See ``storage.list_files``."""
        for name, num_bytes in self._ask("list_files", uri)[0]["result"]:
            yield storage.FileInfo(uri=name, num_bytes=num_bytes)

    def open_file(self, uri: str) -> BinaryIO:
        """See ``storage.open_file``."""
        return remote.open_file(uri, self)

    @contextmanager
    def local_file(self, uri: str) -> Iterator[Path]:
        """See ``storage.local_file``."""
        self._ask("local_file", uri)
        with self._received(safe_suffix(uri)) as path:
            yield path

    @contextmanager
    def downloaded(self, item: VideoItem, cfg: PreprocessConfig) -> Iterator[Path]:
        """Downloads the input that is being processed."""
        self._ask("download", item.uri)
        with self._received("") as path:
            yield path

    @contextmanager
    def _received(self, suffix: str) -> Iterator[Path]:
        file = self._messages.receive_file()
        try:
            with TemporaryFolder() as folder:
                path = Path(folder) / f"object{suffix}"
                path.symlink_to(f"/proc/self/fd/{file}")
                yield path
        finally:
            os.close(file)

    def _ask(self, method: str, *args: object) -> tuple[dict[str, Any], bytes]:
        self._messages.send({"kind": "file", "method": method, "args": args})
        answer, data = self._messages.receive()
        if "reason" in answer:
            raise VideoError(answer["reason"], answer["detail"])
        if "error" in answer:
            kind = _ERRORS.get(answer["error"])
            if kind is None and answer["errno"] is not None:
                raise OSError(answer["errno"], answer["text"])
            raise (kind or storage.StorageError)(answer["text"])
        return answer, data
