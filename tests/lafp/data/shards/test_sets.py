"""A manifest is read once while it stays as it is, and again when it was replaced."""

import hashlib
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lafp.config import ConfigError
from lafp.data.order.clips import ClipOrder
from lafp.data.shards.sets import read_manifest, shard_counts, shards_sha256
from tests.synthetic_shards import write_shard_set


@pytest.fixture
def shards(tmp_path) -> Path:
    return Path(write_shard_set(tmp_path / "set", num_clips=10, clips_per_shard=4, num_val_clips=2))


def test_a_hash_is_that_of_the_sorted_names_and_checksums(shards):
    rows = read_manifest(str(shards), ["shard", "sha256"]).to_pylist()
    lines = sorted(f"{row['shard']} {row['sha256']}" for row in rows)
    expected = hashlib.sha256("\n".join(lines).encode()).hexdigest()
    assert shards_sha256(str(shards)) == expected
    path = shards / "manifest.parquet"
    pq.write_table(pa.Table.from_pylist(pq.read_table(path).to_pylist()[::-1]), path)
    assert shards_sha256(str(shards)) == expected  # the order of rows is not content


def test_the_shards_of_a_split_are_sorted_and_counted(shards):
    found = shard_counts(str(shards), "train")
    assert found.names.to_pylist() == ["train-000000.tar", "train-000001.tar"]
    assert found.num_clips.tolist() == [4, 4]
    assert shard_counts(str(shards), "val").num_clips.tolist() == [2]
    assert len(shard_counts(str(shards), "test").names) == 0


def test_a_process_reads_a_manifest_once_while_the_file_stays_as_it_is(shards):
    path, before = shards / "manifest.parquet", shards_sha256(str(shards))
    data, stat = path.read_bytes(), path.stat()
    path.write_bytes(bytes(len(data)))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # as if nothing was written
    assert shards_sha256(str(shards)) == before
    assert ClipOrder(shard_set=str(shards), split="train", seed=0).num_clips == 8
    os.utime(path)
    with pytest.raises(ConfigError, match=r"manifest\.parquet is damaged"):
        shards_sha256(str(shards))


def test_a_manifest_that_was_replaced_is_read_anew(shards):
    path, before = shards / "manifest.parquet", shards_sha256(str(shards))
    rows = pq.read_table(path).to_pylist()
    new = path.with_suffix(".new")
    pq.write_table(pa.Table.from_pylist([row | {"sha256": "0" * 64} for row in rows[:-1]]), new)
    new.rename(path)
    assert shards_sha256(str(shards)) != before
    assert shard_counts(str(shards), "val").num_clips.tolist() == []


@pytest.mark.parametrize("column", ["shard", "sha256", "num_clips"])
def test_a_row_without_a_value_is_damage(shards, column):
    path = shards / "manifest.parquet"
    rows = pq.read_table(path).to_pylist()
    pq.write_table(pa.Table.from_pylist([*rows, rows[0] | {column: None}]), path)
    with pytest.raises(ConfigError, match=rf"is damaged: it has rows without {column}"):
        shards_sha256(str(shards))


@pytest.mark.parametrize("num_clips", [7, 2**53, 2**63 - 1, 2**64 - 1])
def test_a_manifest_with_more_clips_than_the_set_is_damage(shards, num_clips):
    path = shards / "manifest.parquet"
    rows = pq.read_table(path).to_pylist()
    numbers = pa.array([row["num_clips"] for row in rows[:-2]] + 2 * [num_clips], pa.uint64())
    table = pa.Table.from_pylist(rows)
    pq.write_table(
        table.set_column(table.column_names.index("num_clips"), "num_clips", numbers), path
    )
    with pytest.raises(ConfigError, match=r"is damaged: it counts .* clips, shard_set\.json 10\."):
        ClipOrder(shard_set=str(shards), split="train", seed=0)
