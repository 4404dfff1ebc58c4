"""A shard that storage has changed since: training goes on, counts and names the clips."""

import json
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from lafp import storage
from lafp.config import ConfigError
from lafp.data.order.clips import ClipOrder
from lafp.data.shards.damage import REASONS, DamagedClipError
from lafp.data.shards.format import ShardEntry
from lafp.data.shards.reader import ClipReader
from lafp.data.shards.sets import read_shard_entry
from lafp.storage import strict_json
from lafp.train.config import IngestConfig, TrainConfig
from lafp.train.context import LocalContext
from lafp.train.loop import train
from lafp.train.metrics.damaged_clips import DamagedShardsError
from lafp.train.metrics.log import read_metrics
from tests.synthetic_shards import write_shard_set
from tests.toy_task import ToyTask

NUM_CLIPS, CLIPS_PER_SHARD = 20, 4


@pytest.fixture
def shards(tmp_path) -> Path:
    uri = write_shard_set(tmp_path / "shards", NUM_CLIPS, CLIPS_PER_SHARD, has_labels=True)
    return Path(uri)


def entry(shards: Path, index: int = 0) -> ShardEntry:
    return strict_json.read(ShardEntry, str(shards / f"train-{index:06d}.json"))


def flip_a_bit(shards: Path, offset: int) -> None:
    with (shards / "train-000000.tar").open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 1]))


def damage(shards: Path, reason: str) -> list[str]:
    """Damages the first shard. Returns the ids of the clips that this costs."""
    tar, clips = shards / "train-000000.tar", entry(shards).clips
    if reason == "missing":
        tar.unlink()
        return [clip.clip_id for clip in clips]
    if reason == "truncated":
        with tar.open("r+b") as file:
            file.truncate(clips[2].video_offset + 10)
        return [clip.clip_id for clip in clips[2:]]
    flip_a_bit(shards, clips[1].video_offset + clips[1].video_bytes - 3)
    return [clips[1].clip_id]


def order(shards: Path) -> ClipOrder:
    return ClipOrder(shard_set=str(shards), split="train", seed=0)


def config(max_damaged_share: float, **kwargs) -> TrainConfig:
    return TrainConfig(
        num_steps=10,
        global_batch_size=8,
        report_every_steps=5,
        ingest=IngestConfig(max_damaged_share=max_damaged_share),
        **kwargs,
    )


@pytest.mark.parametrize("reason", ["missing", "truncated", "checksum"])
def test_training_goes_on_and_names_each_damaged_clip_once(shards, tmp_path, reason):
    lost = damage(shards, reason)
    train(config(max_damaged_share=0.5), ToyTask(str(shards)), LocalContext(str(tmp_path)))
    rows = [json.loads(row) for row in (tmp_path / "damaged_clips.jsonl").read_text().splitlines()]
    assert sorted(row["clip_id_begins_with"] for row in rows) == sorted(c[:15] for c in lost)
    assert {row["reason"] for row in rows} == {reason} and rows[0]["stream"] == "videos"
    # 10 steps of 4 clips are two epochs of 20: every clip was to be visited twice.
    records = read_metrics(str(tmp_path))
    assert [record["damaged_clips"] for record in records] == [len(lost), 2 * len(lost)]


def test_other_clips_of_the_batch_stand_in_and_the_sound_ones_are_untouched(shards):
    refs = list(islice(order(shards).visits(), NUM_CLIPS))
    sound = ClipReader(str(shards)).read_batch(refs)
    lost = damage(shards, "truncated")
    batch = ClipReader(str(shards)).read_sound_batch(refs)
    is_lost = np.array([ref.location.clip_id in lost for ref in refs])
    assert is_lost.sum() == 2
    keys = np.array([ref.location.key for ref in refs])
    np.testing.assert_array_equal(batch["damaged"][:, 0], np.where(is_lost, keys, 0))
    assert {REASONS[code] for code in batch["damaged"][is_lost, 1]} == {"truncated"}
    for name, array in sound.items():
        np.testing.assert_array_equal(batch[name][~is_lost], array[~is_lost])
    assert set(batch["clip_key"][is_lost]) <= set(keys[~is_lost])


def test_a_whole_batch_is_stood_in_for_by_the_last_clip_that_was_read(shards):
    lost = damage(shards, "missing")
    refs = {ref.location.clip_id: ref for ref in islice(order(shards).visits(), NUM_CLIPS)}
    reader = ClipReader(str(shards))
    with pytest.raises(DamagedClipError, match="the file does not exist"):
        reader.read_sound_batch([refs[clip_id] for clip_id in lost])
    last = next(ref for clip_id, ref in refs.items() if clip_id not in lost)
    frames = reader.read_sound_batch([last])["frames"]
    batch = reader.read_sound_batch([refs[clip_id] for clip_id in lost])
    np.testing.assert_array_equal(batch["frames"], frames.repeat(len(lost), 0))


def test_damaged_labels_are_noticed_too(shards):
    clip = entry(shards).clips[0]
    flip_a_bit(shards, clip.labels_offset + clip.labels_bytes // 2)
    ref = next(r for r in order(shards).visits() if r.location.clip_id == clip.clip_id)
    with pytest.raises(DamagedClipError, match=f"{clip.clip_id} in .* checksum, its bytes have"):
        ClipReader(str(shards)).read(ref)


def test_more_damage_than_allowed_stops_with_how_much_and_why(shards, tmp_path):
    damage(shards, "missing")
    with pytest.raises(
        DamagedShardsError, match=r"4 of the 20 clips .* \(missing\), more than .* 0\.1 .*'videos'"
    ):
        train(config(max_damaged_share=0.1), ToyTask(str(shards)), LocalContext(str(tmp_path)))


def test_a_missing_index_of_a_shard_is_an_error_at_once(shards):
    (shards / "train-000001.json").unlink()
    read_shard_entry.cache_clear()
    with pytest.raises(ConfigError, match=r"train-000001\.json is missing.*Write the shard set"):
        list(islice(order(shards).visits(), NUM_CLIPS))


def test_a_truncated_object_on_s3_reads_like_a_truncated_file(s3_bucket):
    storage.write_bytes(f"{s3_bucket}/file", b"0123456789")
    assert storage.read_bytes(f"{s3_bucket}/file", 8, 5) == b"89"
    assert storage.read_bytes(f"{s3_bucket}/file", 20, 5) == b""
