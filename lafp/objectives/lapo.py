"""LAPO: infer z_t from two frames so that o_t and z_t predict the next frame's pixels."""

# Shape suffixes in this file: B windows, H height, W width, Z latent action, E embedding.

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lafp.config import Choice, choice
from lafp.config.ranges import check_at_least
from lafp.losses.forward_dynamics import frame_loss, prediction_errors, residual_loss
from lafp.losses.masked import as_weighted, defined_if_weighted
from lafp.models import BOTTLENECKS, ENCODERS
from lafp.models.bottlenecks.base import BottleneckConfig, BottleneckOutput
from lafp.models.bottlenecks.vq import VqConfig
from lafp.models.change_scale import ChangeScale
from lafp.models.encoders import ImpalaConfig
from lafp.models.fdm import UNetConfig, UNetFdm
from lafp.models.idm import PixelIdm, SecondInput
from lafp.objectives.base import MaskConfig, Objective, latent_metrics
from lafp.types import LossOutput, ObsSpec, Window


@dataclass(frozen=True, kw_only=True)
class LapoConfig:
    """LAPO (Schmidt & Jiang, ICLR 2024, arXiv:2312.10812). Defaults are LAPO's if it has them.

    LAPO's IDM also sees o_{t-1}: set ``window.frame_stack`` to 2.
    """

    name: str = "lapo"
    latent_action_dim: int = 128
    """Z, size of a latent action."""
    encoder: Choice = choice(ENCODERS, default=ImpalaConfig())
    """CNN of the IDM, over o_t's frames and the newest frame of o_{t+k}."""
    idm_input: SecondInput = "frame"
    """Second input of the IDM: o_{t+k}'s newest ``frame``, or its ``difference`` to o_t's."""
    fdm: UNetConfig = field(default_factory=UNetConfig)
    target: Literal["frame", "residual"] = "frame"
    """The FDM predicts o_{t+1} (``frame``), or o_{t+1} - o_t in units of the data's typical change
    (``residual``)."""
    is_target_half_size: bool = False
    """Predict at half of height and width. This takes a quarter of the cost, and motion is still
    visible."""
    bottleneck: BottleneckConfig = choice(BOTTLENECKS, default=VqConfig())
    mask: MaskConfig | None = None
    """Set this ({} takes the defaults) to weigh the FDM's loss by masks of the agent."""

    def __post_init__(self) -> None:
        check_at_least(self, 1, "latent_action_dim")
        self.bottleneck.check(self.latent_action_dim)


class Lapo(Objective):
    """L = L_FDM(FDM(o_t, bottleneck(z_t)), o_{t+1}) + L_bottleneck,    z_t = IDM(o_t, o_{t+k}).

    LAPO has k = 1, the default of ``window.max_offset_steps``. With 10, without quantization and
    with a large ``latent_action_dim``, it has the first steps of LAOM's ladder of ablations
    (arXiv:2502.00379).

    Our deviations from LAPO: pixels are in [-1, 1], the target may be the residual, the U-Net has
    no batch normalisation (see ``UNetFdm``), and there are bottlenecks other than VQ.
    """

    Config = LapoConfig

    def __init__(self, cfg: LapoConfig, obs: ObsSpec) -> None:
        super().__init__(cfg, obs)
        self.latent_action_dim, self.mask = cfg.latent_action_dim, cfg.mask
        self.idm = PixelIdm(cfg.encoder, obs, cfg.latent_action_dim, cfg.idm_input)
        self.bottleneck = BOTTLENECKS.build(cfg.bottleneck, cfg.latent_action_dim)
        self.fdm = UNetFdm(cfg.fdm, obs, cfg.latent_action_dim, cfg.is_target_half_size)

    def forward(self, window: Window) -> LossOutput:
        """See ``Objective``."""
        latent_BZ = self.infer_latent_action(window.obs, window.future_obs)
        return self._loss(window, latent_BZ, self.bottleneck(latent_BZ))

    def _loss(self, window: Window, latent_BZ: Tensor, seen: BottleneckOutput) -> LossOutput:
        prediction, scale = self.fdm(window.obs, seen.latent), self.idm.change_scale
        frame, next_frame = self._resized(window.obs), self._resized(window.next_obs)
        weight = self._weight(window)
        if self.cfg.target == "residual":
            fdm_loss = residual_loss(prediction, scale.to_units(next_frame - frame), weight)
        else:
            fdm_loss = frame_loss(prediction.tanh(), next_frame, weight)
        predicted_frame = self._to_frame(prediction.detach(), frame)
        return LossOutput(
            loss=fdm_loss + seen.loss,
            metrics={
                "fdm_loss": defined_if_weighted(fdm_loss.detach(), weight),
                "bottleneck_loss": seen.loss.detach(),
                **prediction_errors(predicted_frame, frame, next_frame, weight),
                **latent_metrics(latent_BZ.detach()),
                **seen.metrics,
            },
        )

    def infer_latent_action(self, obs: Tensor, next_obs: Tensor) -> Tensor:
        """See ``Objective``."""
        return self.bottleneck.normalize(self.idm(obs, next_obs))

    def quantize(self, latent_action: Tensor) -> Tensor:
        """See ``Objective.quantize``."""
        return self.bottleneck(latent_action).latent

    def embed(self, obs: Tensor) -> Tensor:
        """See ``Objective``. Returns the IDM's features of o_t paired with itself."""
        return self.idm.embed(obs, obs)

    @torch.no_grad()
    def predict_next_frame(self, obs: Tensor, latent_action: Tensor) -> Tensor:
        """Predicts o_{t+1} from o_t and z_t.

        Args:
            obs: o_t, float [B, 3 F, H, W] in [-1, 1].
            latent_action: z_t, float [B, Z].

        Returns:
            float [B, 3, H, W] in [-1, 1]; H and W are halved with ``is_target_half_size``.
        """
        prediction = self.fdm(obs, self.bottleneck(latent_action).latent)
        return self._to_frame(prediction, self._resized(obs))

    def measured(self, window: Window) -> list[tuple[ChangeScale, Tensor]]:
        """See ``Objective``. The change is measured at the size, and where, the FDM predicts."""
        if self.cfg.target == "frame" and self.cfg.idm_input == "frame":
            return []
        change = self._resized(window.next_obs) - self._resized(window.obs)
        # Nothing trains a predicted change without weight, so it does not count for the unit. The
        # IDM reads whole frames.
        weight = self._weight(window) if self.cfg.target == "residual" else None
        return [(self.idm.change_scale, as_weighted(change, weight))]

    def networks(self) -> Sequence[nn.Module]:
        """See ``Objective``."""
        return self.idm, self.fdm

    def after_step(self) -> None:
        """Moves the codebooks of a VQ bottleneck."""
        self.bottleneck.after_step()

    def _to_frame(self, prediction: Tensor, frame: Tensor) -> Tensor:
        """Computes the next frame, in [-1, 1], from the FDM's output and o_t's resized frame."""
        if self.cfg.target == "frame":
            return prediction.tanh()
        return (frame + self.idm.change_scale.to_pixels(prediction.float())).clamp(-1, 1)

    def _resized(self, obs: Tensor) -> Tensor:
        """Returns the newest frame of a stack at the size that the FDM predicts."""
        return self._halved(obs[:, -3:])

    def _weight(self, window: Window) -> Tensor | None:
        """Returns the weights of the predicted pixels, float [B, 1, H, W] at their size."""
        weight = self.weight_of(window.next_mask)
        return None if weight is None else self._halved(weight)

    def _halved(self, pixels: Tensor) -> Tensor:
        # ceil_mode: odd sizes round up, as a stride-2 convolution's do.
        return F.avg_pool2d(pixels, 2, ceil_mode=True) if self.cfg.is_target_half_size else pixels
