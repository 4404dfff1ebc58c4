"""Every pretraining objective, by the name that ``objective.name`` takes in YAML."""

from lafp.config.registry import Registry

OBJECTIVES = Registry(
    "objective",
    {
        "idm": "lafp.objectives.idm:Idm",
        "laof": "lafp.objectives.laof:Laof",
        "laom": "lafp.objectives.laom:Laom",
        "lapa": "lafp.objectives.lapa:Lapa",
        "lapo": "lafp.objectives.lapo:Lapo",
    },
)
