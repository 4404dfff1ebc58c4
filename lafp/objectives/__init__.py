"""Registers every pretraining objective under the name that a config selects it by."""

from typing import TYPE_CHECKING

from lafp.config.registry import Registry

if TYPE_CHECKING:
    from lafp.objectives.base import Objective

OBJECTIVES: Registry["Objective"] = Registry(
    "objective",
    {
        "laof": "lafp.objectives.laof:Laof",
        "laom": "lafp.objectives.laom:Laom",
        "lapa": "lafp.objectives.lapa:Lapa",
        "lapo": "lafp.objectives.lapo:Lapo",
    },
)
