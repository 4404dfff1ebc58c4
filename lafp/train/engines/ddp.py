"""Plain data parallelism: torch DDP, or the bare module in one process."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class DdpConfig:
    """Every worker holds the whole model."""

    name: str = "ddp"
