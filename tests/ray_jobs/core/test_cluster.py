"""Starting a local Ray where the machine is busy."""

import os
import subprocess
import sys
import tempfile

import psutil
import pytest
import ray

from ray_jobs.core import cluster
from ray_jobs.core.cluster import RayLostError, Resources, connect

SLOW = "The current node timed out during startup. This could happen because some of the raylet ..."


@pytest.fixture
def answers(monkeypatch) -> list[Exception | None]:
    """What ``ray.init`` does, call by call: raise, or start."""
    given: list[Exception | None] = []

    def init(**options: object) -> None:
        if (error := given.pop(0)) is not None:
            raise error

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 1.0})
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    return given


def test_a_ray_that_takes_too_long_to_start_is_started_again(answers):
    answers += [Exception(SLOW), Exception(SLOW), None]
    connect(Resources(num_cpus=1))
    assert answers == []


def test_a_ray_that_never_starts_and_one_that_fails_otherwise_are_errors(answers):
    answers += [Exception(SLOW)] * 5
    with pytest.raises(RayLostError, match="did not start within 30 s, in 5 attempts"):
        connect(Resources(num_cpus=1))
    assert answers == []
    answers += [ValueError("no such option"), None]
    with pytest.raises(ValueError, match="no such option"):
        connect(Resources(num_cpus=1))


def test_an_attempt_that_fails_leaves_no_process_to_the_next(monkeypatch):
    def too_late(*_: object) -> None:
        raise Exception(SLOW)

    monkeypatch.setattr(ray._private.services, "get_node", too_late)
    monkeypatch.setattr(cluster, "_NUM_STARTS", 1)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    before = {process.pid for process in psutil.Process().children(recursive=True)}
    with pytest.raises(RayLostError):
        connect(Resources(num_cpus=1))
    left = [p.name() for p in psutil.Process().children(recursive=True) if p.pid not in before]
    assert not left


def test_the_end_of_a_job_deletes_what_its_killed_workers_left(monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    worker = (
        "import os; from lafp.storage.temporary import TemporaryFolder as T; t = T(); os.abort()"
    )
    subprocess.run([sys.executable, "-c", worker], env=os.environ | {"TMPDIR": str(tmp_path)})
    assert list(tmp_path.iterdir())
    cluster._end_own_ray()
    assert not list(tmp_path.iterdir())
