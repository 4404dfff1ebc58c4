"""Placement: decoding on the nodes meant for it, on a cluster of two labeled nodes."""

from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import ray
from ray.cluster_utils import Cluster

from data_pipelines.on_ray.tasks import stream_tasks
from data_pipelines.preprocess.select.steps import BUCKET, OnRay, group_number
from lafp.config.node_labels import label_selector
from lafp.runs.run_dir import StageDir
from lafp.train.config import IngestConfig, TrainConfig
from ray_jobs.training.trainer import fit
from tests.synthetic_shards import write_shard_set
from tests.toy_task import ToyTask


@pytest.fixture(scope="module")
def labeled_nodes():
    """Role of a node -> its id."""
    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 2, "labels": {"role": "train"}}
    )
    cluster.add_node(num_cpus=2, labels={"role": "decode"})
    ray.init(address=cluster.address, log_to_driver=False)
    yield {node["Labels"]["role"]: node["NodeID"] for node in ray.nodes()}
    ray.shutdown()
    cluster.shutdown()


MANY_BLOCKS = 101
"""Another of Ray's shuffles brings the rows of so many together."""


def where(_):
    return ray.get_runtime_context().get_node_id()


@pytest.mark.slow  # so does the pipeline in tests/integration/test_submit.py
@pytest.mark.parametrize("role", ["train", "decode"])
def test_tasks_run_only_where_they_may(labeled_nodes, role):
    calls = [(n, (n,)) for n in range(6)]
    nodes = {node for _, node in stream_tasks(where, calls, node_labels=(f"role={role}",))}
    assert nodes == {labeled_nodes[role]}


class WhereOnRay(OnRay):
    """Writes down on which node each function of a step was called."""

    def __init__(self, num_blocks: int, node_labels: tuple[str, ...], log: Path) -> None:
        super().__init__(num_blocks, node_labels)
        self.log = log

    def tables(self, numbers, function):
        return super().tables(numbers, noted(function, self.log))

    def grouped(self, rows, num_buckets, function):
        return super().grouped(rows, num_buckets, noted(function, self.log))


def noted(function, log: Path):
    def called(table):
        with log.open("a") as file:
            file.write(f"{where(table)}\n")
        return function(table)

    return called


def eight_groups(block: pa.Table) -> pa.Table:
    return pa.table({BUCKET: np.arange(8), "block": np.repeat(group_number(block), 8)})


def number_of(group: pa.Table) -> pa.Table:
    assert sorted(group["block"].to_pylist()) == list(range(12))
    return pa.table({"number": [group_number(group)]})


@pytest.mark.parametrize(
    ("role", "num_blocks"), [("train", 12), ("decode", 12), ("decode", MANY_BLOCKS)]
)
def test_a_selection_runs_only_where_it_may(labeled_nodes, tmp_path, role, num_blocks):
    runner = WhereOnRay(num_blocks, (f"role={role}",), tmp_path / "nodes")
    rows = runner.grouped(runner.tables(range(12), eight_groups), num_blocks, number_of)
    assert runner.run(rows) == list(range(8))
    assert set(runner.log.read_text().split()) == {labeled_nodes[role]}


@pytest.mark.parametrize("text", ["role", "role=", "=decode", "role=a,b"])
def test_labels_that_are_no_pairs_are_refused(text):
    with pytest.raises(ValueError, match="key=value"):
        TrainConfig(num_steps=1, global_batch_size=1, node_labels=(text,))
    with pytest.raises(ValueError, match="key=value"):
        IngestConfig(node_labels=(text,))


def test_a_node_must_have_all_labels_and_none_is_named_twice():
    assert label_selector(("role=decode", "zone=a")) == {"role": "decode", "zone": "a"}
    with pytest.raises(ValueError, match="twice"):
        label_selector(("role=a", "role=b"))


class WhereTask(ToyTask):
    """Says where it was trained."""

    def save(self, module, uri, metrics):
        super().save(module, uri, metrics)
        (Path(uri) / "node.txt").write_text(ray.get_runtime_context().get_node_id())


@pytest.mark.slow  # so does the pipeline in tests/integration/test_submit.py
def test_workers_train_on_the_train_node_with_readers_on_the_other(labeled_nodes, tmp_path):
    shards = str(tmp_path / "videos")
    write_shard_set(tmp_path / "videos", 8, 4, (6, 8), 16)
    cfg = TrainConfig(
        num_steps=2,
        global_batch_size=8,
        node_labels=("role=train",),
        ingest=IngestConfig(mode="ray", node_labels=("role=decode",)),
    )
    fit(StageDir(str(tmp_path), "lam"), cfg, partial(WhereTask, shards))
    assert (tmp_path / "node.txt").read_text() == labeled_nodes["train"]
