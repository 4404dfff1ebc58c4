"""Keeps the signatures and tokens of listed addresses while the driver runs. They are not stored.

The stored plan names inputs without their secrets (``lafp.storage.secrets``). A resumed job reads
the list again, which may have been signed anew in the meantime.
"""

import sqlite3
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

from data_pipelines.preprocess.plan import Task
from data_pipelines.preprocess.rows import VideoItem
from lafp import storage


class SecretUris:
    """Maps the URIs of inputs to their addresses with secrets. Use as a context manager.

    Args:
        listing: Lists the inputs again, for a job that found its plan stored.
    """

    def __init__(self, listing: Callable[[], Iterable[VideoItem]]) -> None:
        self._listing = listing
        self._is_noted = False

    def __enter__(self) -> "SecretUris":
        # SQLite makes a temporary file without a name, readable by nobody else, where memory is
        # not enough. It is gone when this process ends.
        self._db = sqlite3.connect("")
        self._db.execute("PRAGMA journal_mode = OFF")
        self._db.execute("CREATE TABLE secrets (uri TEXT PRIMARY KEY, full TEXT) WITHOUT ROWID")
        return self

    def __exit__(self, *_: object) -> None:
        self._db.close()

    def noted(self, items: Iterable[VideoItem]) -> Iterator[VideoItem]:
        """Passes inputs on, and notes the secrets of each."""
        self._is_noted = True
        for item in items:
            if item.secret_uri:
                row = item.uri, item.secret_uri
                self._db.execute("INSERT OR REPLACE INTO secrets VALUES (?, ?)", row)
            yield item

    def fill(self, task: Task) -> Task:
        """Returns a task of the stored plan with the secrets of its inputs."""
        if not any(storage.is_http(item.uri) for item in task.items):
            return task
        if not self._is_noted:  # the plan was stored by an earlier run
            for _ in self.noted(self._listing()):
                pass
        return replace(task, items=tuple(map(self._filled, task.items)))

    def _filled(self, item: VideoItem) -> VideoItem:
        query = "SELECT full FROM secrets WHERE uri = ?"
        found = self._db.execute(query, (item.uri,)).fetchone()
        return replace(item, secret_uri=found[0]) if found else item
