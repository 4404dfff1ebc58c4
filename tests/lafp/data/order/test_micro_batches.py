import time
from collections import Counter
from itertools import islice

import numpy as np
import pytest
import torch

from lafp.config import ConfigError
from lafp.data.order.clips import ClipOrder
from lafp.data.order.demand import ClipDemand
from lafp.data.order.micro_batches import MicroBatchLayout, MicroBatchReader, read_ahead
from lafp.data.order.window_draws import WindowConfig
from lafp.data.windows import cut_windows
from lafp.train.context import to_clip_batches
from tests.synthetic_shards import write_shard_set


@pytest.fixture(scope="module")
def demands(tmp_path_factory) -> dict[str, ClipDemand]:
    videos = write_shard_set(tmp_path_factory.mktemp("videos"), num_clips=11)
    labeled = write_shard_set(
        tmp_path_factory.mktemp("labeled"), num_clips=3, has_labels=True, seed=1
    )
    return {
        name: ClipDemand(
            order=ClipOrder(shard_set=uri, split="train", seed=0), clips_per_step=clips
        )
        for name, uri, clips in (("videos", videos, 8), ("labeled", labeled, 4))
    }


def plan(demands, rank=0, world_size=1, num_rounds=1) -> MicroBatchLayout:
    return MicroBatchLayout(
        demands=demands, rank=rank, world_size=world_size, num_rounds=num_rounds
    )


def keys(batches) -> list[int]:
    return [int(key) for batch in batches for s in batch.values() for key in s["clip_key"]]


@pytest.mark.parametrize(("world_size", "num_rounds"), [(1, 1), (2, 1), (1, 4), (2, 2)])
def test_a_step_holds_the_same_clips_however_it_is_cut(demands, world_size, num_rounds):
    reference = MicroBatchReader(plan(demands))
    readers = [
        MicroBatchReader(plan(demands, rank, world_size, num_rounds)) for rank in range(world_size)
    ]
    for step in range(4):
        parts = [batch for reader in readers for batch in reader.read(step)]
        assert len(parts) == world_size * num_rounds
        assert sorted(keys(parts)) == sorted(keys(reference.read(step)))


def windows(demands, world_size: int, start: int, stop: int) -> Counter:
    """Pixels of all windows that a group of workers trains on in some steps."""
    seen: Counter = Counter()
    for rank in range(world_size):
        batches = MicroBatchReader(plan(demands, rank, world_size)).read_from(start)
        for batch in islice(map(to_clip_batches, batches), stop - start):
            window = cut_windows(batch["videos"], WindowConfig(max_offset_steps=2), seed=5)
            pairs = torch.cat([window.obs, window.future_obs], dim=1)
            seen.update(pair.numpy().tobytes() for pair in pairs)
    return seen


@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 4), (2, 4)])
def test_killed_and_resumed_on_other_workers_no_window_is_lost_and_none_seen_twice(
    demands, before, after
):
    """Two epochs of 11 clips and a bit; the checkpoint of step 2 lies inside the second."""
    undisturbed = windows(demands, 1, 0, 3)
    assert undisturbed.total() == 3 * 8 * 4
    assert windows(demands, before, 0, 2) + windows(demands, after, 2, 3) == undisturbed


def test_steps_read_out_of_order_equal_steps_read_in_order(demands):
    in_order = MicroBatchReader(plan(demands, 1, 2, 2))
    expected = [list(in_order.read(step)) for step in range(6)]
    jumping = MicroBatchReader(plan(demands, 1, 2, 2), cache_bytes=1 << 20)
    for step in (4, 5, 0, 3, 2, 1):
        for got, wanted in zip(jumping.read(step), expected[step], strict=True):
            for stream, arrays in wanted.items():
                for name, array in arrays.items():
                    np.testing.assert_array_equal(got[stream][name], array)


def test_a_reader_that_leaves_out_the_blocks_of_others_looks_up_its_place_once(
    demands, monkeypatch
):
    in_order = MicroBatchReader(plan(demands, 1, 2, 2))
    expected = [keys(in_order.read(step)) for step in range(12)]
    starts, visits = [], ClipOrder.visits

    def noted(order, start=0):
        starts.append(start)
        return visits(order, start)

    monkeypatch.setattr(ClipOrder, "visits", noted)
    reader = MicroBatchReader(plan(demands, 1, 2, 2))
    for step in (1, 3, 4, 8, 11):
        assert keys(reader.read(step)) == expected[step]
    assert len(starts) == len(demands)


def test_a_step_left_half_read_is_read_again_from_its_start(demands):
    reader = MicroBatchReader(plan(demands, num_rounds=2))
    expected = keys(reader.read(0))
    next(reader.read(1))
    assert keys(reader.read(0)) == expected
    assert keys(reader.read(1)) == keys(MicroBatchReader(plan(demands, num_rounds=2)).read(1))


def test_a_batch_that_does_not_divide_names_the_stream(demands):
    with pytest.raises(ConfigError, match="The stream 'labeled' takes 4 clips per step"):
        plan(demands, world_size=8)


def test_reading_ahead_changes_nothing(demands):
    plain = islice(MicroBatchReader(plan(demands)).read_from(2), 5)
    ahead = read_ahead(MicroBatchReader(plan(demands)).read_from(2), depth=2)
    assert keys(islice(ahead, 5)) == keys(plain)


def test_reading_ahead_stays_within_its_depth_and_ends_when_closed():
    numbers: list[int] = []

    def count():
        for i in range(10**9):
            numbers.append(i)
            yield {"n": {"n": np.array(i)}}

    ahead = read_ahead(count(), depth=3)
    next(ahead)
    time.sleep(0.3)
    assert len(numbers) <= 6
    ahead.close()
    time.sleep(0.3)
    seen = len(numbers)
    time.sleep(0.3)
    assert len(numbers) == seen


def test_an_error_of_the_reader_comes_out_in_its_place():
    def fail():
        yield {}
        raise RuntimeError("a broken shard")

    ahead = read_ahead(fail(), depth=4)
    assert next(ahead) == {}
    with pytest.raises(RuntimeError, match="a broken shard"):
        next(ahead)


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_no_ranks_data_ends_before_anothers(tmp_path, world_size):
    """An order is endless, also where clips, shards and epochs divide by nothing."""
    shards = write_shard_set(tmp_path, num_clips=7, clips_per_shard=3)
    seven = {
        "videos": ClipDemand(
            order=ClipOrder(shard_set=shards, split="train", seed=0), clips_per_step=4
        )
    }
    streams = [
        MicroBatchReader(plan(seven, rank, world_size)).read_from(0) for rank in range(world_size)
    ]
    visits: Counter[int] = Counter()
    for _ in range(21):  # 12 epochs
        batches = [next(stream) for stream in streams]
        assert {len(keys([batch])) for batch in batches} == {4 // world_size}
        visits.update(keys(batches))
    assert len(visits) == 7 and set(visits.values()) == {12}
