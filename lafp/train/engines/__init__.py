"""Lists every training engine by its ``engine.name`` in YAML."""

from typing import TYPE_CHECKING

from lafp.config.registry import Registry

if TYPE_CHECKING:
    from lafp.train.engines.base import Engine

ENGINES: Registry["Engine"] = Registry(
    "engine",
    {
        "ddp": "lafp.train.engines.ddp:DdpEngine",
        "deepspeed": "lafp.train.engines.deepspeed:DeepSpeedEngine",
    },
)
