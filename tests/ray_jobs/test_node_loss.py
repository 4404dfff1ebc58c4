"""A node of a cluster dies under training, and another one comes."""

import threading
import time
from functools import partial
from pathlib import Path

import pytest
import ray
from ray.cluster_utils import Cluster

from lafp.runs.run_dir import StageDir
from lafp.train.checkpoint_files import is_whole
from lafp.train.config import IngestConfig, TrainConfig
from lafp.train.metrics.log import read_metrics
from ray_jobs.training.trainer import fit
from tests.synthetic_shards import write_shard_set
from tests.toy_task import WaitingTask


@pytest.fixture
def cluster():
    """A head with room for one of two workers, so that the other one is elsewhere."""
    cluster = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 1, "include_dashboard": False},
        shutdown_at_exit=False,  # only the main thread could add a node that is
    )
    ray.init(address=cluster.address, log_to_driver=False)
    yield cluster
    ray.shutdown()
    cluster.shutdown()


@pytest.mark.slow
def test_training_goes_on_from_its_checkpoint_when_a_node_is_lost(cluster, tmp_path):
    lost = cluster.add_node(num_cpus=1)
    waiting = partial(
        WaitingTask,
        write_shard_set(tmp_path / "shards", num_clips=20),
        clips_per_step=8,
        folder=str(tmp_path),
        at_step=6,
    )

    def lose_the_node() -> None:
        deadline = time.monotonic() + 300
        saved = str(tmp_path / "lam" / "checkpoints" / "step-000000004")
        while not (len(list(tmp_path.glob("waiting-*"))) == 2 and is_whole(saved)):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        cluster.remove_node(lost, allow_graceful=False)
        cluster.add_node(num_cpus=1)
        (tmp_path / "go").touch()

    thread = threading.Thread(target=lose_the_node)
    thread.start()
    cfg = TrainConfig(
        num_steps=12,
        global_batch_size=16,
        num_workers=2,
        report_every_steps=1,
        checkpoint_every_steps=4,
        ingest=IngestConfig(mode="direct"),
    )
    metrics = fit(StageDir(str(tmp_path / "lam"), "lam"), cfg, waiting)
    thread.join()
    assert metrics["resumed_from_steps"] == [4]
    steps = [record["step"] for record in read_metrics(str(tmp_path / "lam"))]
    assert steps == list(range(1, 13))
    nodes = Path(tmp_path / "nodes").read_text().split()
    assert len(nodes) == 4 and lost.node_id in nodes[:2] and lost.node_id not in nodes[2:]
