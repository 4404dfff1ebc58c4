"""How many nodes one driver keeps busy: preprocess' own task stream over 1, 2, 4 ... local nodes.

python -m tests.benchmarks.bench_node_scaling [--nodes 1 2 4 8] [--task-s 2]

Nodes are raylets on this machine. Tasks sleep, as long as decoding a few short videos takes, so
that cores are not the limit: what is measured is listing, dispatch, results and the driver. One
JSON line per number of nodes: ``ratio`` is the efficiency, tasks per second over what the slots
could do at best, and ``driver_cpu_share`` the part of one core that the driver takes.
"""

import argparse
import json
import time

import ray
from ray.cluster_utils import Cluster

from data_pipelines.on_ray.tasks import stream_tasks

TASKS_PER_SLOT = 6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--slots", type=int, default=2, help="logical CPUs of a node")
    parser.add_argument("--task-s", type=float, default=2.0)
    args = parser.parse_args()
    for num_nodes in args.nodes:
        line = measure(num_nodes, args.slots, args.task_s)
        print(json.dumps({"bench": "node_scaling", **line}), flush=True)


def measure(num_nodes: int, num_slots: int, task_s: float) -> dict[str, float]:
    """One cluster, made and ended."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": num_slots})
    try:
        for _ in range(num_nodes - 1):
            cluster.add_node(num_cpus=num_slots)
        ray.init(address=cluster.address, log_to_driver=False)
        warm_up(num_nodes * num_slots)
        num_tasks = TASKS_PER_SLOT * num_nodes * num_slots
        start, cpu_start = time.monotonic(), time.process_time()
        calls = ((n, (n, task_s)) for n in range(num_tasks))
        nodes = {node for _, node in stream_tasks(sleep, calls)}
        wall_s, cpu_s = time.monotonic() - start, time.process_time() - cpu_start
    finally:
        ray.shutdown()
        cluster.shutdown()
    assert len(nodes) == num_nodes, f"only {len(nodes)} of {num_nodes} nodes had work"
    best_s = TASKS_PER_SLOT * task_s
    return {
        "nodes": num_nodes,
        "tasks": num_tasks,
        "tasks_per_s": round(num_tasks / wall_s, 2),
        "ratio": round(best_s / wall_s, 3),
        "driver_cpu_share": round(cpu_s / wall_s, 4),
    }


def warm_up(num_slots: int) -> None:
    """Starts every worker process: on a real cluster that happens once in hours."""
    list(stream_tasks(sleep, ((n, (n, 5.0)) for n in range(2 * num_slots))))


def sleep(_: int, task_s: float) -> str:
    """Stands for decoding. Says where."""
    time.sleep(task_s)
    return ray.get_runtime_context().get_node_id()


if __name__ == "__main__":
    main()
