"""``ray start --head`` and ``ray job submit`` with a token, as the README shows them."""

import json
import os
import re
import subprocess
import time
import urllib.request
import zipfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest

from lafp.train.checkpoint_files import is_whole
from tests.integration.conftest import CONFIG, ROOT
from tests.integration.ray_cluster import RAY, RealCluster, real_cluster
from tests.synthetic_shards import write_shard_set

ON_THEIR_NODES = (
    "preprocess.tasks.node_labels=[role=decode]",
    "preprocess_labeled.tasks.node_labels=[role=decode]",
    "train_lam.train.ingest.node_labels=[role=decode]",
    "train_lam.train.node_labels=[role=train]",
)
PIPELINE = f"""
extends: {ROOT}/{CONFIG}
train_policy:
  - extends: {ROOT}/configs/train_policy/slalom_latent_flow.yaml
    train: {{num_steps: 20, checkpoint_every_steps: 10, node_labels: [role=train]}}
train_decoder:
  - extends: {ROOT}/configs/train_decoder/slalom_latent_flow.yaml
    train: {{num_steps: 20, node_labels: [role=train]}}
train_bc: []
evaluate:
  env: {{name: slalom}}
  num_episodes: 8
  methods: [{{label: lafp, policy: latent_flow, action_decoder: latent_flow}}]
"""
"""One stage of each kind. Ray Train starts the trainings here, as on any cluster."""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """A head that takes no tasks, a node that decodes and one that trains."""
    # What a job needs of AWS comes with the job, by its runtime_env.
    variables = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    folder = tmp_path_factory.mktemp("cluster")
    with real_cluster(folder, variables, {"decode": {}, "train": {}}) as found:
        yield found


def submit(
    cluster: RealCluster, *command: str, options: tuple[str, ...] = ()
) -> subprocess.CompletedProcess:
    return subprocess.run(
        [RAY, "job", "submit", *options, "--working-dir", ".", "--", "python", *command],
        cwd=ROOT,
        env=cluster.environment,
        capture_output=True,
        text=True,
        timeout=900,
    )


def scraped(cluster: RealCluster) -> dict[str, float]:
    """Our own metrics in the head's Prometheus endpoint: largest value of each, tags aside."""
    url = f"http://127.0.0.1:{cluster.metrics_port}/metrics"
    with urllib.request.urlopen(url, timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    values: dict[str, float] = {}
    for line in lines:
        if line.startswith("ray_lafp_"):
            name, value = line.split("{")[0], float(line.rpartition(" ")[2])
            values[name] = max(value, values.get(name, 0.0))
    return values


def roles(cluster: RealCluster, what: str, named: str) -> set[str]:
    """Of the nodes where the tasks ran that have this name, or the actors of such a class."""
    labels = {node["node_id"]: node["labels"] for node in cluster.listed("nodes")}
    column = {"tasks": "name", "actors": "class_name"}[what]
    found = [row for row in cluster.listed(what) if named in row[column]]
    return {labels[row["node_id"]].get("role", "head") for row in found if row["node_id"]}


@pytest.mark.slow
def test_the_pipeline_runs_on_the_nodes_it_is_told_and_prometheus_sees_it(cluster, tmp_path):
    config = tmp_path / "pipeline.yaml"
    config.write_text(PIPELINE)
    command = (
        *("-m", "ray_jobs.pipeline", str(config), *ON_THEIR_NODES),
        *("--storage", str(tmp_path), "--run-name", "run"),
    )
    seen: dict[str, float] = {}
    with ThreadPoolExecutor(1) as pool:
        job = pool.submit(submit, cluster, *command)
        while not job.done():
            with suppress(OSError):  # on a busy machine an answer may come late, as to Prometheus
                seen |= scraped(cluster)
            time.sleep(1)
    result = job.result()
    assert result.returncode == 0, result.stdout[-4000:] + result.stderr[-4000:]
    assert "succeeded" in result.stdout
    assert (tmp_path / "run" / "report.html").exists()
    dashboard = json.loads((ROOT / "infra/monitoring/grafana.json").read_text())
    queries = " ".join(target["expr"] for p in dashboard["panels"] for target in p["targets"])
    assert seen["ray_lafp_preprocess_clips_total"] > 0
    assert seen["ray_lafp_preprocess_frames_total"] > seen["ray_lafp_preprocess_clips_total"]
    assert seen["ray_lafp_train_step"] > 0 and seen["ray_lafp_train_windows_per_s"] > 0
    assert all(name in queries for name in seen)
    assert roles(cluster, "tasks", "make_part") == {"decode"}
    assert roles(cluster, "tasks", "make_shard") == {"decode"}
    assert roles(cluster, "actors", "BlockReader") == {"decode"}
    assert roles(cluster, "actors", "RayTrainWorker") == {"train"}


def test_a_job_with_a_wrong_config_fails_with_its_message(cluster):
    result = submit(cluster, "-m", "ray_jobs.pipeline", CONFIG, "evaluate.num_episode=3")
    assert result.returncode == 1  # Ray's, whatever the entrypoint's
    assert "Did you mean: 'num_episodes'" in result.stdout
    assert "failed with exit code 2" in result.stdout + result.stderr


ON_ALL_NODES = """
import runpy

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

def find():
    import lafp_extra
    return lafp_extra.WORD

ray.init()
on = [NodeAffinitySchedulingStrategy(node["NodeID"], soft=False) for node in ray.nodes()]
task = ray.remote(find)
print(ray.get([task.options(num_cpus=0, scheduling_strategy=node).remote() for node in on]))
runpy.run_module("ray_jobs.doctor", run_name="__main__", alter_sys=True)
"""


def test_a_package_and_credentials_that_come_with_the_job_are_on_every_node(
    cluster, s3_server, s3_bucket, tmp_path
):
    """The doctor writes and reads the storage on every node, and finds the cluster healthy."""
    wheel, info = tmp_path / "lafp_extra-1.0-py3-none-any.whl", "lafp_extra-1.0.dist-info"
    contents = {
        "lafp_extra.py": "WORD = 'here'",
        f"{info}/METADATA": "Metadata-Version: 2.1\nName: lafp-extra\nVersion: 1.0\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/RECORD": "",
    }
    with zipfile.ZipFile(wheel, "w") as files:
        for name, text in contents.items():
            files.writestr(name, text)
    (tmp_path / "job.py").write_text(ON_ALL_NODES)
    runtime_env = tmp_path / "runtime_env.yaml"
    runtime_env.write_text(json.dumps({"py_modules": [str(wheel)], "env_vars": s3_server}))
    options = ("--runtime-env", str(runtime_env))
    command = (str(tmp_path / "job.py"), "--storage", s3_bucket)
    result = submit(cluster, *command, options=options)
    assert result.returncode == 0, result.stdout[-4000:] + result.stderr[-4000:]
    assert "['here', 'here', 'here']" in result.stdout
    assert "dashboard at http" in result.stdout and "answers (HTTP" in result.stdout
    assert "token authentication is on" in result.stdout
    assert "0 failed" in result.stdout


@pytest.mark.slow
def test_a_stopped_job_has_saved_the_step_that_it_names(cluster, tmp_path):
    shards = write_shard_set(tmp_path / "shards", num_clips=20)
    command = (
        *("-m", "ray_jobs.train_lam", "configs/train_lam/lapo_debug.yaml", f"shards={shards}"),
        *("window.windows_per_clip=2", "train.num_workers=2", "train.num_steps=1000000"),
        *("train.checkpoint_every_steps=1000000", "train.evaluate_every_steps=1000000"),
        *("--storage", str(tmp_path), "--run-name", "run"),
    )
    job = "to-be-stopped"
    submit(cluster, *command, options=("--no-wait", "--submission-id", job))
    metrics = tmp_path / "run" / "lam" / "metrics.jsonl"
    deadline = time.monotonic() + 300
    while not (metrics.exists() and metrics.read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    subprocess.run([RAY, "job", "stop", job], env=cluster.environment, check=True, timeout=180)
    logs = subprocess.run(
        [RAY, "job", "logs", job],
        env=cluster.environment,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    stopped_at = int(re.search(r"Stopped at step (\d+) of 1000000, with a checkpoint", logs)[1])
    [checkpoint] = (tmp_path / "run" / "lam" / "checkpoints").iterdir()
    assert checkpoint.name == f"step-{stopped_at:09d}" and is_whole(str(checkpoint))
