"""Says whether this process has joined a Ray, without importing Ray."""

import sys


def is_on_ray() -> bool:
    """Returns whether this process has joined a Ray."""
    ray = sys.modules.get("ray")
    return ray is not None and ray.is_initialized()
