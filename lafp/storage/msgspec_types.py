"""Keeps several threads from meeting a type of msgspec for the first time together.

msgspec (0.22) looks at a dataclass or Struct when it first converts to it, and the process crashes
where another thread does so at the same time.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

_known: set[object] = set()
# The block may convert other types, e.g. in ``__post_init__``.
_lock = threading.RLock()


@contextmanager
def first_alone(kind: object) -> Iterator[None]:
    """Runs the block, which converts to ``kind``: alone if it is the first one for this type."""
    if kind in _known:
        yield
        return
    with _lock:
        try:
            yield
        finally:
            _known.add(kind)
