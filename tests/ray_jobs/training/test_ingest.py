"""Ray Data against plain reading: the same micro-batches, whatever the readers and the start."""

import subprocess
import sys

import numpy as np
import pytest
import ray

import ray_jobs.training.ingest as ingest
from lafp.data.order.clips import ClipOrder
from lafp.data.order.demand import ClipDemand
from lafp.data.order.micro_batches import MicroBatchLayout, MicroBatchReader
from lafp.data.order.window_draws import WindowConfig, WindowDraws
from ray_jobs.core.cluster import start_local
from ray_jobs.training.ingest import BlockSteps, ray_micro_batches
from tests.synthetic_shards import write_shard_set


@pytest.fixture(scope="module", autouse=True)
def local_ray():
    start_local(3)
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def plan(tmp_path_factory) -> MicroBatchLayout:
    demands = {}
    for seed, (name, clips) in enumerate({"videos": 8, "labeled": 4}.items()):
        folder = tmp_path_factory.mktemp(name)
        is_labeled = name == "labeled"
        uri = write_shard_set(
            folder,
            num_clips=11,
            has_labels=is_labeled,
            has_flow=not is_labeled,
            has_masks=not is_labeled,
            seed=seed,
        )
        order = ClipOrder(shard_set=uri, split="train", seed=0)
        draws = None if is_labeled else WindowDraws(window=WindowConfig(windows_per_clip=2), seed=0)
        demands[name] = ClipDemand(order=order, clips_per_step=clips, draws=draws)
    return MicroBatchLayout(demands=demands, rank=1, world_size=2, num_rounds=2)


@pytest.mark.parametrize(
    ("num_readers", "start_step", "num_steps", "steps_per_block"),
    [(1, 0, 7, 100), (3, 2, 25, 2), (3, 5, 6, 1), (2, 0, 40, 1)],
)
def test_the_micro_batches_are_those_of_a_plain_reader(
    plan, monkeypatch, num_readers, start_step, num_steps, steps_per_block
):
    monkeypatch.setattr(ingest, "BLOCK_BYTES", steps_per_block * plan.step_num_bytes)
    monkeypatch.setattr(ingest, "BLOCKS_PER_TASK", 16)  # the last readers have two tasks each
    expected = MicroBatchReader(plan, 1 << 24).read_from(start_step)
    num_batches = 0
    for batch in ray_micro_batches(plan, start_step, num_steps, num_readers, 1 << 24):
        for stream, arrays in next(expected).items():
            assert arrays.keys() == batch[stream].keys()
            for name, array in arrays.items():
                np.testing.assert_array_equal(batch[stream][name], array)
                assert batch[stream][name].dtype == array.dtype
        num_batches += 1
    assert num_batches == 2 * (num_steps - start_step)


def test_frames_are_not_copied_out_of_the_object_store(plan):
    for batch in ray_micro_batches(plan, 0, 2, 1, 0):
        frames = batch["videos"]["frames"]
        assert not frames.flags.writeable and not frames.flags.owndata


def test_a_readers_process_does_not_import_torch():
    code = "import sys, ray_jobs.training.ingest; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("num_readers", [1, 2, 5])
def test_readers_share_the_steps_in_turn(num_readers):
    readers = [BlockSteps(3, 30, 4, reader, num_readers) for reader in range(num_readers)]
    in_turn = [step for n in range(7) for reader in readers for step in reader(n)]
    assert in_turn == list(range(3, 30))
