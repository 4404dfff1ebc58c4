"""Implements ``lafp.storage`` for files on disk. See there for the meaning of each function."""

import errno
import fcntl
import hashlib
import operator
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from lafp.storage.base import (
    AccessDeniedError,
    FileInfo,
    FullError,
    NotAFileError,
    ObjectInfo,
    failed,
)
from lafp.storage.names import path_of, uri_of_name
from lafp.storage.temporary import held, unfinished_file

_LISTED_AT_ONCE = 50_000
_OTHER_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Error numbers for no space left, an exceeded quota, and a file above the size limit."""
# A try fails only if another process deletes the lock just then, so this many mean an error.
_NUM_LOCKINGS = 1000


def exists(uri: str) -> bool:
    return _mode(uri) != 0


def is_file(uri: str) -> bool:
    return stat.S_ISREG(_mode(uri))


def _mode(uri: str) -> int:
    """Returns the kind and permissions of a path; 0 if nothing is there.

    Raises:
        AccessDeniedError: The permissions forbid looking it up.
    """
    try:
        return path_of(uri).stat().st_mode
    except PermissionError as error:
        raise AccessDeniedError(f"Could not look up {uri}: {error.strerror}") from error
    except OSError:  # missing, or no valid file name
        return 0


def file_at(uri: str) -> Path:
    """Returns the path of a regular file.

    Others are refused, because opening a pipe blocks and reading a device may never end.

    Raises:
        NotAFileError: The path is not a regular file.
        OSError: The path does not exist, or the permissions forbid looking it up.
    """
    path = path_of(uri)
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode):
        raise _not_a_file(uri, mode)
    return path


def _not_a_file(uri: str, mode: int) -> NotAFileError:
    kind = _OTHER_KINDS.get(stat.S_IFMT(mode), "something else")
    return NotAFileError(f"{uri} is {kind}, not a file")


def look_up(uri: str) -> ObjectInfo:
    found = file_at(uri).stat()
    # A file that is replaced has another inode, and one that is written to another time.
    version = f"{found.st_ino} {found.st_mtime_ns} {found.st_size}"
    return ObjectInfo(num_bytes=found.st_size, version=version)


def read_bytes(uri: str, offset: int, length: int | None) -> bytes:
    with file_at(uri).open("rb") as file:
        # Python reserves memory for all that is asked for, and takes offsets of 63 bits only.
        left = max(0, os.fstat(file.fileno()).st_size - offset)
        file.seek(offset if left else 0)
        return file.read(left if length is None else min(length, left))


def write_bytes(uri: str, data: bytes) -> None:
    with _new_file(uri) as tmp:
        tmp.write_bytes(data)


def upload(local: str | Path, uri: str) -> None:
    with held(Path(local)), _new_file(uri) as tmp:
        try:
            os.replace(local, tmp)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            shutil.copy2(local, tmp)  # so the rename to the final name comes after the copy
            os.unlink(local)


@contextmanager
def _new_file(uri: str) -> Iterator[Path]:
    """Yields a temporary path, and renames it to ``uri`` after the block."""
    path = path_of(uri)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with unfinished_file(path) as tmp:
            yield tmp
            with tmp.open("rb") as file:
                # Without this, a crash of the machine could leave the new name with an empty file.
                os.fsync(file.fileno())
            os.replace(tmp, path)
    except OSError as error:
        if full_disk(error):
            raise _full(uri, error) from error
        raise failed("write", uri, error) from error


def full_disk(error: BaseException | None) -> bool:
    """Tells whether an error, or any of its causes, means that a disk is full."""
    seen: list[BaseException] = []
    while error is not None and not any(error is one for one in seen):
        seen.append(error)
        if isinstance(error, FullError) or getattr(error, "errno", None) in _FULL:
            return True
        error = error.__cause__ or error.__context__
    return False


def _full(uri: str, error: OSError) -> FullError:
    folder = next(parent for parent in path_of(uri).parents if parent.is_dir())
    free = shutil.disk_usage(folder).free
    return FullError(
        f"Could not write {uri}: {error.strerror or error}. {free / 2**20:,.0f} MiB are free in "
        f"{folder}. Make room there."
    )


def move_folder(folder: str, target: str) -> None:
    os.rename(path_of(folder), path_of(target))


def read_version(path: str) -> tuple[bytes, str] | None:
    try:
        data = path_of(path).read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise failed("read", path, error) from error
    return data, hashlib.sha256(data).hexdigest()


def swap(path: str, data: bytes, version: str | None) -> str | None:
    with _locked(path):
        found = read_version(path)
        if (found[1] if found else None) != version:
            return None
        write_bytes(path, data)
    return hashlib.sha256(data).hexdigest()


def delete_version(path: str, version: str) -> None:
    if not path_of(path).exists():
        return
    with _locked(path):
        found = read_version(path)
        if found and found[1] == version:
            path_of(path).unlink()


def lock_name(name: str) -> str:
    """Returns the name of the file beside another one that is locked while that is changed."""
    return f".{name}.lock"


@contextmanager
def _locked(path: str) -> Iterator[None]:
    """Lets one process at a time into the block, on all machines that share the folder.

    The lock file is deleted afterwards.
    """
    file_path = path_of(path)
    lock = file_path.with_name(lock_name(file_path.name))
    try:
        file = _lock(lock)
    except OSError as error:
        raise failed("write", path, error) from error
    try:
        yield
    finally:
        with suppress(OSError):
            # Before the lock is released: a process that waited for it sees that the file is gone,
            # and locks a new one.
            lock.unlink()
        os.close(file)


def _lock(lock: Path) -> int:
    for _ in range(_NUM_LOCKINGS):
        try:
            lock.parent.mkdir(parents=True, exist_ok=True)
            # Whoever may write to the folder may also lock it.
            file = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
        except FileNotFoundError:  # another process has just removed the folder
            continue
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            # The previous owner may have deleted the file that we have just locked. Others then
            # lock a new one.
            if os.path.samestat(os.fstat(file), os.stat(lock)):
                return file
        except FileNotFoundError:  # the previous owner has deleted it
            pass
        except OSError:
            os.close(file)
            raise
        os.close(file)
    raise FileNotFoundError(f"{lock} was deleted {_NUM_LOCKINGS} times while it was being locked.")


def list_files(folder: str) -> Iterator[FileInfo]:
    if not stat.S_ISDIR(_mode(folder)):  # a missing folder counts as empty, as on S3
        return
    path = str(path_of(folder))
    try:
        top = os.stat(path)
        # A source that cannot be read at all is an error of the call. Folders below it that cannot
        # be read are entries of the listing.
        os.scandir(path).close()
    except OSError as error:
        raise failed("list", folder, error) from error
    # No recursion: folders may be nested deeper than Python's recursion limit.
    opened = [(path, top, _sorted_entries(path))]
    while opened:
        path, _, entries = opened[-1]
        try:
            entry = next(entries, None)
        except FileNotFoundError:  # deleted since it was listed
            entry = None
        except OSError as error:
            yield FileInfo(uri=uri_of_name(path), num_bytes=0, error=error)
            entry = None
        if entry is None:
            opened.pop()
            continue
        found = _look_at(entry)
        if isinstance(found, FileInfo):
            yield found
        elif found is not None and any(os.path.samestat(found, above) for _, above, _ in opened):
            circle = OSError(errno.ELOOP, "a link to a folder that contains it")
            yield FileInfo(uri=uri_of_name(entry.path), num_bytes=0, error=circle)
        elif found is not None:
            opened.append((entry.path, found, _sorted_entries(entry.path)))


def _look_at(entry: os.DirEntry[str]) -> FileInfo | os.stat_result | None:
    """Returns a file, or the state of a folder; None if it was deleted since it was listed."""
    uri = uri_of_name(entry.path)
    try:
        state = entry.stat()
    except OSError as error:
        if isinstance(error, FileNotFoundError):
            if not entry.is_symlink():
                return None
            error = FileNotFoundError(f"{uri} is a link to a file that does not exist")
        return FileInfo(uri=uri, num_bytes=0, error=error)
    if stat.S_ISDIR(state.st_mode):
        return state
    if not stat.S_ISREG(state.st_mode):
        return FileInfo(uri=uri, num_bytes=0, error=_not_a_file(uri, state.st_mode))
    return FileInfo(uri=uri, num_bytes=state.st_size)


def list_folders(folder: str) -> list[str]:
    if not stat.S_ISDIR(_mode(folder)):
        return []
    names = []
    try:
        with os.scandir(path_of(folder)) as entries:
            for entry in entries:
                with suppress(OSError):  # a link to itself is no folder
                    if entry.is_dir():
                        names.append(uri_of_name(entry.name))
    except OSError as error:
        raise failed("list", folder, error) from error
    return names


def _sorted_entries(folder: str) -> Iterator[os.DirEntry[str]]:
    """Yields the entries of a folder sorted by name, without hidden ones.

    Memory is bounded: each pass keeps at most ``_LISTED_AT_ONCE`` names, so a folder of a million
    files is read about 20 times.
    """
    by_name = operator.attrgetter("name")
    last = ""
    while True:
        first: list[os.DirEntry[str]] = []
        highest = None
        with os.scandir(folder) as entries:
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
