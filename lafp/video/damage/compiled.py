"""Loads the parsers of coded pictures that are written in C, because Python is too slow for them.

They are compiled when lafp is installed with a C compiler at hand. Without them lafp works too, and
notices less damage.
"""

import ctypes
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def library(name: str, made_of: Sequence[Any], **functions: Sequence[Any]) -> ctypes.CDLL | None:
    """Loads the parser that was compiled from ``<name>_entropy.c`` of this folder.

    Args:
        name: See above. The names of its functions begin with ``lafp_<name>_``.
        made_of: Types of what ``new`` makes a state of.
        functions: Name of each function that parses -> types of what it takes beside the state, the
            data and their size.

    Returns:
        The library; None if there is none.
    """
    path = next(Path(__file__).parent.glob(f"{name}_entropy*.so"), None)
    if path is None:
        return None
    found, begin = ctypes.CDLL(str(path)), f"lafp_{name}_"
    new, free = getattr(found, begin + "new"), getattr(found, begin + "free")
    new.restype, new.argtypes, free.argtypes = ctypes.c_void_p, made_of, [ctypes.c_void_p]
    for function, more in functions.items():
        getattr(found, begin + function).argtypes = [
            *(ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t),
            *more,
        ]
    return found


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
