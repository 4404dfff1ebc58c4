"""What ``--policy.*`` sets for an agent of lafp."""

from dataclasses import dataclass
from typing import NoReturn

from lerobot.configs.policies import PreTrainedConfig

NO_TRAINING = "An agent of lafp is trained by lafp (lafp pipeline), not by lerobot-train."


@PreTrainedConfig.register_subclass("lafp")
@dataclass
class LafpConfig(PreTrainedConfig):
    """Names the agent, and says how LeRobot's observations become the agent's."""

    run: str | None = None
    """The run's folder, ``s3://`` or ``hf://`` URI. None means the folder that
    ``LafpPolicy.save_pretrained`` wrote, which ``--policy.path`` names."""
    policy: str | None = None
    """See ``lafp.Agent.load``."""
    action_decoder: str | None = None
    """See ``lafp.Agent.load``."""
    seed: int = 0
    """Seed of the agent's noise. Each call of ``reset`` draws other noise."""
    camera: str | None = None
    """Key of the picture, such as ``observation.images.top``. Needed where there are several."""
    fit: str = "crop"
    """How a picture of another shape is scaled to the agent's size: ``crop`` or ``pad``, as
    ``resize.fit`` of preprocessing."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.fit not in ("crop", "pad"):
            raise ValueError(f"fit must be crop or pad, got {self.fit!r}.")

    @property
    def observation_delta_indices(self) -> None:
        """None: the agent keeps its earlier frames itself."""
        return None

    @property
    def action_delta_indices(self) -> None:
        """None: nothing is trained on action chunks."""
        return None

    @property
    def reward_delta_indices(self) -> None:
        """None: nothing is trained on rewards."""
        return None

    def get_optimizer_preset(self) -> NoReturn:
        """Raises NotImplementedError: see ``NO_TRAINING``."""
        raise NotImplementedError(NO_TRAINING)

    def get_scheduler_preset(self) -> None:
        """None: see ``get_optimizer_preset``."""
        return None

    def validate_features(self) -> None:
        """Checks nothing: the agent checks each observation, whose errors name what is missing."""
