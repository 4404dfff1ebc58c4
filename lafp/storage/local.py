"""Files on disk. What each function is for is said in ``lafp.storage``."""

import errno
import operator
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path

from lafp.storage.base import FileInfo, FullError, failed

_LISTED_AT_ONCE = 50_000
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""No space, a quota, a limit on the size of files."""


def read_bytes(path: str, offset: int, length: int | None) -> bytes:
    with open(path, "rb") as file:
        file.seek(offset)
        return file.read() if length is None else file.read(length)


def write_bytes(path: str, data: bytes) -> None:
    with _new_file(path) as tmp:
        tmp.write_bytes(data)


def upload(local: str | Path, path: str) -> None:
    with _new_file(path) as tmp:
        shutil.move(local, tmp)  # across file systems this copies, so the rename comes after it


@contextmanager
def _new_file(uri: str) -> Iterator[Path]:
    """A path to write to, which takes its place on disk as ``uri`` after the block."""
    path = Path(uri)
    tmp = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield tmp
        with tmp.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(tmp, path)
    except OSError as error:
        if full_disk(error):
            raise _full(uri, error) from error
        raise failed("write", uri, error) from error
    finally:
        with suppress(OSError):
            tmp.unlink(missing_ok=True)


def full_disk(error: BaseException | None) -> bool:
    """Whether an error, or what caused it, says that a disk has no room."""
    seen: list[BaseException] = []
    while error is not None and not any(error is one for one in seen):
        seen.append(error)
        if isinstance(error, FullError) or getattr(error, "errno", None) in _FULL:
            return True
        error = error.__cause__ or error.__context__
    return False


def _full(uri: str, error: OSError) -> FullError:
    folder = next(parent for parent in Path(uri).parents if parent.is_dir())
    free = shutil.disk_usage(folder).free
    return FullError(
        f"Could not write {uri}: {error.strerror or error}. {free / 2**20:,.0f} MiB are free in "
        f"{folder}. Make room there."
    )


def move_folder(folder: str, target: str) -> None:
    os.rename(folder, target)


def list_files(folder: str) -> Iterator[FileInfo]:
    for entry in _sorted_entries(folder):
        if entry.is_dir():
            yield from list_files(entry.path)
        elif entry.is_file():
            try:
                num_bytes = entry.stat().st_size
            except FileNotFoundError:  # deleted since it was listed
                continue
            yield FileInfo(uri=entry.path, num_bytes=num_bytes)


def list_folders(folder: str) -> list[str]:
    entries = os.scandir(folder) if Path(folder).is_dir() else ()
    return [entry.name for entry in entries if entry.is_dir()]


def _scanned(folder: str) -> AbstractContextManager[Iterable[os.DirEntry[str]]]:
    """What is in a folder; nothing where it is missing, as on S3."""
    try:
        return os.scandir(folder)
    except FileNotFoundError:
        return nullcontext(())


def _sorted_entries(folder: str) -> Iterator[os.DirEntry[str]]:
    """What is in a folder, by name, hidden files left out.

    Memory is bounded: a folder of a million files is gone through some 20 times.
    """
    by_name = operator.attrgetter("name")
    last = ""
    while True:
        first: list[os.DirEntry[str]] = []
        highest = None
        with _scanned(folder) as entries:
            for entry in entries:
                name = entry.name
                if name > last and (highest is None or name < highest) and name[0] != ".":
                    first.append(entry)
                    if len(first) == 2 * _LISTED_AT_ONCE:
                        first = sorted(first, key=by_name)[:_LISTED_AT_ONCE]
                        highest = first[-1].name
        first.sort(key=by_name)
        if highest is None:
            yield from first
            return
        yield from first[:_LISTED_AT_ONCE]
        last = first[_LISTED_AT_ONCE - 1].name
