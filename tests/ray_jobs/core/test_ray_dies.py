"""A job whose own Ray dies under it says so in one line."""

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
