"""LAPO: infer z_t from two frames so that o_t and z_t predict the next frame's pixels."""

# Shape suffixes in this file: B windows, H height, W width, Z latent action, E embedding.

from dataclasses import dataclass, field
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from lafp.config import choice
from lafp.losses.forward_dynamics import explained_change, frame_loss, residual_loss
from lafp.models import BOTTLENECKS, ENCODERS
from lafp.models.encoders import ImpalaConfig
from lafp.models.fdm import UNetConfig, UNetFdm
from lafp.models.idm import PixelIdm, SecondInput
from lafp.models.quantizers import BottleneckOutput, VqConfig
from lafp.objectives.base import Objective, latent_metrics
from lafp.types import LossOutput, ObsSpec, Window


@dataclass(frozen=True, kw_only=True)
class LapoConfig:
    """LAPO (Schmidt & Jiang, ICLR 2024, arXiv:2312.10812). Defaults are its own, where it has one.

    LAPO's IDM also sees o_{t-1}: set ``window.frame_stack`` to 2.
    """

    name: str = "lapo"
    latent_action_dim: int = 128
    """Z, size of a latent action."""
    encoder: Any = choice(ENCODERS, default=ImpalaConfig())
    """CNN of the IDM, over o_t's frames and the newest frame of o_{t+1}."""
    idm_input: SecondInput = "frame"
    """What the IDM gets beside o_t: o_{t+1}'s newest ``frame``, or its ``difference`` to o_t's."""
    fdm: UNetConfig = field(default_factory=UNetConfig)
    target: Literal["frame", "residual"] = "frame"
    """What the FDM predicts: o_{t+1}, or o_{t+1} - o_t with its loss relative to no change."""
    is_target_half_size: bool = False
    """Predict at half of height and width: a quarter of the cost, enough to see a motion."""
    bottleneck: Any = choice(BOTTLENECKS, default=VqConfig())

    def __post_init__(self) -> None:
        if self.latent_action_dim < 1:
            raise ValueError(f"latent_action_dim must be at least 1, got {self.latent_action_dim}.")
        self.bottleneck.check(self.latent_action_dim)


class Lapo(Objective):
    """L = L_FDM(FDM(o_t, bottleneck(z_t)), o_{t+1}) + L_bottleneck,    z_t = IDM(o_t, o_{t+1}).

    Differences to LAPO: pixels in [-1, 1]; the target may be the residual; U-Net without batch
    normalisation (see ``UNetFdm``); bottlenecks other than VQ.
    """

    Config = LapoConfig

    def __init__(self, cfg: LapoConfig, obs: ObsSpec) -> None:
        super().__init__(cfg, obs)
        self.latent_action_dim = cfg.latent_action_dim
        self.idm = PixelIdm(cfg.encoder, obs, cfg.latent_action_dim, cfg.idm_input)
        bottleneck = BOTTLENECKS.get(cfg.bottleneck.name)
        self.bottleneck = bottleneck(cfg.bottleneck, cfg.latent_action_dim)
        self.fdm = UNetFdm(cfg.fdm, obs, cfg.latent_action_dim, cfg.is_target_half_size)

    def forward(self, window: Window) -> LossOutput:
        """See ``Objective``. Only o_t and o_{t+1} of the window are used."""
        latent_BZ = self.label(window.obs, window.next_obs)
        return self._loss(window, latent_BZ, self.bottleneck(latent_BZ))

    def _loss(self, window: Window, latent_BZ: Tensor, seen: BottleneckOutput) -> LossOutput:
        prediction = self._activated(self.fdm(window.obs, seen.latent))
        frame, next_frame = self._resized(window.obs), self._resized(window.next_obs)
        residual = next_frame - frame
        if self.cfg.target == "residual":
            fdm_loss = residual_loss(prediction, residual)
            squared_error = F.mse_loss(prediction.detach().float(), residual)
        else:
            fdm_loss = squared_error = frame_loss(prediction, next_frame)
        return LossOutput(
            loss=fdm_loss + seen.loss,
            metrics={
                "fdm_loss": fdm_loss.detach(),
                "bottleneck_loss": seen.loss.detach(),
                "fdm_explained": explained_change(squared_error.detach(), residual),
                **latent_metrics(latent_BZ.detach()),
                **seen.metrics,
            },
        )

    def label(self, obs: Tensor, next_obs: Tensor) -> Tensor:
        """See ``Objective``."""
        return self.bottleneck.normalize(self.idm(obs, next_obs))

    def embed(self, obs: Tensor) -> Tensor:
        """See ``Objective``: the IDM's features when nothing changes."""
        return self.idm.embed(obs, obs)

    @torch.no_grad()
    def predict_next_frame(self, obs: Tensor, latent_action: Tensor) -> Tensor:
        """The FDM's o_{t+1}, float [B, 3, H, W] in [-1, 1] (half of H and W if so configured)."""
        prediction = self._activated(self.fdm(obs, self.bottleneck(latent_action).latent))
        if self.cfg.target == "residual":
            prediction = prediction + self._resized(obs)
        return prediction.clamp(-1, 1)

    def after_step(self) -> None:
        """Moves the codebooks of a VQ bottleneck."""
        self.bottleneck.after_step()

    def _activated(self, prediction: Tensor) -> Tensor:
        return prediction.tanh() if self.cfg.target == "frame" else prediction

    def _resized(self, obs: Tensor) -> Tensor:
        """The newest frame of a stack, at the size that the FDM predicts."""
        frame = obs[:, -3:]
        # ceil_mode: odd sizes round up, as a stride-2 convolution's do.
        return F.avg_pool2d(frame, 2, ceil_mode=True) if self.cfg.is_target_half_size else frame
