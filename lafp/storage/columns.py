"""Columns of tables <-> NumPy, without pandas.

pyarrow imports pandas when it converts an array of NumPy, a list or a scalar, and that takes longer
than reading a table. So code that runs at the start of every training uses these functions.
"""

import re
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pyarrow as pa


def numbers(column: "pa.Array | pa.ChunkedArray") -> np.ndarray:
    """Returns a column of integers or floating-point numbers [N].

    Raises:
        ValueError: A row has no number.
    """
    import pyarrow as pa

    if column.null_count:
        raise ValueError("a row has no number")
    chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
    dtype = np.dtype(column.type.to_pandas_dtype())
    found = [
        np.frombuffer(chunk.buffers()[1], dtype)[chunk.offset :][: len(chunk)] for chunk in chunks
    ]
    return np.concatenate([np.zeros(0, dtype), *found])


def mask(is_kept: np.ndarray) -> "pa.BooleanArray":
    """Returns an array by which ``filter`` keeps rows. It is bool [N]."""
    import pyarrow as pa

    bits = pa.py_buffer(np.packbits(is_kept, bitorder="little"))
    return pa.Array.from_buffers(pa.bool_(), len(is_kept), [None, bits])


def is_equal(column: "pa.Array | pa.ChunkedArray", value: str | bool) -> "pa.Array":
    """Says which rows hold a value; false where a row has none."""
    import pyarrow.compute as pc

    if isinstance(value, bool):
        found = column if value else pc.invert(column)
    else:
        found = pc.match_substring_regex(column, rf"\A{re.escape(value)}\z")
    return found
