"""Writes files of JSON records, one per line, that others may read while they grow."""

import time
from collections.abc import Iterable, Mapping
from typing import Any

from lafp import storage
from lafp.storage.strict_json import DamagedError, dump_lines, loads

# Objects on S3 cannot grow, so a file there is stored whole each time. A large one is stored less
# often, because otherwise a run of a million steps would send the same records ten thousand times.
_STORED_AT_ONCE_BYTES = 1 << 20
_STORED_EVERY_S = 60.0


class JsonLines:
    """Appends records, each with a ``step``, to a file.

    Records of a file of more than 1 MiB on S3 are stored once a minute, and by ``flush``.

    Args:
        uri: The file, local or on S3.
        start_step: The step from which the run resumes. The constructor drops later records, which
            an interrupted run may have written after its last checkpoint.
    """

    def __init__(self, uri: str, start_step: int) -> None:
        self._uri = uri
        self._text = dump_lines(r for r in read_lines(uri) if _step(r, uri) <= start_step)
        self._waiting, self._stored_at = "", time.monotonic()
        if self._text or storage.is_file(uri):
            storage.write_text(uri, self._text)

    def append(self, records: Iterable[Mapping[str, object]]) -> None:
        """Appends records, after any records that could not be written earlier.

        Raises:
            OSError: The file cannot be written now. The next call tries these records again.
        """
        self._waiting += dump_lines(records)
        is_small = len(self._text) < _STORED_AT_ONCE_BYTES
        is_due = time.monotonic() - self._stored_at > _STORED_EVERY_S
        if is_small or is_due or not storage.is_remote(self._uri):
            self.flush()

    def flush(self) -> None:
        """Stores all records that wait.

        Raises:
            OSError: As ``append``.
        """
        if not self._waiting:
            return
        if storage.is_remote(self._uri):
            text = self._text + self._waiting
            storage.write_text(self._uri, text)
            self._text, self._stored_at = text, time.monotonic()
        else:
            _append(self._uri, self._waiting.encode())
        self._waiting = ""


def read_lines(uri: str) -> list[dict[str, Any]]:
    """Reads the records of a file; a missing file has none.

    The last line is skipped if a killed process left it unfinished.

    Raises:
        DamagedError: A line is no record.
    """
    if not storage.is_file(uri):
        return []
    try:
        lines = storage.read_text(uri).split("\n")[:-1]
    except UnicodeDecodeError as error:
        raise DamagedError(f"{uri} is damaged: {error}") from None
    return [loads(dict[str, Any], line, uri) for line in lines if line]


def _step(record: dict[str, Any], uri: str) -> float:
    step = record.get("step")
    if not isinstance(step, int | float):
        raise DamagedError(f"{uri} is damaged: a record has no number as its step")
    return step


def _append(path: str, data: bytes) -> None:
    """Appends all of ``data`` or nothing, because half a line would corrupt the next one."""
    # Without a buffer, which would be written when the file is closed, after it has been cut back.
    with open(path, "ab", buffering=0) as file:
        size = file.tell()
        try:
            while data:
                data = data[file.write(data) :]
        except OSError:
            file.truncate(size)
            raise
