"""Divides a source into blocks, and turns the rows of the parts of a block into tables.

A block is some parts that follow each other in the plan. Its videos and clips are numbered in the
order of the listing, from ``first_number(block)`` on. So numbers of all blocks ascend in that order
too, and no block must know how many rows others have.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from data_pipelines.preprocess.rejects import RejectRow
from data_pipelines.preprocess.rows import ClipRow, ItemRows
from data_pipelines.preprocess.select.steps import Tables, first_number
from lafp.data.shards.format import ClipRecord
from lafp.storage import strict_json
from lafp.storage.tables import schema_of

VIDEOS = pa.schema(
    {
        "video": pa.int64(),
        "uri": pa.string(),
        "video_id": pa.string(),  # empty if nothing may count as a copy of it
        "episode": pa.string(),  # videos of one episode share a split
        "given_split": pa.string(),
        "duration_s": pa.float64(),
        "is_rate_assumed": pa.bool_(),
        "decoder_fallback": pa.string(),  # why it was not decoded where it should, or empty
    }
)
CLIPS = pa.schema(
    [
        ("clip", pa.int64()),
        ("video", pa.int64()),
        *schema_of(ClipRecord),
        *schema_of(ClipRow),  # of a clip's place in its part
        ("kind", pa.string()),  # kind of its labels (LabelSums.kind), or empty
        ("label_sums", pa.string()),  # LabelSums as JSON
    ]
)
REJECTS = pa.schema([("video", pa.int64()), *schema_of(RejectRow)])
NAMES = ("videos", "clips", "rejects")


@dataclass(frozen=True, kw_only=True)
class Block:
    """Names the tasks of a chunk of the plan whose parts are a block."""

    chunk: int
    first: int
    end: int


def store_block(tables: Tables, number: int, items: Iterable[ItemRows]) -> None:
    """Stores the tables of a block: ``videos``, ``clips`` and ``rejects``.

    Args:
        tables: Where they are stored.
        number: Number of the block.
        items: Its inputs, in the order of the listing.
    """
    videos: list[dict[str, Any]] = []
    clips: list[dict[str, Any]] = []
    rejects: list[dict[str, Any]] = []
    first = first_number(number)
    for item in items:
        numbers = {}
        for video in item.videos:
            numbers[video.uri] = first + len(videos)
            # An episode is named by the content also where the id is taken from a video.
            episode = video.episode_id or video.video_id
            row = {"video": numbers[video.uri], "episode": episode, "given_split": video.split}
            videos.append(vars(video) | row)
        for clip in item.clips:
            row = {"clip": first + len(clips), "video": numbers[clip.record.video_uri]}
            clips.append(_clip_row(clip) | row)
        rejects += [vars(row) | {"video": numbers[row.video_uri]} for row in item.rejects]
    for name, rows, schema in zip(
        NAMES, (videos, clips, rejects), (VIDEOS, CLIPS, REJECTS), strict=True
    ):
        tables.write(name, number, pa.Table.from_pylist(rows, schema))


def _clip_row(clip: ClipRow) -> dict[str, Any]:
    sums = clip.label_sums
    return {
        **vars(clip.record),
        **vars(clip),
        "kind": sums.kind if sums else "",
        "label_sums": strict_json.dumps(sums) if sums else None,
    }


def clip_rows(table: pa.Table) -> list[ClipRow]:
    """Returns the clips of a table with the columns of ``CLIPS``, without their sums."""
    return [
        ClipRow(
            record=strict_json.from_plain(ClipRecord, {name: row[name] for name in _RECORD}),
            **{name: row[name] for name in _PLACE},
        )
        for row in table.select([*_RECORD, *_PLACE]).to_pylist()
    ]


_RECORD: Sequence[str] = schema_of(ClipRecord).names
_PLACE: Sequence[str] = schema_of(ClipRow).names
