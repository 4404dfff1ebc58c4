"""Makes temporary files and folders that do not outlive their process, even if it is killed.

A process holds a lock (``flock``) on each of its temporary files and folders, and the kernel
releases the locks when the process ends. So a file or folder with such a name but without a lock
was left behind, and any process may delete it. On a file system without such locks, no process
deletes the leftovers of another one.
"""

import fcntl
import os
import re
import shutil
import tempfile
import uuid
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

_PREFIX = "lafp-scratch-"
_UNFINISHED = re.compile(r"\..+\.[0-9a-f]{12}\.tmp")


class TemporaryFolder(tempfile.TemporaryDirectory[str]):
    """A folder below ``TMPDIR`` that is deleted after the block, by ``cleanup`` or at the exit.

    A process that makes its first such folder also deletes the folders of killed processes.
    """

    def __init__(self, ignore_cleanup_errors: bool = False) -> None:
        """Makes the folder, and locks it."""
        delete_abandoned_once(tempfile.gettempdir())
        while True:
            super().__init__(prefix=_PREFIX, ignore_cleanup_errors=ignore_cleanup_errors)
            lock = None
            with suppress(FileNotFoundError):  # another process was faster than this line
                lock = _locked(self.name, os.O_RDONLY)
            if lock is not None:
                break
            super().cleanup()
        self._unlock = weakref.finalize(self, os.close, lock)

    def cleanup(self) -> None:
        """Deletes the folder."""
        super().cleanup()
        # Only now, so that no other process deletes the folder at the same time.
        self._unlock()


@contextmanager
def folder_for_libraries() -> Iterator[None]:
    """Lets libraries make their temporary files in a ``TemporaryFolder`` during the block.

    For the import of modules that make some: they stay until the process ends, and a killed process
    would leave them.
    """
    before, tempfile.tempdir = tempfile.tempdir, _of_libraries().name
    try:
        yield
    finally:
        tempfile.tempdir = before


@cache
def _of_libraries() -> TemporaryFolder:
    return TemporaryFolder(ignore_cleanup_errors=True)


def _locked(path: str | Path, flags: int) -> int | None:
    """Opens and locks a file or folder.

    Returns its descriptor, or None if another process took it for abandoned before it was locked.
    """
    opened = os.open(path, flags, 0o666)
    with suppress(OSError):
        fcntl.flock(opened, fcntl.LOCK_EX)
    with suppress(FileNotFoundError):
        if os.path.samestat(os.fstat(opened), os.stat(path)):
            return opened
    os.close(opened)
    return None


@cache
def delete_abandoned_once(parent: str) -> None:
    """Calls ``delete_abandoned``, once for each folder in the life of this process."""
    delete_abandoned(parent)


def delete_abandoned(parent: str) -> None:
    """Deletes the folders in ``parent`` that processes have left in a ``TemporaryFolder``."""
    for path in Path(parent).glob(f"{_PREFIX}*"):
        with suppress(OSError), _abandoned(path):
            shutil.rmtree(path, ignore_errors=True)


@contextmanager
def unfinished_file(path: Path) -> Iterator[Path]:
    """Yields the path of a new empty file beside ``path``, which is deleted after the block.

    It lies beside the target, because a rename is atomic only within one file system. Listings skip
    the name, as it begins with a dot.
    """
    tmp = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}.tmp")
    while (file := _locked(tmp, os.O_RDWR | os.O_CREAT)) is None:
        pass
    try:
        yield tmp
    finally:
        with suppress(OSError):
            tmp.unlink(missing_ok=True)
        os.close(file)


@contextmanager
def held(path: Path) -> Iterator[None]:
    """Locks a file during the block, which renames it to a name of ``unfinished_file``.

    Without the lock, other processes would take the renamed file for abandoned.
    """
    file = os.open(path, os.O_RDONLY)
    try:
        with suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(file)


def delete_unfinished(folder: Path) -> None:
    """Deletes the files below a folder that processes have left in ``unfinished_file``."""
    for parent, _, names in os.walk(folder):
        for name in filter(_UNFINISHED.fullmatch, names):
            path = Path(parent, name)
            with suppress(OSError), _abandoned(path):
                path.unlink(missing_ok=True)


@contextmanager
def _abandoned(path: Path) -> Iterator[None]:
    """Locks a leftover during the block. Raises OSError if a process still holds its lock."""
    file = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(file)
