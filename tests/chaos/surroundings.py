"""What befalls the machine of a job: its disk is full for a while, its clock jumps."""

import os
import random
import struct
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

DISK = "256m"
"""Size of a run's own disk; a run needs a few MiB."""
JUMPS_S = (3_600.0, -3_600.0, 2 * 86_400.0)
"""Jumps of a clock that is set, and of one that was never right."""
_FULL_S = (1.0, 8.0)


@contextmanager
def own_disk(folder: Path) -> Iterator[bool]:
    """Mounts a small disk on the folder, if this user may. Tells whether it is there."""
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", str(folder)]
    is_mounted = subprocess.run(mount, capture_output=True).returncode == 0
    try:
        yield is_mounted
    finally:
        if is_mounted:  # lazily, because a process that is just dying may stand in it
            subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(disk: Path, rng: random.Random) -> None:
    """Leaves no byte free on the disk for some seconds."""
    ballast = disk / ".ballast"
    block = bytes(2**20)
    # Without Python's buffer, which would keep the last bytes for later.
    file = os.open(ballast, os.O_WRONLY | os.O_CREAT)
    deadline = time.monotonic() + rng.uniform(*_FULL_S)
    while time.monotonic() < deadline:
        with suppress(OSError):  # full; what the job deletes meanwhile is taken too
            while os.write(file, block) > 0:
                pass
        time.sleep(0.02)
    os.close(file)
    ballast.unlink()


def set_clock(clock: Path, ahead_s: float) -> None:
    """Sets by how much ``time.time`` is ahead in the processes of a start (``inside``)."""
    clock.write_bytes(struct.pack("d", ahead_s))
