"""Registers every environment under the name that a config selects it by."""

from lafp.config.registry import Registry

ENVS = Registry(
    "environment",
    {
        "dmc": "lafp.envs.dmc:Dmc",
        "metaworld": "lafp.envs.metaworld:Metaworld",
        "minigrid": "lafp.envs.minigrid:Minigrid",
        "procgen": "lafp.envs.procgen:Procgen",
        "slalom": "lafp.envs.slalom:Slalom",
    },
)
