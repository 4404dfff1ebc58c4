"""Registers every environment under the name that a config selects it by."""

from typing import TYPE_CHECKING

from lafp.config.registry import Registry

if TYPE_CHECKING:
    from lafp.envs.base import VectorEnv

ENVS: Registry["VectorEnv"] = Registry(
    "environment",
    {
        "dmc": "lafp.envs.dmc:Dmc",
        "metaworld": "lafp.envs.metaworld:Metaworld",
        "metaworld_mt": "lafp.envs.metaworld_mt:MetaworldMt",
        "minigrid": "lafp.envs.minigrid:Minigrid",
        "procgen": "lafp.envs.procgen:Procgen",
        "slalom": "lafp.envs.slalom:Slalom",
    },
)
