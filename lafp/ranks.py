"""Says which of the processes that train together this one is."""

import torch.distributed as dist


def world_size() -> int:
    """Returns the number of processes that train together; 1 outside a distributed training."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Returns the number of this process among them, from 0 on."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0
