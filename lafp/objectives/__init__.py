"""Registers every pretraining objective under the name that a config selects it by."""

from lafp.config.registry import Registry

OBJECTIVES = Registry(
    "objective",
    {
        "laof": "lafp.objectives.laof:Laof",
        "laom": "lafp.objectives.laom:Laom",
        "lapa": "lafp.objectives.lapa:Lapa",
        "lapo": "lafp.objectives.lapo:Lapo",
    },
)
