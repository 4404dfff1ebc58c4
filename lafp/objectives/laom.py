"""LAOM: infer z_t so that the embedding of o_t and z_t predict the next observation's embedding."""

# Shape suffixes in this file: B windows, E embedding, Z latent action.

import copy
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lafp.config import choice
from lafp.data.augment import AugmentConfig, augment_window
from lafp.losses.forward_dynamics import prediction_errors
from lafp.models import ENCODERS
from lafp.models.ema import ema_update_
from lafp.models.encoders import StridedResnetConfig, init_orthogonal_
from lafp.models.fdm import EmbeddingFdm
from lafp.models.idm import EmbeddingIdm, HeadConfig
from lafp.objectives.base import Objective, latent_metrics
from lafp.types import LossOutput, ObsSpec, Window


@dataclass(frozen=True, kw_only=True)
class LaomConfig:
    """LAOM (Nikulin et al., ICML 2025, arXiv:2502.00379). Defaults are the paper's.

    The paper's windows have ``frame_stack`` 3 and ``max_offset_steps`` 10.
    """

    name: str = "laom"
    latent_action_dim: int = 8192
    """Z, size of a latent action. LAOM takes a large one, and quantizes nothing."""
    encoder: Any = choice(ENCODERS, default=StridedResnetConfig())
    idm: HeadConfig = field(default_factory=HeadConfig)
    fdm: HeadConfig = field(default_factory=HeadConfig)
    target_ema_decay: float = 0.999
    """Decay of the target encoder's moving average, per optimizer step. LAOM's ``target_tau`` is
    1 - decay."""
    augment: AugmentConfig = field(default_factory=AugmentConfig)

    def __post_init__(self) -> None:
        if self.latent_action_dim < 1:
            raise ValueError(f"latent_action_dim must be at least 1, got {self.latent_action_dim}.")
        if not 0.0 <= self.target_ema_decay <= 1.0:
            raise ValueError(
                f"target_ema_decay must be in [0, 1], got {self.target_ema_decay}. "
                "LAOM's `target_tau` is 1 - decay: tau=0.001 is decay=0.999."
            )


class Laom(Objective):
    """L = || FDM(sg[e(o_t)], z) - e_EMA(o_{t+1}) ||^2,    z = IDM(e(o_t), e(o_{t+k})).

    The encoder e learns through the IDM only; the target encoder e_EMA follows it slowly. The
    loss is the mean over batch and embedding, as in LAOM's code.
    """

    Config = LaomConfig

    def __init__(self, cfg: LaomConfig, obs: ObsSpec) -> None:
        super().__init__(cfg, obs)
        self.latent_action_dim = cfg.latent_action_dim
        self.encoder = ENCODERS.get(cfg.encoder.name)(cfg.encoder, obs)
        embed_dim = self.encoder.embed_dim
        self.idm = EmbeddingIdm(cfg.idm, embed_dim, cfg.latent_action_dim)
        self.fdm = EmbeddingFdm(cfg.fdm, embed_dim, cfg.latent_action_dim)
        init_orthogonal_(self)
        self.target_encoder = copy.deepcopy(self.encoder).requires_grad_(False)

    def augment(self, window: Window) -> Window:
        """See ``Objective``."""
        return augment_window(window, self.cfg.augment)

    def forward(self, window: Window) -> LossOutput:
        """See ``Objective``."""
        obs_BE, future_obs_BE = self.encoder(torch.cat([window.obs, window.future_obs])).chunk(2)
        latent_BZ = self.idm(obs_BE, future_obs_BE)
        prediction_BE = self.fdm(obs_BE.detach(), latent_BZ)
        with torch.no_grad():
            target_BE = self.target_encoder(window.next_obs).float()
        loss = F.mse_loss(prediction_BE.float(), target_BE)
        variance = target_BE.var(0).mean()  # NaN for a single window
        explained = torch.where(variance > 1e-12, 1 - loss.detach() / variance, torch.nan)
        return LossOutput(
            loss=loss,
            metrics={
                "fdm_loss": loss.detach(),
                # Near 0, the embedding has collapsed, and a small loss means nothing.
                "target_std": target_BE.std(0).mean(),
                "target_explained": explained,
                **latent_metrics(latent_BZ.detach()),
                **self._errors(window, prediction_BE.detach(), target_BE),
            },
        )

    @torch.no_grad()
    def _errors(
        self, window: Window, prediction_BE: Tensor, target_BE: Tensor
    ) -> dict[str, Tensor]:
        """Computes prediction errors, in eval mode only: they encode o_t once more."""
        if self.training:
            return {}
        return prediction_errors(prediction_BE, self.target_encoder(window.obs), target_BE)

    def label(self, obs: Tensor, next_obs: Tensor) -> Tensor:
        """See ``Objective``."""
        obs_BE, next_obs_BE = self.encoder(torch.cat([obs, next_obs])).chunk(2)
        return self.idm(obs_BE, next_obs_BE)

    def embed(self, obs: Tensor) -> Tensor:
        """See ``Objective``. Returns the encoder's output."""
        return self.encoder(obs)

    def after_step(self) -> None:
        """Moves the target encoder towards the encoder."""
        ema_update_(self.target_encoder, self.encoder, self.cfg.target_ema_decay)
