"""Files of JSON records, one per line, that grow while somebody else reads them."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from lafp import storage
from lafp.storage.strict_json import dump_lines


class JsonLines:
    """A file of records that each have a ``step``; those after ``start_step`` are dropped first.

    Args:
        uri: The file, local or S3.
        start_step: Where a run goes on that was interrupted later.
    """

    def __init__(self, uri: str, start_step: int) -> None:
        self._uri = uri
        self._text = dump_lines(r for r in read_lines(uri) if r["step"] <= start_step)
        self._waiting = ""
        if self._text or storage.is_file(uri):
            storage.write_text(uri, self._text)

    def append(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Adds records, and before them those that could not be written earlier.

        Raises:
            OSError: The file cannot be written now. The records wait for the next call.
        """
        self._waiting += dump_lines(records)
        if storage.is_s3(self._uri):  # objects cannot grow
            text = self._text + self._waiting
            storage.write_text(self._uri, text)
            self._text = text
        else:
            _append(self._uri, self._waiting.encode())
        self._waiting = ""


def read_lines(uri: str) -> list[dict[str, Any]]:
    """The records of a file; none where it is missing.

    A last line that a killed process left unfinished is skipped.
    """
    if not storage.is_file(uri):
        return []
    return [json.loads(line) for line in storage.read_text(uri).split("\n")[:-1] if line]


def _append(path: str, data: bytes) -> None:
    """Appends all of ``data`` or nothing: half a line would spoil the next one."""
    with open(path, "ab", buffering=0) as file:
        size = file.tell()
        try:
            while data:
                data = data[file.write(data) :]
        except OSError:
            file.truncate(size)
            raise
