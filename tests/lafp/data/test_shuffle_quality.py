"""How far apart the order of data puts what lay side by side; docs/architecture.md states it."""

from itertools import islice, pairwise

import numpy as np
import pytest

from lafp.data.order.clips import ClipOrder
from lafp.data.shards.sets import read_shard_entry
from tests.synthetic_shards import write_shard_set

NUM_CLIPS, CLIPS_PER_SHARD, NUM_EPOCHS = 512, 16, 6


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> str:
    """32 shards of 16 clips."""
    folder = tmp_path_factory.mktemp("shards")
    return write_shard_set(folder, NUM_CLIPS, CLIPS_PER_SHARD, frames=(2, 2))


def positions(order: ClipOrder, num_epochs: int) -> dict[str, np.ndarray]:
    """Clip id -> its positions in the sequence, one per epoch."""
    found: dict[str, list[int]] = {}
    for position, ref in enumerate(islice(order.visits(), num_epochs * order.num_clips)):
        found.setdefault(ref.location.clip_id, []).append(position)
    return {clip_id: np.array(at) for clip_id, at in found.items()}


def neighbour_distances(order: ClipOrder, num_epochs: int) -> np.ndarray:
    """Positions between two clips that lie side by side in a shard, in clips."""
    at = positions(order, num_epochs)
    shards = {ref.shard for ref in islice(order.visits(), order.num_clips)}
    distances = []
    for shard in shards:
        ids = [clip.clip_id for clip in read_shard_entry(order.shard_set, shard).clips]
        distances += [np.abs(at[a] - at[b]) for a, b in pairwise(ids)]
    return np.concatenate(distances)


@pytest.mark.parametrize("pool_shards", [4, 16, 32])
def test_neighbours_of_a_shard_land_as_in_a_full_shuffle_of_their_pool(shards, pool_shards):
    """Two random places among n are (n + 1) / 3 apart on average, and 1 in n pairs is adjacent."""
    order = ClipOrder(shard_set=shards, split="train", seed=0, pool_shards=pool_shards)
    distances = neighbour_distances(order, NUM_EPOCHS)
    pool_clips = pool_shards * CLIPS_PER_SHARD
    assert distances.mean() == pytest.approx((pool_clips + 1) / 3, rel=0.05)
    assert (distances == 1).mean() == pytest.approx(2 / pool_clips, abs=0.01)
    assert distances.max() < pool_clips


def test_a_clip_comes_back_an_epoch_later_on_average(shards):
    order = ClipOrder(shard_set=shards, split="train", seed=0, pool_shards=16)
    gaps = np.concatenate([np.diff(at) for at in positions(order, NUM_EPOCHS).values()])
    assert gaps.mean() == pytest.approx(NUM_CLIPS, rel=0.02)
    assert gaps.min() >= 1 and gaps.max() < 2 * NUM_CLIPS


def test_a_batch_holds_clips_of_many_shards(shards):
    """64 clips out of a pool of 16 shards: nearly as many shards as if drawn at random."""
    order = ClipOrder(shard_set=shards, split="train", seed=0, pool_shards=16)
    visits = list(islice(order.visits(), NUM_EPOCHS * NUM_CLIPS))
    batches = [visits[i : i + 64] for i in range(0, len(visits), 64)]
    assert np.mean([len({ref.shard for ref in batch}) for batch in batches]) > 15
