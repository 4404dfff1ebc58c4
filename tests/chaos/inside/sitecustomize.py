"""Kills the process that makes the n-th change of a run's files, before or after that change.

A change is a rename or a deletion. The clock of the processes can be set, too.
``tests.chaos.victims`` puts this folder on PYTHONPATH, and Python imports this module as each
process of the job starts: the product knows nothing of it.
"""

import fcntl
import json
import mmap
import os
import signal
import struct
import time

_FOLDER = os.environ.get("CHAOS_FOLDER")
_replace = os.replace


def _number() -> int:
    """Counts a change, over all processes of the job. Returns its number."""
    file = os.open(os.environ["CHAOS_COUNT"], os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
        number = int(os.pread(file, 20, 0) or b"0") + 1
        os.pwrite(file, f"{number:020d}".encode(), 0)
        return number
    finally:
        os.close(file)


def _die(what, path):
    fired = os.environ["CHAOS_COUNT"] + ".fired"
    with open(fired + ".tmp", "w") as file:
        json.dump({"pid": os.getpid(), "what": what, "path": path}, file)
    _replace(fired + ".tmp", fired)
    os.kill(os.getpid(), signal.SIGKILL)


def _counted(what, change, position):
    """Wraps a function of ``os`` whose argument at ``position`` names the file that changes."""

    def wrapped(*args, **kwargs):
        path = os.fsdecode(args[position])
        if kwargs.get("dir_fd") is not None:  # a name within an open folder, as shutil.rmtree uses
            path = os.path.join(os.readlink(f"/proc/self/fd/{kwargs['dir_fd']}"), path)
        if not path.startswith(_FOLDER):
            return change(*args, **kwargs)
        number, wanted = _number(), int(os.environ["CHAOS_AT"])
        if number == wanted:
            _die(f"before the {what}", path)
        result = change(*args, **kwargs)
        if number == -wanted:
            _die(f"after the {what}", path)
        return result

    return wrapped


if _FOLDER:
    os.replace = _counted("rename", os.replace, 1)
    os.rename = _counted("rename", os.rename, 1)
    os.unlink = _counted("deletion", os.unlink, 0)

if _clock := os.environ.get("CHAOS_CLOCK"):
    with open(_clock, "rb") as _file:  # now, because a sandbox lets nobody open it later
        _ahead = mmap.mmap(_file.fileno(), 8, prot=mmap.PROT_READ)
    _time = time.time

    # With a name, by which pickle finds it: Ray sends functions that hold the clock.
    def now() -> float:
        """Seconds since 1970 by the clock that was set."""
        return _time() + struct.unpack("d", _ahead)[0]

    time.time = now
