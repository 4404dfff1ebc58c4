import pickle
import subprocess
import sys
from collections import Counter
from itertools import islice, pairwise

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lafp.config import ConfigError
from lafp.data.order.clips import ClipOrder
from lafp.data.order.demand import ClipStream
from lafp.data.shards.sets import read_shard_entry
from tests.synthetic_shards import write_shard_set


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> str:
    return write_shard_set(tmp_path_factory.mktemp("shards"), num_clips=23, clips_per_shard=4)


def order(shards: str, **kwargs) -> ClipOrder:
    return ClipOrder(
        **{"shard_set": shards, "split": "train", "seed": 3, "pool_shards": 2} | kwargs
    )


def ids(refs) -> list[str]:
    return [ref.location.clip_id for ref in refs]


def test_an_epoch_visits_every_clip_once(shards):
    visits = list(islice(order(shards).visits(), 3 * 23))
    for epoch in range(3):
        of_epoch = [ref for ref in visits if ref.epoch == epoch]
        assert len(of_epoch) == len(set(ids(of_epoch))) == 23


def test_epochs_and_seeds_differ_in_order(shards):
    first, second = (ids(islice(order(shards).visits(start), 23)) for start in (0, 23))
    other = ids(islice(order(shards, seed=4).visits(), 23))
    assert first != second and first != other and set(first) == set(second) == set(other)


@pytest.mark.parametrize("start", [0, 1, 7, 8, 22, 23, 40, 230])
def test_visits_begin_anywhere_as_if_read_from_the_start(shards, start):
    whole = list(islice(order(shards).visits(), start + 30))
    assert list(islice(order(shards).visits(start), 30)) == whole[start:]


@pytest.mark.parametrize("pool_shards", [1, 2, 100])
def test_an_epoch_is_whole_for_every_pool_size(shards, pool_shards):
    visits = islice(order(shards, pool_shards=pool_shards).visits(), 23)
    assert len(set(ids(visits))) == 23


def test_clips_of_a_shard_spread_over_their_pool(tmp_path):
    uri = write_shard_set(tmp_path, num_clips=64, clips_per_shard=8, frames=(2, 2))
    visits = list(islice(order(uri, pool_shards=8).visits(), 64 * 20))
    same_shard = np.mean([a.shard == b.shard for a, b in pairwise(visits)])
    assert same_shard == pytest.approx(7 / 63, abs=0.03)  # as in a full shuffle


@pytest.mark.parametrize("world_size", [1, 2, 3, 6])
def test_ranks_split_every_step_without_overlap(shards, world_size):
    whole = list(islice(order(shards).visits(), 6 * 10))
    streams = [
        ClipStream(order=order(shards), clips_per_step=6, rank=rank, world_size=world_size).refs()
        for rank in range(world_size)
    ]
    for step in range(10):
        of_step = [ref for stream in streams for ref in islice(stream, 6 // world_size)]
        assert of_step == whole[6 * step : 6 * step + 6]


def test_a_resume_on_other_workers_loses_and_repeats_nothing(shards):
    def read(world_size: int, start: int, stop: int) -> list:
        return [
            (ref.location.clip_id, ref.epoch)
            for rank in range(world_size)
            for ref in islice(
                ClipStream(
                    order=order(shards),
                    clips_per_step=6,
                    rank=rank,
                    world_size=world_size,
                    start_step=start,
                ).refs(),
                (stop - start) * 6 // world_size,
            )
        ]

    undisturbed = Counter(read(1, 0, 20))
    for stop in (1, 7, 13):
        assert Counter(read(2, 0, stop) + read(3, stop, 20)) == undisturbed


def test_a_stream_that_does_not_divide_is_an_error(shards):
    with pytest.raises(ConfigError, match="6 clips per step do not divide among 4 workers"):
        ClipStream(order=order(shards), clips_per_step=6, rank=0, world_size=4)


def test_clips_are_left_out_and_only_entries_of_their_shards_are_read(tmp_path):
    uri = write_shard_set(tmp_path, num_clips=12, clips_per_shard=4)
    every = list(islice(order(uri).visits(), 12))
    gone = [ref for ref in every if ref.shard == "train-000001.tar"][1:]
    kept = [ref.location.clip_id for ref in every if ref not in gone]
    skipped = frozenset((ref.shard, ref.location.clip_id) for ref in gone)
    assert set(ids(islice(order(uri, skipped_clips=skipped).visits(), 20))) == set(kept)
    whole = frozenset(
        (ref.shard, ref.location.clip_id) for ref in every if ref.shard == gone[0].shard
    )
    assert order(uri, skipped_clips=whole).num_clips == 8
    for name in ("train-000000.json", "train-000002.json"):
        (tmp_path / name).unlink()
    read_shard_entry.cache_clear()
    assert order(uri, skipped_clips=skipped).num_clips == len(kept) == 9


def test_only_clips_restricts_the_order(shards):
    some = frozenset(ids(islice(order(shards).visits(), 5)))
    subset = order(shards, only_clips=some)
    assert subset.num_clips == 5
    assert set(ids(islice(subset.visits(), 5))) == some


@pytest.mark.parametrize("kind", ["only_clips", "motion_power"])
def test_chosen_and_weighted_clips_are_counted_without_any_entry(tmp_path, kind):
    uri = write_shard_set(tmp_path, num_clips=12, clips_per_shard=4)
    some = frozenset(ids(islice(order(uri).visits(), 5)))
    chosen = {"only_clips": some} if kind == "only_clips" else {"motion_power": 1.0}
    before = list(islice(order(uri, **chosen).visits(), 30))
    entries = {path: path.read_bytes() for path in tmp_path.glob("train-*.json")}
    for path in entries:
        path.unlink()
    read_shard_entry.cache_clear()
    late = order(uri, **chosen)
    for path, data in entries.items():
        path.write_bytes(data)
    assert list(islice(late.visits(), 30)) == before


@pytest.mark.parametrize("kind", ["only_clips", "motion_power"])
def test_a_table_of_clips_of_another_manifest_is_an_error(tmp_path, kind):
    """As it is while a takedown, which renames shards, is under way."""
    uri = write_shard_set(tmp_path, num_clips=12, clips_per_shard=4)
    some = frozenset(ids(islice(order(uri).visits(), 12)))
    manifest = pq.read_table(tmp_path / "manifest.parquet")
    names = [name.replace("train-000001", "train-new") for name in manifest["shard"].to_pylist()]
    place = manifest.schema.get_field_index("shard")
    column = pa.array(names, manifest.schema.field(place).type)
    pq.write_table(manifest.set_column(place, "shard", column), tmp_path / "manifest.parquet")
    chosen = {"only_clips": some} if kind == "only_clips" else {"motion_power": 1.0}
    with pytest.raises(ConfigError, match=r"names shards that .* such as train-000001\.tar"):
        order(uri, **chosen)
    assert order(uri).num_clips == 12


def test_weighted_and_chosen_clips_leave_the_others_out(shards):
    some = frozenset(ids(islice(order(shards).visits(), 9)))
    chosen = order(shards, only_clips=some, motion_power=1.0)
    visits = list(islice(chosen.visits(), 3 * chosen.num_clips))
    assert set(ids(visits)) <= some and len(set(ids(visits))) > 5
    assert visits[chosen.num_clips :] == list(
        islice(chosen.visits(chosen.num_clips), 2 * chosen.num_clips)
    )


def test_an_empty_split_and_a_missing_set_are_errors(shards, tmp_path):
    with pytest.raises(ConfigError, match="No val clips in"):
        order(shards, split="val")
    with pytest.raises(ConfigError, match=r"shard_set\.json is missing"):
        order(str(tmp_path))


def test_an_order_survives_pickling(shards):
    copy = pickle.loads(pickle.dumps(order(shards)))
    assert list(islice(copy.visits(5), 30)) == list(islice(order(shards).visits(5), 30))


def test_reading_clips_does_not_load_torch():
    code = "import sys, lafp.data.order.micro_batches; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
