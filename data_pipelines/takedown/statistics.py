"""Recomputes action statistics after a takedown, so that they hold nothing of the removed clips."""

from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any

from data_pipelines.preprocess.action_statistics import ActionStatistics, label_sums
from lafp import storage
from lafp.data.shards.format import ClipLocation, Labels, ShardEntry
from lafp.storage.map_ahead import map_ahead


def action_after(
    shards: str, entries: Iterable[ShardEntry], action: dict[str, Any] | None
) -> dict[str, Any] | None:
    """Computes ``ShardSet.action`` from the labels of the clips that are left.

    Args:
        shards: The shard set.
        entries: The current entries of its shards.
        action: The value before the takedown. Bounds of the action space that the labels gave, and
            the number of discrete actions, stay: a model's outputs depend on them.
    """
    if action is None or action["is_discrete"]:
        return action
    every, train = ActionStatistics(), ActionStatistics()
    for entry in entries:
        for labels in _labels(shards, entry):
            if labels.true_action is not None and len(labels.true_action) > 1:
                # The last row acts after the last frame, so it is in no window.
                sums = label_sums(labels.true_action[:-1])
                every.add(sums)
                if entry.split == "train":
                    train.add(sums)
    if not every.num_rows:
        return action
    found = (train if train.num_rows else every).per_dimension()
    # Bounds that somebody set stay. Those that were the range of the data follow the data.
    was_bounded = action["low"] != action.get("min") or action["high"] != action.get("max")
    bounds = {} if was_bounded else {"low": found["min"], "high": found["max"]}
    return action | bounds | found


def _labels(shards: str, entry: ShardEntry) -> Iterator[Labels]:
    labeled = (clip for clip in entry.clips if clip.labels_bytes)
    return map_ahead(partial(_read, storage.join(shards, entry.shard)), labeled)


def _read(uri: str, clip: ClipLocation) -> Labels:
    return Labels.from_bytes(storage.read_bytes(uri, clip.labels_offset, clip.labels_bytes))
