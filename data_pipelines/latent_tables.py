"""Writes the tables of a latent set from the entries of its files. Needs no torch."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from lafp import storage
from lafp.data.shards.format import entry_name
from lafp.data.stored_latents import CLIPS_FILE, REJECTS_FILE, ClipLatents, ClipReject, LatentShard
from lafp.storage import strict_json
from lafp.storage.tables import open_table


def write_tables(uri: str, names: Sequence[str]) -> dict[str, Any]:
    """Writes ``latents.parquet`` and ``rejects.parquet``, shard by shard. Returns the totals."""
    totals: Counter[str] = Counter()
    dtypes: set[str] = set()
    rounding = 0.0
    with (
        open_table(storage.join(uri, CLIPS_FILE), ClipLatents, {"shard": str}) as clips,
        open_table(storage.join(uri, REJECTS_FILE), ClipReject) as rejects,
    ):
        for name in names:
            entry = strict_json.read(LatentShard, storage.join(uri, entry_name(name)))
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
