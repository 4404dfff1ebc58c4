"""Small constant tensors, copied to a device once."""

import functools
from collections.abc import Sequence

import torch
from torch import Tensor


def device_constant(
    values: Sequence, device: torch.device, dtype: torch.dtype | None = None
) -> Tensor:
    """``torch.tensor(values)`` on ``device``; not to be written into.

    Made there in every step, it would make every step wait for the device: a copy from ordinary
    host memory first lets all queued work finish.
    """
    if torch.compiler.is_compiling():  # a traced program holds its own
        return torch.tensor(values, device=device, dtype=dtype)
    return _kept(tuple(values), device, dtype)


@functools.cache
def _kept(values: tuple, device: torch.device, dtype: torch.dtype | None) -> Tensor:
    with torch.inference_mode(False):
        return torch.tensor(values, device=device, dtype=dtype)
