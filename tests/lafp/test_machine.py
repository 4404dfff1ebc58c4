"""Limits of containers, as the kernel's two kinds of control groups write them down."""

import os
from pathlib import Path

import pytest

from lafp import machine

NONE_V1 = "9223372036854771712"  # a memory limit that is none


@pytest.fixture(autouse=True)
def sixty_four_cpus(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)))


def made(root: Path, groups: str, files: dict[str, str]) -> Path:
    """Writes files as they lie in ``/proc`` and ``/sys``."""
    for name, text in {
        "proc/self/cgroup": groups,
        **{f"sys/fs/cgroup/{name}": text for name, text in files.items()},
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


V1 = "4:memory:/a/b\n2:cpu,cpuacct:/a/b\n1:name=systemd:/\n0::/\n"


@pytest.mark.parametrize(
    ("groups", "files", "num_cpus"),
    [
        ("0::/\n", {}, 64),
        ("0::/\n", {"cpu.max": "max 100000\n"}, 64),
        ("0::/\n", {"cpu.max": "200000 100000\n"}, 2),
        ("0::/\n", {"cpu.max": "250000 100000\n"}, 3),
        ("0::/\n", {"cpu.max": "5000 100000\n"}, 1),
        ("0::/\n", {"cpu.max": "9000000 100000\n"}, 64),
        ("0::/a/b\n", {"a/b/cpu.max": "400000 100000\n", "cpu.max": "300000 100000\n"}, 3),
        ("0::/a/b\n", {"a/b/cpu.max": "200000 100000\n", "a/cpu.max": "max 100000\n"}, 2),
        ("0::/a/b\n", {"a/other/cpu.max": "200000 100000\n"}, 64),
        (V1, {"cpu,cpuacct/a/b/cpu.cfs_quota_us": "-1\n"}, 64),
        *(
            (V1, {f"{at}/cpu.cfs_quota_us": "300000\n", f"{at}/cpu.cfs_period_us": "100000\n"}, 3)
            for at in ("cpu,cpuacct/a/b", "cpu/a/b", "cpu,cpuacct/a", "cpu,cpuacct")
        ),
        ("0::/\n", {"cpu.max": "rubbish"}, 64),
    ],
)
def test_quotas_of_cpus(tmp_path, groups, files, num_cpus):
    assert machine.num_cpus(made(tmp_path, groups, files)) == num_cpus


@pytest.mark.parametrize(
    ("groups", "files", "num_bytes"),
    [
        ("0::/\n", {}, None),
        ("0::/\n", {"memory.max": "max\n"}, None),
        ("0::/\n", {"memory.max": f"{2**29}\n"}, 2**29),
        ("0::/a\n", {"a/memory.max": f"{2**29}\n", "memory.max": "max\n"}, 2**29),
        (V1, {"memory/a/b/memory.limit_in_bytes": f"{NONE_V1}\n"}, None),
        (V1, {"memory/a/b/memory.limit_in_bytes": f"{2**28}\n"}, 2**28),
        (V1, {"memory/memory.limit_in_bytes": f"{2**28}\n"}, 2**28),
    ],
)
def test_limits_of_memory(tmp_path, groups, files, num_bytes):
    whole = machine.memory_bytes(tmp_path / "none")
    assert whole == os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    found = machine.memory_bytes(made(tmp_path, groups, files))
    assert found == (whole if num_bytes is None else num_bytes)


def test_this_machine_has_cpus_and_memory():
    assert machine.num_cpus() >= 1
    assert machine.memory_bytes() > 2**28
