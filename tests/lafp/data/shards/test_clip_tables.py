"""Clips in several files are read as one table, and only what a reader names is needed."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from lafp.config import ConfigError
from lafp.data.labels import count_labels, labeled_episodes, unseen_clips
from lafp.data.masks import count_masks
from lafp.data.order.clips import ClipOrder
from lafp.data.shards.clip_tables import clip_batches, clip_rows, num_clip_files, videos_of_clips
from tests.shard_tables import divide, table_file
from tests.synthetic_shards import write_shard_set

NUM_CLIPS = 20


@pytest.fixture
def shards(tmp_path) -> Path:
    return Path(write_shard_set(tmp_path / "set", NUM_CLIPS, num_val_clips=5, has_labels=True))


def facts(shards: str) -> list[object]:
    """What readers of the table find."""
    rows = list(clip_rows(shards, ["clip_id", "shard"]))
    some = [row["clip_id"] for row in rows[3:17:4]]
    orders = (
        ClipOrder(shard_set=shards, split="train", seed=0, only_clips=frozenset(some)),
        ClipOrder(shard_set=shards, split="train", seed=0, motion_power=0.5),
    )
    return [
        rows,
        *(labeled_episodes(shards, split) for split in ("train", "val")),
        count_labels(shards, 0.5, 0, 1),
        count_masks(shards, 1.0, 0),
        unseen_clips(shards),
        videos_of_clips(shards, some),
        *(order.num_clips for order in orders),
    ]


def test_several_files_are_read_as_one(shards):
    whole = facts(str(shards))
    assert len(whole[0]) == NUM_CLIPS and divide(shards, 7) == 3
    assert facts(str(shards)) == whole


def test_a_copy_that_lacks_a_file_is_an_error_that_names_it(shards):
    divide(shards, 7)
    (shards / "clips/part-00002.parquet").unlink()
    with pytest.raises(ConfigError, match=r"clips/part-00002\.parquet is missing"):
        labeled_episodes(str(shards), "train")


def test_a_file_is_opened_when_its_rows_are_asked_for(shards):
    divide(shards, 7)
    (shards / "clips/part-00001.parquet").write_bytes(b"no table")
    batches = clip_batches(str(shards), ["clip_id"])
    assert next(batches).num_rows == 7
    with pytest.raises(ValueError, match=r"part-00001\.parquet is damaged"):
        next(batches)


def test_clips_of_a_folder_called_unseen_are_found(shards):
    path = shards / table_file("clips")
    rows = pq.read_table(path)
    uris = [
        "a/unseen/1.mp4",
        "unseen/2.mp4",
        "a/unseen/b/3.mp4",
        "unseen.mp4",
        "a/not_unseen/5.mp4",
    ]
    uris += ["a/5.mp4"] * (NUM_CLIPS - len(uris))
    at = rows.schema.get_field_index("video_uri")
    pq.write_table(rows.set_column(at, "video_uri", [uris]), path)
    assert unseen_clips(str(shards)) == set(rows["clip_id"].to_pylist()[:2])


def test_a_set_has_as_many_files_as_its_clips_fill():
    assert [num_clip_files(n) for n in (0, 1, 500_000, 500_001)] == [1, 1, 1, 2]
