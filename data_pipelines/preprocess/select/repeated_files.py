"""Finds files with the same content, in the source and in finished sets. The first one is kept."""

from collections.abc import Iterator
from itertools import groupby
from operator import itemgetter
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data_pipelines.preprocess.select.steps import column

IDS = pa.schema(
    {
        "video": pa.int64(),  # negative for a video of a finished set
        **{name: pa.string() for name in ("video_id", "uri", "episode", "split", "shard_set")},
    }
)
"""Columns of ``ids_of`` and ``known_ids``; the last two are empty for videos of the source."""
COPIES = pa.schema(
    {
        "video": pa.int64(),  # which is dropped
        "first": pa.int64(),  # which is kept; negative if a finished set holds it
        **{name: pa.string() for name in ("original_uri", "detail")},
        **{name: pa.string() for name in ("known_episode", "known_split")},
    }
)
"""Columns of ``copies``; the last two are empty if the source holds the first video."""


def ids_of(videos: pa.Table) -> pa.Table:
    """Returns the columns of ``IDS`` of the videos of a block whose content has an id."""
    has_id = np.array([bool(value) for value in videos["video_id"].to_pylist()], bool)
    found = videos.select(["video", "video_id", "uri", "episode"]).filter(has_id)
    empty = pa.array([""] * len(found), pa.string())
    return found.append_column("split", empty).append_column("shard_set", empty).cast(IDS)


def known_ids(videos: pa.Table, number: int, shard_set: str) -> pa.Table:
    """Returns the columns of ``IDS`` of videos of a finished set, each once.

    Args:
        videos: Rows of ``known_videos``.
        number: Negative number of the set; those that come first in the config are lower.
        shard_set: The set.
    """
    known = videos.group_by(videos.column_names, use_threads=False).aggregate([])
    known = known.filter(pc.not_equal(known["video_id"], ""))
    columns = {
        "video": np.full(len(known), number),
        "video_id": known["video_id"],
        "uri": known["video_uri"],
        "episode": known["episode_id"],
        "split": known["split"],
        "shard_set": pa.array([shard_set] * len(known), pa.string()),
    }
    return pa.table(columns).cast(IDS)


def copies(ids: pa.Table) -> pa.Table:
    """Says which videos repeat another one: the columns of ``COPIES``.

    Args:
        ids: All rows of ``IDS`` with certain contents.
    """
    order = ids.sort_by([("video_id", "ascending"), ("video", "ascending")])
    # Most contents come once, so Python objects are made of the others only.
    names = order["video_id"].combine_chunks()
    is_equal = np.zeros(len(order) + 1, bool)
    if len(order) > 1:
        is_equal[1:-1] = np.asarray(names[1:].to_numpy(False) == names[:-1].to_numpy(False))
    several = order.filter(is_equal[1:] | is_equal[:-1])
    found = groupby(several.to_pylist(), key=itemgetter("video_id"))
    return pa.Table.from_pylist([row for _, group in found for row in _copies(list(group))], COPIES)


def _copies(videos: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    known = [video for video in videos if video["video"] < 0]
    if known:
        # The first set counts, but one that trains on the video wins.
        first = min(known, key=lambda video: video["split"] != "train")
        more = {"known_episode": first["episode"], "known_split": first["split"]}
        detail = f"in {first['shard_set']}: {first['uri']}"
    else:
        first, more = videos[0], {"known_episode": "", "known_split": ""}
        detail = first["uri"]
    for video in videos[len(known) or 1 :]:
        yield {
            "video": video["video"],
            "first": first["video"],
            "original_uri": first["uri"],
            "detail": detail,
            **more,
        }


def first_of_source(found: pa.Table) -> pa.Table:
    """Returns the rows of ``COPIES`` whose first video the source holds."""
    return found.filter(column(found, "first") >= 0)
