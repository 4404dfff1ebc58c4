"""The stop coordinator of a study waits for stages that train, and for no others."""

import os
import time

import pytest
import ray

from lafp.runs.run_dir import StageDir
from ray_jobs.core.cluster import start_local
from ray_jobs.training import stop


@pytest.fixture
def coordinator():
    start_local(2)
    yield stop._start_coordinator(stop._COORDINATOR)
    ray.shutdown()


@ray.remote(max_retries=0, num_cpus=0)
def train(begun, end, dies):
    """Trains until the file ``end`` is there, like a stage of a study."""
    with stop.stopped_by_sigterm(StageDir(f"/nowhere/{begun.name}", "lam")):
        begun.touch()
        while not end.exists():
            time.sleep(0.05)
        if dies:
            os._exit(1)


def is_stopped(request, timeout_s):
    return bool(ray.wait([request], timeout=timeout_s)[0])


@pytest.mark.slow
def test_a_stop_waits_for_a_stage_that_trains_and_not_for_one_whose_process_was_killed(
    coordinator, tmp_path
):
    killed, saving, go_on = (tmp_path / name for name in ("killed", "saving", "go_on"))
    go_on.touch()
    with pytest.raises(ray.exceptions.WorkerCrashedError):
        ray.get(train.remote(killed, go_on, dies=True))
    assert killed.exists()
    end = tmp_path / "end"
    stage = train.remote(saving, end, dies=False)
    while not saving.exists():
        time.sleep(0.05)
    request = coordinator.stop.remote()
    assert not is_stopped(request, 1), "the other stage still trains"
    end.touch()
    ray.get(stage)
    assert is_stopped(request, 30)
