"""Stores the signatures of clips beside their part, later beside their shard, and finds them again.

They are the bulk of a clip's row, and only the search for near-duplicates reads them. pyarrow is
imported by the functions, because processes that decode videos do not need it.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from data_pipelines.preprocess.rows import ClipRow
from lafp import storage
from lafp.data.shards.format import signatures_name
from lafp.storage.map_ahead import map_ahead
from lafp.storage.tables import read_table, write_table

if TYPE_CHECKING:
    import pyarrow as pa


def write_signatures(work: str, part: str, signatures: Mapping[int, bytes]) -> None:
    """Writes the table beside a part.

    Args:
        work: Folder of the parts.
        part: Path of the part's tar in ``work``.
        signatures: Place of a clip's video in the tar -> ``Signature.from_bytes`` reads it.
    """
    import pyarrow as pa

    offsets = pa.array(signatures.keys(), pa.int64())
    values = pa.array(signatures.values(), pa.large_binary())
    write_table(_table_uri(work, part), pa.table({"video_offset": offsets, "signature": values}))


def signatures_of(clips: "pa.Table", work: str) -> "pa.Table":
    """Reads the signatures of clips.

    Args:
        clips: ``clip``, sorted, ``video``, ``part`` and ``video_offset``.
        work: Folder of the parts.

    Returns:
        ``clip``, ``video`` and ``signature``, in the same order.
    """
    import pyarrow as pa

    parts, of_part = np.unique(clips["part"].to_numpy(), return_inverse=True)
    offsets = clips["video_offset"].to_numpy()
    rows = [np.flatnonzero(of_part == number) for number in range(len(parts))]
    wanted = zip(parts.tolist(), (offsets[of] for of in rows), strict=True)
    tables = list(map_ahead(partial(_read, work), wanted))
    found = pa.chunked_array(tables, pa.large_binary())
    # The empty array is for tables without clips: numpy needs at least one array to join.
    order = np.argsort(np.concatenate([*rows, np.zeros(0, np.int64)]))
    return pa.table(
        {"clip": clips["clip"], "video": clips["video"], "signature": found.take(order)}
    )


def write_shard_signatures(uri: str, clips: Sequence[ClipRow], work: str) -> None:
    """Writes the table beside a shard, from those beside the parts.

    Args:
        uri: The table to write.
        clips: The clips of the shard, in order.
        work: Folder of the parts.
    """
    import pyarrow as pa

    numbers = np.arange(len(clips))
    places = {
        "clip": numbers,
        "video": numbers,
        "part": [clip.part for clip in clips],
        "video_offset": [clip.video_offset for clip in clips],
    }
    found = signatures_of(pa.table(places), work)["signature"]
    names = ("clip_id", "episode_id", "video_uri")
    columns = {name: [getattr(clip.record, name) for clip in clips] for name in names}
    # One chunk, so that the file does not depend on how the clips lay in parts.
    write_table(uri, pa.table(columns | {"signature": found}).combine_chunks())


def _read(work: str, wanted: tuple[str, np.ndarray]) -> "pa.Array":
    """Reads the signatures of a part's clips at the given offsets."""
    part, offsets = wanted
    table = read_table(_table_uri(work, part)).sort_by("video_offset")
    places = np.searchsorted(table["video_offset"].to_numpy(), offsets)
    return table["signature"].take(places).combine_chunks()


def _table_uri(work: str, part: str) -> str:
    return storage.join(work, signatures_name(part))
