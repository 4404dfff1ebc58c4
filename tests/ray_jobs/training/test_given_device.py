"""The GPU of a worker that is alone."""

import pytest
import torch

from ray_jobs.training.worker_task import given_device


@pytest.mark.parametrize(
    ("gpu_ids", "visible", "index"),
    [
        (["1"], "1", 0),  # Ray shows the task its own GPU only
        ([3], "", 3),  # RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES: all are visible
        (["3"], "2,3", 1),  # the same where the user chose some for all of Ray
        (["GPU-b"], "GPU-a, GPU-b", 1),
    ],
)
def test_a_worker_takes_the_gpu_that_ray_gave_to_it(gpu_ids, visible, index):
    assert given_device(gpu_ids, visible) == torch.device("cuda", index)


def test_a_gpu_that_is_not_visible_is_not_replaced_by_another():
    with pytest.raises(RuntimeError, match=r"Ray gave GPU 2 .* CUDA_VISIBLE_DEVICES is '0,1'"):
        given_device([2], "0,1")
