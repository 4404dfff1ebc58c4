"""Memory of a long training on real Ray: constant, and the object store never spills."""

import os
import threading
from collections import defaultdict
from contextlib import suppress
from functools import partial

import numpy as np
import psutil
import pytest
import ray
from ray._private.internal_api import get_memory_info_reply, get_state_from_address

from lafp.runs.run_dir import StageDir
from lafp.train.config import IngestConfig, TrainConfig
from lafp.train.metrics.log import read_metrics
from ray_jobs.core.cluster import start_local
from ray_jobs.training.ingest import BLOCK_BYTES, BLOCKS_PER_TASK, BUFFERED_BLOCKS
from ray_jobs.training.trainer import fit
from tests.processes import processes_below
from tests.synthetic_shards import write_shard_set
from tests.toy_task import ToyTask

NUM_STEPS = 10_000
CLIPS_PER_STEP, NUM_FRAMES, SIZE_PX = 8, 72, 16
KINDS = ("RayTrainWorker", "MapWorker")
MIB = 2**20


@pytest.fixture(autouse=True)
def local_ray():
    start_local(3)
    yield
    ray.shutdown()


class Watch(threading.Thread):
    """Looks once a second at the processes that train and read, and at the object store."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.own_bytes: dict[str, list[int]] = defaultdict(list)
        """Memory that is a process's own: pages of the object store are shared."""
        self.store_bytes: list[int] = []
        self.spilled_bytes = 0
        self._stop_asked = threading.Event()

    def run(self) -> None:
        state = get_state_from_address(ray.get_runtime_context().gcs_address)
        while not self._stop_asked.wait(1.0):
            for kind in KINDS:
                for process in processes_below(os.getpid(), kind):
                    with suppress(psutil.Error):
                        self.own_bytes[kind].append(process.memory_full_info().uss)
            stats = get_memory_info_reply(state).store_stats
            self.store_bytes.append(stats.object_store_bytes_used)
            self.spilled_bytes = stats.spilled_bytes_total

    def stop(self) -> None:
        self._stop_asked.set()
        self.join()


@pytest.mark.slow
def test_memory_is_constant_over_ten_thousand_steps_and_nothing_spills(tmp_path):
    """Enough bytes for a second task of the reader, and more clips than it keeps."""
    clip_bytes = NUM_FRAMES * SIZE_PX * SIZE_PX * 3
    assert NUM_STEPS * CLIPS_PER_STEP * clip_bytes > BLOCKS_PER_TASK * BLOCK_BYTES
    frames = (NUM_FRAMES, NUM_FRAMES)
    shards = write_shard_set(tmp_path / "shards", num_clips=64, frames=frames, size_px=SIZE_PX)
    cfg = TrainConfig(
        num_steps=NUM_STEPS,
        global_batch_size=2 * CLIPS_PER_STEP,
        report_every_steps=100,
        evaluate_every_steps=1000,
        checkpoint_every_steps=1000,
        ingest=IngestConfig(mode="ray", cache_bytes=32 * clip_bytes),
    )
    watch = Watch()
    watch.start()
    metrics = fit(
        StageDir(str(tmp_path / "lam"), "lam"), cfg, partial(ToyTask, shards, CLIPS_PER_STEP)
    )
    watch.stop()
    assert metrics["step"] == NUM_STEPS
    assert watch.spilled_bytes == 0
    assert max(watch.store_bytes) < 2 * BUFFERED_BLOCKS * BLOCK_BYTES
    max_rss = {r["step"]: r["memory/max_rss_bytes"] for r in read_metrics(str(tmp_path / "lam"))}
    # With pages of the object store: who was kept waiting once has mapped more of its blocks.
    blocks_bytes = BUFFERED_BLOCKS * BLOCK_BYTES
    assert max_rss[NUM_STEPS] - max_rss[NUM_STEPS // 10] < 16 * MIB + blocks_bytes
    for kind in KINDS:
        own_bytes = watch.own_bytes[kind]
        assert len(own_bytes) > 20, f"{kind} was hardly seen"
        # The first quarter fills caches and pools, the last tenth is tearing down.
        steady = own_bytes[len(own_bytes) // 4 : len(own_bytes) * 9 // 10]
        early, late = np.array_split(np.array(steady), 2)
        # A block that nobody else has touched yet counts as its reader's own.
        assert np.median(late) - np.median(early) < 2 * BLOCK_BYTES, (kind, own_bytes)
