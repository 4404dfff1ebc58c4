"""Lists every tracker of experiments by its ``tracker.name`` in YAML."""

from typing import TYPE_CHECKING

from lafp.config.registry import Registry

if TYPE_CHECKING:
    from lafp.train.trackers.base import Tracker

TRACKERS: Registry["Tracker"] = Registry(
    "tracker",
    {
        "tensorboard": "lafp.train.trackers.tensorboard:TensorBoard",
        "trackio": "lafp.train.trackers.trackio:Trackio",
        "wandb": "lafp.train.trackers.wandb:Wandb",
    },
)
