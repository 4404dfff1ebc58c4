"""A job whose own Ray, or one of whose processes, dies under it says so in one line."""

import subprocess
import sys

import pytest

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
    command = [sys.executable, "-c", JOB, "raylet"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1] == (
        "Error: Ray's raylet died while the job ran, perhaps because memory ran out. Run the same "
        "command again to resume."
    )
