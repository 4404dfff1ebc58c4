"""A job whose own Ray, or one of whose processes, dies under it says so in one line."""

import subprocess
import sys

import pytest

from lafp.storage.json_lines import read_lines
from tests.synthetic_shards import write_shard_set

JOB = """
import os, signal, sys
import psutil, ray
from ray_jobs.core.cli import exit_codes
from ray_jobs.core.cluster import Resources, connect

@ray.remote
def work():
    import time
    time.sleep(600)

with exit_codes():
    connect(Resources(num_cpus=1))
    call = work.remote()
    victims = [p for p in psutil.Process().children(recursive=True) if p.name() == sys.argv[1]]
    assert victims
    for victim in victims:
        victim.kill()
    ray.get(call)
"""

TRAINING = """
import sys
from pathlib import Path
from ray_jobs.core.cli import exit_codes
from ray_jobs.core.cluster import Resources, connect
from ray_jobs.training.trainer import fit
from tests.ray_jobs.training.toy_runs import config, stage, task
from tests.toy_task import RayletKillingTask

with exit_codes():
    connect(Resources(num_cpus=2))
    cfg = config(num_workers=1, max_failures=1000)
    fit(stage(Path(sys.argv[2])), cfg, task(sys.argv[1], RayletKillingTask))
"""

LOST = """
import os, signal, sys
import ray
from ray_jobs.core.cli import exit_codes
from ray_jobs.core.cluster import Resources, connect

class Controller:
    def work(self):
        os.kill(os.getpid(), signal.SIGKILL)

@ray.remote(max_retries=0)
def work():
    os.kill(os.getpid(), signal.SIGKILL)

@ray.remote
def fail():
    raise RuntimeError("a mistake in the code")

def get(what):
    if what == "actor":
        return ray.get(ray.remote(Controller).remote().work.remote())
    return ray.get({"task": work, "mistake": fail}[what].remote())

connect(Resources(num_cpus=1))
for what in ("actor", "task", "mistake"):
    try:
        with exit_codes():
            get(what)
    except SystemExit as end:
        print("exit", end.code, file=sys.stderr)
"""


def test_a_process_that_is_killed_ends_the_job_with_one_line_and_a_mistake_with_its_traceback():
    done = subprocess.run([sys.executable, "-c", LOST], capture_output=True, text=True, timeout=300)
    assert done.returncode == 1
    lines = done.stderr.splitlines()
    one, other = [number for number, line in enumerate(lines) if line == "exit 1"]
    for end, words in ((one, "class_name: Controller"), (other, "The worker died unexpectedly")):
        assert lines[end - 1].startswith("Error: Ray lost a process of the job: The "), lines
        assert words in lines[end - 1] and lines[end - 1].endswith("same command again to resume.")
    assert not any("Traceback" in line for line in lines[: other + 1])
    assert any("a mistake in the code" in line for line in lines[other:])
    assert any("Traceback" in line for line in lines[other:])


@pytest.mark.slow
def test_a_raylet_that_is_killed_ends_the_job_with_one_line():
    assert_told_in_one_line([JOB, "raylet"])


@pytest.mark.slow
def test_a_training_does_not_try_again_on_a_ray_that_has_died(tmp_path):
    shards = write_shard_set(tmp_path / "shards", num_clips=20)
    assert_told_in_one_line([TRAINING, shards, str(tmp_path)])
    assert len(list(read_lines(str(tmp_path / "failures.jsonl")))) == 1


def assert_told_in_one_line(script: list[str]) -> None:
    command = [sys.executable, "-c", *script]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1] == (
        "Error: Ray's raylet died while the job ran, perhaps because memory ran out. Run the same "
        "command again to resume."
    )
