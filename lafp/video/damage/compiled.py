"""Loads the parsers of coded pictures that are written in C, because Python is too slow for them.

They are compiled when lafp is installed with a C compiler at hand. Without them lafp works too, and
notices less damage.
"""

import ctypes
from functools import cache
from pathlib import Path
from typing import Any


@cache
def library(name: str) -> ctypes.CDLL | None:
    """Returns the library compiled from ``<name>.c`` of this folder, or None if there is none."""
    path = next(Path(__file__).parent.glob(f"{name}*.so"), None)
    return None if path is None else ctypes.CDLL(str(path))


class CompiledParser:
    """Owns the state of a parser, which goes from picture to picture.

    Args:
        found: The parser's library. Callers ask first whether there is one.
        name: Begins the names of its functions.
        arguments: What makes a state.
    """

    def __init__(self, found: ctypes.CDLL | None, name: str, *arguments: Any) -> None:
        assert found is not None, "callers ask for the parser first"
        self._library, self._free = found, getattr(found, f"{name}_free")
        self._state: int | None = getattr(found, f"{name}_new")(*arguments)
        if self._state is None:
            raise MemoryError(f"no memory for {name}")

    def __del__(self) -> None:
        if getattr(self, "_state", None):
            self._free(self._state)
