"""Says how many CPUs and how much memory this process may use, also in a container.

A container sees all CPUs and the whole memory of its machine. Its limits are those of its control
group (cgroup, version 1 or 2) and of the groups above it.
"""

import math
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath

_ROOT = Path("/")


def num_cpus(root: Path = _ROOT) -> int:
    """Returns how many CPUs this process may use, at least 1. A share of a CPU counts as one.

    Args:
        root: Folder of ``proc`` and ``sys``.
    """
    quotas = [float(len(os.sched_getaffinity(0)))]
    for folder in _groups("cpu", root):
        with suppress(OSError, ValueError):  # no such file, or no limit ("max")
            quota, period = (folder / "cpu.max").read_text().split()
            quotas.append(int(quota) / int(period))
        with suppress(OSError, ValueError):
            quota, period = (
                (folder / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period")
            )
            if int(quota) > 0:  # -1 is no limit
                quotas.append(int(quota) / int(period))
    return max(1, math.ceil(min(quotas)))


def memory_bytes(root: Path = _ROOT) -> int:
    """Returns how much memory this process may use.

    Args:
        root: Folder of ``proc`` and ``sys``.
    """
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for folder in _groups("memory", root):
        for name in ("memory.max", "memory.limit_in_bytes"):
            with suppress(OSError, ValueError):
                limits.append(int((folder / name).read_text()))
    return min(limits)


def _groups(controller: str, root: Path) -> Iterator[Path]:
    """Yields the folders of the groups that limit this process, of both versions."""
    mounted = root / "sys/fs/cgroup"
    lines: list[str] = []
    with suppress(OSError):
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    for line in lines:  # such as 0::/a/b of version 2, 4:cpu,cpuacct:/a/b of version 1
        _, controllers, group = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        path = PurePosixPath(group.lstrip("/"))
        # A folder of several controllers has links by the name of each, but not everywhere.
        for name in dict.fromkeys((controllers, controller)):
            # In a container the group may be named as the machine names it, while what is mounted
            # here begins at the container. Then only the last of these folders exists.
            for above in (path, *path.parents):
                yield mounted / name / above
