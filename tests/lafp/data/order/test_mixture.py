"""Weighted sampling: proportions, what an epoch holds, and exact resume."""

from collections import Counter
from itertools import islice

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lafp.data.order.clips import ClipOrder
from lafp.data.order.demand import ClipDemand, ClipStream
from lafp.data.order.micro_batches import MicroBatchLayout, MicroBatchReader
from lafp.data.order.mixture import MIX_PERIOD, MixedOrder
from lafp.data.order.motion import MAX_WEIGHT, num_visits
from tests.synthetic_shards import write_shard_set


@pytest.fixture(scope="module")
def sets(tmp_path_factory) -> list[str]:
    """Three sets of 10, 7 and 23 clips."""
    return [
        write_shard_set(tmp_path_factory.mktemp("set"), num_clips=num, seed=num)
        for num in (10, 7, 23)
    ]


def order(uri: str, **kwargs) -> ClipOrder:
    return ClipOrder(shard_set=uri, split="train", seed=3, pool_shards=2, **kwargs)


def mixed(sets: list[str], weights: tuple[float, ...]) -> MixedOrder:
    return MixedOrder(parts=tuple(order(uri) for uri in sets), weights=weights, seed=3)


@pytest.mark.parametrize("weights", [(1.0, 1.0, 1.0), (6.0, 3.0, 1.0), (0.001, 5.0, 5.0)])
def test_every_set_has_its_share_of_the_visits(sets, weights):
    visits = list(islice(mixed(sets, weights).visits(), 5 * MIX_PERIOD))
    for start in range(0, len(visits), MIX_PERIOD):
        counts = Counter(ref.shard_set for ref in visits[start : start + MIX_PERIOD])
        shares = np.array([counts[uri] for uri in sets]) / MIX_PERIOD
        np.testing.assert_allclose(shares, np.array(weights) / sum(weights), atol=2 / MIX_PERIOD)


def test_within_each_set_no_clip_is_lost_and_none_comes_twice_in_an_epoch(sets):
    visits = list(islice(mixed(sets, (5.0, 1.0, 2.0)).visits(), 3 * MIX_PERIOD))
    for uri in sets:
        mine = [ref for ref in visits if ref.shard_set == uri]
        alone = list(islice(order(uri).visits(), len(mine)))
        assert mine == alone


@pytest.mark.parametrize("start", [0, 1, 500, MIX_PERIOD - 1, MIX_PERIOD, 3 * MIX_PERIOD + 17])
def test_a_mixture_begins_anywhere_as_if_read_from_the_start(sets, start):
    mixture = mixed(sets, (5.0, 1.0, 2.0))
    whole = list(islice(mixture.visits(), start + 300))
    assert list(islice(mixture.visits(start), 300)) == whole[start:]


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_what_a_step_reads_does_not_depend_on_the_number_of_workers(sets, world_size):
    mixture = mixed(sets, (2.0, 1.0, 1.0))
    per_rank = [
        ClipStream(
            order=mixture, clips_per_step=8, rank=rank, world_size=world_size, start_step=11
        ).refs()
        for rank in range(world_size)
    ]
    step = [ref for refs in per_rank for ref in islice(refs, 8 // world_size)]
    assert step == list(islice(mixture.visits(11 * 8), 8))


def test_clips_of_several_sets_lie_in_one_batch(sets):
    layout = MicroBatchLayout(
        demands={"train": ClipDemand(order=mixed(sets, (1.0, 1.0, 1.0)), clips_per_step=12)},
        rank=0,
        world_size=1,
        num_rounds=1,
    )
    batch = next(MicroBatchReader(layout).read_from(0))["train"]
    expected = [ref.location.key for ref in islice(layout.demands["train"].order.visits(), 12)]
    assert batch["clip_key"].tolist() == expected and batch["frames"].shape[:2] == (12, 9)


def with_motion(folder, motion: np.ndarray) -> str:
    uri = write_shard_set(folder, num_clips=len(motion), clips_per_shard=5)
    table = pq.read_table(f"{uri}/clips")
    index = table.schema.get_field_index("motion")
    pq.write_table(
        table.set_column(index, "motion", pa.array(motion)), f"{uri}/clips/part-00000.parquet"
    )
    return uri


def test_clips_are_visited_in_proportion_to_their_motion(tmp_path):
    motion = np.array([0.01, 0.02, 0.03, 0.04, 0.05] * 4)
    uri = with_motion(tmp_path, motion)
    ids = pq.read_table(f"{uri}/clips")["clip_id"].to_pylist()
    weighted = order(uri, motion_power=1.0)
    assert weighted.num_clips == 20
    num_epochs = 300
    counts, windows = Counter(), Counter()
    for epoch in range(num_epochs):
        visits = list(islice(weighted.visits(epoch * 20), 20))
        of_epoch = Counter(ref.location.clip_id for ref in visits)
        for clip_id, m in zip(ids, motion, strict=True):
            # Its weight, rounded up or down: 1/3, 2/3, 1, 4/3 or 5/3.
            assert of_epoch[clip_id] in {int(m / 0.03), int(np.ceil(m / 0.03 - 1e-9))}
        counts += of_epoch
        windows += Counter((ref.location.clip_id, ref.epoch) for ref in visits)
    seen = np.array([counts[clip_id] for clip_id in ids]) / num_epochs
    np.testing.assert_allclose(seen, motion / 0.03, atol=0.1)
    assert max(windows.values()) == 1  # two visits in an epoch draw other windows


def test_a_weighted_order_begins_anywhere_as_if_read_from_the_start(tmp_path):
    uri = with_motion(tmp_path, np.random.default_rng(0).uniform(0.001, 0.2, 23))
    weighted = order(uri, motion_power=0.7)
    whole = list(islice(weighted.visits(), 200))
    for start in (1, 22, 23, 90):
        assert list(islice(weighted.visits(start), 100)) == whole[start : start + 100]


def test_no_clip_is_visited_for_ever_or_never(tmp_path):
    motion = np.full(40, 0.01)
    motion[3], motion[7] = 100.0, 0.0
    uri = with_motion(tmp_path, motion)
    ids = pq.read_table(f"{uri}/clips")["clip_id"].to_pylist()
    weighted = order(uri, motion_power=1.0)
    num_epochs = 200
    counts = Counter(
        ref.location.clip_id for ref in islice(weighted.visits(), num_epochs * weighted.num_clips)
    )
    assert counts[ids[3]] / num_epochs <= MAX_WEIGHT + 1 and counts[ids[7]] > 0


def test_rounding_keeps_the_sum_and_the_means():
    weights = np.array([0.25, 1.75, 0.5, 0.5, 2.0])
    draws = np.array([num_visits(weights, 0, key) for key in range(2000)])
    assert (draws.sum(1) == 5).all()
    assert ((draws >= np.floor(weights)) & (draws <= np.ceil(weights))).all()
    np.testing.assert_allclose(draws.mean(0), weights, atol=0.05)
