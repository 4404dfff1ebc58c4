"""Errors of calls that run as Ray tasks."""

import pytest
import ray

from data_pipelines.on_ray.tasks import stream_tasks
from lafp.config import ConfigError


@pytest.fixture(scope="module")
def local_ray():
    ray.init(num_cpus=2, include_dashboard=False)
    yield
    ray.shutdown()


def fail(error: Exception) -> None:
    raise error


def test_a_users_mistake_that_a_call_finds_is_told_without_a_traceback(local_ray):
    mistake = ConfigError("batch_size 64 does not fit into the GPU. Try 32.")
    with pytest.raises(ConfigError) as caught:
        list(stream_tasks(fail, [(0, (mistake,))]))
    assert str(caught.value) == str(mistake)


def test_other_errors_keep_the_traceback_of_their_worker(local_ray):
    with pytest.raises(ray.exceptions.RayTaskError, match="in fail"):
        list(stream_tasks(fail, [(0, (ZeroDivisionError("here"),))]))
