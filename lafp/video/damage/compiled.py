"""Loads the parsers of coded pictures that are written in C, because Python is too slow for them.

They are compiled when lafp is installed with a C compiler at hand. Without them lafp works too, and
notices less damage.
"""

import ctypes
from functools import cache
from pathlib import Path


@cache
def library(name: str) -> ctypes.CDLL | None:
    """Returns the library compiled from ``<name>.c`` of this folder, or None if there is none."""
    path = next(Path(__file__).parent.glob(f"{name}*.so"), None)
    return None if path is None else ctypes.CDLL(str(path))
