"""Held-out clips, some of which storage has damaged."""

import pytest
import torch

from lafp.data.held_out import CLIPS_PER_BATCH, HeldOutClips
from tests.synthetic_shards import damage_clips, write_shard_set

NUM_CLIPS = 2 * CLIPS_PER_BATCH


@pytest.fixture
def shards(tmp_path) -> str:
    num_clips = NUM_CLIPS + 1
    return write_shard_set(tmp_path, num_clips=num_clips, num_val_clips=NUM_CLIPS)


def sizes(held_out: HeldOutClips) -> list[int]:
    return [len(batch.num_frames) for batch in held_out.batches(torch.device("cpu"))]


def test_a_damaged_clip_is_left_out(shards):
    damage_clips(shards, num=1)
    assert sorted(sizes(HeldOutClips(shards, NUM_CLIPS))) == [CLIPS_PER_BATCH - 1, CLIPS_PER_BATCH]


@pytest.mark.parametrize("in_batch", [0, 1])
def test_a_batch_of_damaged_clips_is_no_batch(shards, in_batch):
    held_out = HeldOutClips(shards, NUM_CLIPS)
    keys = [batch.clip_key.tolist() for batch in held_out.batches(torch.device("cpu"))]
    damage_clips(shards, only=frozenset(keys[in_batch]))
    assert sizes(HeldOutClips(shards, NUM_CLIPS)) == [CLIPS_PER_BATCH]


def test_nothing_is_measured_on_damaged_clips_alone(shards):
    damage_clips(shards)
    assert sizes(HeldOutClips(shards, NUM_CLIPS)) == []
