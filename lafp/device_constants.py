"""Keeps small constant tensors on each device, so that each is copied there only once."""

import functools
from collections.abc import Sequence

import torch
from torch import Tensor


def device_constant(
    values: Sequence, device: torch.device, dtype: torch.dtype | None = None
) -> Tensor:
    """Returns ``torch.tensor(values)`` on ``device``, cached. Callers must not write into it.

    Without the cache, every step would copy the values from ordinary host memory, and such a copy
    waits until the device has finished all queued work.
    """
    if torch.compiler.is_compiling():  # a traced program holds its own constants
        return torch.tensor(values, device=device, dtype=dtype)
    return _kept(tuple(values), device, dtype)


@functools.cache
def _kept(values: tuple, device: torch.device, dtype: torch.dtype | None) -> Tensor:
    # The first caller may be in inference mode, whose tensors training could not use later.
    with torch.inference_mode(False):
        return torch.tensor(values, device=device, dtype=dtype)
