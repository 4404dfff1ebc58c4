"""Lists every training engine by its ``engine.name`` in YAML."""

from lafp.config.registry import Registry

ENGINES = Registry(
    "engine",
    {
        "ddp": "lafp.train.engines.ddp:DdpEngine",
        "deepspeed": "lafp.train.engines.deepspeed:DeepSpeedEngine",
    },
)
