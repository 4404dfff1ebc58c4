"""A decoder that does to its process what a file tells it to, for tests.

Registered as ``hostile`` wherever ``tests/hostile`` is on the path of a Python process. A file says
what to do by its number of frames, which it keeps wherever it is copied.
"""

import ctypes
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from lafp.storage import UnreachableError
from lafp.video.decoders.pyav import PyAVConfig, PyAVDecoder

SEGFAULT, SEGFAULT_IN_PROBE, KILLED_ONCE, HANG, HOARD, UNREACHABLE = 61, 62, 63, 64, 65, 66
"""Numbers of frames."""


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
        return info

    def frames(self, path, info, *size_and_times):
        hoard, command = [], len(info.times_s)
        for number, frame in enumerate(super().frames(path, info, *size_and_times)):
            if number == 30 and command == SEGFAULT:
                ctypes.string_at(0)
            if number == 30 and command == KILLED_ONCE:
                marker = Path(path).with_suffix(".killed")
                if not marker.exists():
                    marker.write_text("")
                    os.kill(os.getpid(), signal.SIGKILL)
            if number == 30 and command == HANG:
                time.sleep(3600)
            if command == HOARD:
                hoard.append(np.ones(2**26, np.uint8))  # 64 MiB per frame
            yield frame
