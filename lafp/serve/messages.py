"""Messages between robots and the policy server, in MessagePack. Nothing in them is unpickled.

An array is ``{"dtype": "uint8", "shape": [64, 64, 3], "data": bytes}``, in C order, little-endian.
"""

import math
from typing import TypeVar

import msgspec
import numpy as np

from lafp.storage.msgspec_types import first_alone

_DTYPES = {
    name: np.dtype(name).newbyteorder("<")
    for name in ("bool", "uint8", "int32", "int64", "float32", "float64")
}
_MAX_DIMS = 4  # [N, H, W, 3]
_MAX_SIZE = 1 << 20
T = TypeVar("T")


class Array(msgspec.Struct, forbid_unknown_fields=True):
    """An array as it is sent."""

    dtype: str
    shape: tuple[int, ...]
    data: bytes


class Observation(msgspec.Struct, forbid_unknown_fields=True):
    """Asks for an action. It holds the keys that the policy reads."""

    image: Array | None = None
    state: Array | None = None
    condition: Array | None = None

    def to_numpy(self) -> dict[str, np.ndarray]:
        """Returns the arrays that were sent, by name.

        Raises:
            ValueError: One of them does not describe its own bytes.
        """
        sent = ((name, getattr(self, name)) for name in self.__struct_fields__)
        return {name: to_numpy(name, array) for name, array in sent if array is not None}


class Episodes(msgspec.Struct, forbid_unknown_fields=True):
    """Begins episodes, as ``Agent.reset`` does."""

    num_episodes: int = 1
    seed: int = 0


class EpisodesThatEnd(msgspec.Struct, forbid_unknown_fields=True):
    """Begins a new episode where ``is_over`` is true, as ``Agent.reset_where`` does."""

    is_over: Array


def read(kind: type[T], body: bytes) -> T:
    """Reads a message.

    Raises:
        ValueError: The body is no such message.
    """
    try:
        with first_alone(kind):
            return msgspec.msgpack.decode(body, type=kind)
    except ValueError as error:
        raise ValueError(f"The request's body is not the expected MessagePack: {error}.") from None


def write(message: object) -> bytes:
    """Writes a message of plain values, dataclasses and ``Array``."""
    return msgspec.msgpack.encode(message)


def to_numpy(name: str, array: Array) -> np.ndarray:
    """Returns the array, which shares no memory with the message.

    Raises:
        ValueError: The type is not one that is read, or shape and bytes do not fit together.
    """
    dtype = _DTYPES.get(array.dtype)
    if dtype is None:
        raise ValueError(
            f"{name}: the dtype is {array.dtype[:40]!r}, expected one of {', '.join(_DTYPES)}."
        )
    shape = array.shape
    if len(shape) > _MAX_DIMS or not all(0 <= size <= _MAX_SIZE for size in shape):
        raise ValueError(
            f"{name}: the shape is {list(shape[:8])}, expected up to {_MAX_DIMS} sizes from 0 to "
            f"{_MAX_SIZE}."
        )
    want = math.prod(shape) * dtype.itemsize
    if len(array.data) != want:
        raise ValueError(
            f"{name}: {array.dtype} {list(shape)} takes {want} bytes, got {len(array.data)}."
        )
    if array.dtype == "bool":  # bytes other than 0 and 1 are no booleans to numpy and PyTorch
        return np.ndarray(shape, np.uint8, array.data) != 0
    # Copied, because PyTorch wants memory that it may write.
    return np.ndarray(shape, dtype, array.data).copy()


def from_numpy(array: np.ndarray) -> Array:
    """Returns the array as it is sent."""
    little = np.asarray(array, array.dtype.newbyteorder("<"))
    return Array(dtype=array.dtype.name, shape=array.shape, data=little.tobytes())
