"""IDM: inverse dynamics learned from labels alone, the baseline without unlabeled video."""

# Shape suffixes in this file: Z latent action.

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lafp.config import choice
from lafp.models import ENCODERS
from lafp.models.change_scale import ChangeScale
from lafp.models.encoders import ImpalaConfig
from lafp.models.idm import PixelIdm, SecondInput
from lafp.objectives.base import Objective, latent_metrics
from lafp.types import LossOutput, ObsSpec, Window


@dataclass(frozen=True, kw_only=True)
class IdmConfig:
    """A baseline that shows what labels achieve without video: only ``supervision`` trains it."""

    name: str = "idm"
    latent_action_dim: int = 128
    """Z, size of the features that the supervision's linear head reads."""
    encoder: Any = choice(ENCODERS, default=ImpalaConfig())
    """CNN over o_t's frames and the newest frame of o_{t+1}."""
    idm_input: SecondInput = "frame"
    """Second input of the IDM: o_{t+1}'s newest ``frame``, or its ``difference`` to o_t's."""


class Idm(Objective):
    """L = 0: the only gradient comes from the supervision, || W z_t + b - a_t ||^2.

    This is LAOM's baseline of the same name (arXiv:2502.00379), with LAPO's IDM. Unlabeled windows
    only yield metrics of z.
    """

    Config = IdmConfig
    needs_supervision = True

    def __init__(self, cfg: IdmConfig, obs: ObsSpec) -> None:
        super().__init__(cfg, obs)
        self.latent_action_dim = cfg.latent_action_dim
        self.idm = PixelIdm(cfg.encoder, obs, cfg.latent_action_dim, cfg.idm_input)

    @torch.no_grad()
    def forward(self, window: Window) -> LossOutput:
        """See ``Objective``."""
        latent_BZ = self.label(window.obs, window.next_obs)
        return LossOutput(
            loss=latent_BZ.new_zeros((), dtype=torch.float32), metrics=latent_metrics(latent_BZ)
        )

    def measured(self, window: Window) -> list[tuple[ChangeScale, Tensor]]:
        """See ``Objective``."""
        if self.cfg.idm_input == "frame":
            return []
        return [(self.idm.change_scale, window.next_obs[:, -3:] - window.obs[:, -3:])]

    def label(self, obs: Tensor, next_obs: Tensor) -> Tensor:
        """See ``Objective``."""
        return self.idm(obs, next_obs)

    def embed(self, obs: Tensor) -> Tensor:
        """See ``Objective``. Returns the IDM's features of o_t paired with itself."""
        return self.idm.embed(obs, obs)
