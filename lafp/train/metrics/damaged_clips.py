"""Counts and names clips that could not be read, and raises an error if there are too many."""

from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from lafp.data.shards.damage import REASONS
from lafp.data.shards.format import id_prefix
from lafp.ranks import world_size
from lafp.types import ClipBatch

DAMAGED = "damaged_clips"
"""Name of the metric: number of visits to damaged clips in the whole run."""


class DamagedShardsError(RuntimeError):
    """More clips are damaged than the config allows. The message says how many and why."""


class DamagedClips:
    """Counts visits to damaged clips, each of which the reader replaced by another clip.

    Args:
        max_share: Largest allowed share of the visits between two reports, over all ranks and
            streams.
    """

    def __init__(self, max_share: float) -> None:
        self._max_share = max_share
        self._num_visits = 0
        self._found: list[tuple[str, Tensor]] = []
        self._named: set[str] = set()

    def counted(self, batches: Iterator[dict[str, ClipBatch]]) -> Iterator[dict[str, ClipBatch]]:
        """Passes micro-batches on, and counts their clips on the way."""
        for batch in batches:
            for stream, clips in batch.items():
                self._num_visits += len(clips.clip_key)
                if clips.damaged is not None and clips.damaged.any():
                    self._found.append((stream, clips.damaged))
            yield batch

    def read(self, step: int) -> tuple[int, list[dict[str, Any]]]:
        """Returns the damaged clips met since the last call, up to ``step``. All ranks call it.

        Returns:
            Number of visits to damaged clips, and a row for each clip that was not named before.

        Raises:
            DamagedShardsError: There are too many. Every rank raises it.
        """
        num_damaged = sum(int((rows[:, 0] != 0).sum()) for _, rows in self._found)
        counts = torch.tensor([num_damaged, self._num_visits])
        is_distributed = world_size() > 1
        if is_distributed:
            dist.all_reduce(counts)
        found, self._found, self._num_visits = self._found, [], 0
        num_damaged, num_visits = counts.tolist()
        if not num_damaged:
            return 0, []
        mine = _rows(found, step)
        everyones = [mine]
        if is_distributed:
            everyones = [mine] * dist.get_world_size()
            dist.all_gather_object(everyones, mine)
        rows = [row for rows in everyones for row in rows]
        if num_damaged > self._max_share * num_visits:
            raise DamagedShardsError(_too_many(num_damaged, num_visits, self._max_share, rows))
        # Reversed, so that of several visits to a clip the first one is named.
        new = {row["clip_id_begins_with"]: row for row in reversed(rows)}
        fresh = [row for name, row in new.items() if name not in self._named]
        self._named |= new.keys()
        return num_damaged, fresh


def _rows(found: list[tuple[str, Tensor]], step: int) -> list[dict[str, Any]]:
    return [
        {
            "step": step,
            "stream": stream,
            "clip_id_begins_with": id_prefix(key),
            "reason": REASONS[reason],
        }
        for stream, rows in found
        for key, reason in rows.tolist()
        if key
    ]


def _too_many(num: int, num_visits: int, max_share: float, rows: list[dict[str, Any]]) -> str:
    reasons = ", ".join(sorted({row["reason"] for row in rows}))
    return (
        f"{num} of the {num_visits} clips that were read since the last report are damaged "
        f"({reasons}), more than ingest.max_damaged_share {max_share} allows. The first one's id "
        f"begins with {rows[0]['clip_id_begins_with']}. Write the shards of stream "
        f"'{rows[0]['stream']}' again, then run the same command again to resume."
    )
