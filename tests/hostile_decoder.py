"""A decoder that does to its process what a file tells it to, for tests.

Registered as ``hostile`` wherever ``tests/hostile`` is on the path of a Python process. A file says
what to do by its number of frames, which it keeps wherever it is copied.
"""

import ctypes
import os
import resource
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from lafp import storage
from lafp.storage import UnreachableError
from lafp.video.decoders.base import VideoError
from lafp.video.decoders.pyav import PyAVConfig, PyAVDecoder

SEGFAULT, SEGFAULT_IN_PROBE, KILLED_ONCE, HANG, HOARD, UNREACHABLE = 61, 62, 63, 64, 65, 66
BROKEN_INTO, LIES, LIES_OF_MEMORY, LIES_OF_FRAMES = 67, 68, 69, 70
"""Numbers of frames."""
KILLED = 1_000_000_000
"""Time of change of a file that has killed its process."""


def attacks(path: str) -> dict[str, Callable[[], object]]:
    """What a video may try that has taken the process over. Each raises if it is refused."""
    worker = os.getppid()
    return {
        "keys": lambda: os.environ["AWS_SECRET_ACCESS_KEY"],
        "keys of the worker": Path(f"/proc/{worker}/environ").read_bytes,
        "memory of the worker": Path(f"/proc/{worker}/maps").read_bytes,
        "network": lambda: socket.create_connection(("127.0.0.1", 9), 1),
        "name server": lambda: (
            socket.getaddrinfo("localhost", 80, type=socket.SOCK_STREAM)
            and socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        ),
        "write beside the video": lambda: Path(path).with_suffix(".bad").write_text("x"),
        "change the video": lambda: Path(path).open("r+b"),
        "delete the video": lambda: os.unlink(path),
        "write to the home folder": lambda: Path("~/.bashrc_lafp").expanduser().write_text("x"),
        "start a program": lambda: subprocess.run(["true"], check=True),
        "fork": os.fork,
        "signal the worker": lambda: os.kill(worker, signal.SIGURG),
        "limits of the worker": lambda: resource.prlimit(worker, resource.RLIMIT_NOFILE),
        "core files": lambda: resource.setrlimit(resource.RLIMIT_CORE, (1, 1)),
        "any object": lambda: storage.read_bytes("s3://bucket/secret"),
    }


def tried(attack: Callable[[], object]) -> bool:
    try:
        attack()
    except (OSError, KeyError, ValueError):
        return False
    return True


@dataclass(frozen=True, kw_only=True)
class HostileConfig:
    name: Literal["hostile"] = "hostile"


class HostileDecoder(PyAVDecoder):
    """PyAV, except for files with a telling number of frames."""

    Config = HostileConfig  # type: ignore[assignment]

    def __init__(self, cfg: HostileConfig) -> None:
        super().__init__(PyAVConfig())

    def probe(self, path, max_pixels, deadline):
        info = super().probe(path, max_pixels, deadline)
        if len(info.times_s) == SEGFAULT_IN_PROBE:
            ctypes.string_at(0)
        if len(info.times_s) == UNREACHABLE:
            raise UnreachableError("Could not read it: 500")
        if len(info.times_s) == BROKEN_INTO:
            all_of_them = attacks(path)
            worked = [name for name, attack in all_of_them.items() if tried(attack)]
            raise VideoError("does_not_decode", f"{len(all_of_them)} tried, worked: {worked}")
        if len(info.times_s) == LIES:
            end = int(sys.argv[1])
            os.write(end, struct.pack("<II", 2, 0) + b"{}")
            time.sleep(3600)
        if len(info.times_s) == LIES_OF_MEMORY:
            text = b'{"kind": "done", "cpu_s": 0.5, "kept_bytes": "many"}'
            os.write(int(sys.argv[1]), struct.pack("<II", len(text), 0) + text)
            time.sleep(3600)
        if len(info.times_s) == LIES_OF_FRAMES:  # wider than any that were asked for
            text = b'{"kind": "frames", "start_s": 0, "end_s": 1, "times_s": [0], "size": [1, 999]}'
            os.write(int(sys.argv[1]), struct.pack("<II", len(text), 2997) + text + bytes(2997))
            time.sleep(3600)
        return info

    def frames(self, path, info, *size_and_times):
        hoard, command = [], len(info.times_s)
        for number, frame in enumerate(super().frames(path, info, *size_and_times)):
            if number == 30 and command == SEGFAULT:
                ctypes.string_at(0)
            # The process may write no file as a marker.
            is_first = command == KILLED_ONCE and os.stat(path).st_mtime != KILLED
            if number == 30 and is_first:
                os.utime(path, (KILLED, KILLED))
                os.kill(os.getpid(), signal.SIGKILL)
            if number == 30 and command == HANG:
                time.sleep(3600)
            if command == HOARD:
                hoard.append(np.ones(2**26, np.uint8))  # 64 MiB per frame
            yield frame
