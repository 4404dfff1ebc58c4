"""Writes the tables of a latent set from the entries of its files. Needs no torch."""

from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import Any

from lafp import storage
from lafp.data.shards.format import entry_name
from lafp.data.stored_latents import CLIPS_FILE, REJECTS_FILE, ClipLatents, ClipReject, LatentShard
from lafp.storage import strict_json
from lafp.storage.map_ahead import map_ahead
from lafp.storage.tables import open_table


def write_tables(uri: str, names: Sequence[str]) -> dict[str, Any]:
    """Writes ``latents.parquet`` and ``rejects.parquet``, shard by shard.

    Args:
        uri: Folder of the latent set.
        names: Names of the shards, at least one.

    Returns:
        The totals.
    """
    totals: Counter[str] = Counter()
    dtypes: set[str] = set()
    rounding = 0.0
    with (
        open_table(storage.join(uri, CLIPS_FILE), ClipLatents, {"shard": str}) as clips,
        open_table(storage.join(uri, REJECTS_FILE), ClipReject) as rejects,
    ):
        entries = (storage.join(uri, entry_name(name)) for name in names)
        for entry in map_ahead(partial(strict_json.read, LatentShard), entries):
            for clip in entry.clips:
                clips.add(vars(clip) | {"shard": entry.shard})
            for reject in entry.rejects:
                rejects.add(vars(reject))
            totals["num_clips"] += len(entry.clips)
            totals["num_rejected_clips"] += len(entry.rejects)
            totals["num_pairs"] += entry.num_pairs
            totals["num_bytes"] += entry.num_bytes
            dtypes.add(entry.dtype)
            rounding = max(rounding, entry.rounding)
    return dict(totals) | {
        "dtypes": ", ".join(sorted(dtypes)),
        "rounding": rounding,
        "latent_action_dim": entry.latent_action_dim,
        "frame_stack": entry.frame_stack,
    }
