"""LAOF: LAPO whose latent actions must also predict the optical flow between the two frames."""

# Shape suffixes in this file: B windows, Z latent action.

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch.nn.functional as F
from torch import Tensor, nn

from lafp.config.ranges import check_at_least
from lafp.losses.forward_dynamics import residual_loss
from lafp.losses.masked import as_weighted, defined_if_weighted
from lafp.losses.optical_flow import end_point_error
from lafp.models.bottlenecks.base import BottleneckOutput
from lafp.models.change_scale import ChangeScale
from lafp.models.optical_flow_decoder import OpticalFlowDecoder
from lafp.objectives.lapo import Lapo, LapoConfig
from lafp.types import LossOutput, ObsSpec, Window


@dataclass(frozen=True, kw_only=True)
class LaofConfig(LapoConfig):
    """LAOF (Bu et al., CVPR 2026, arXiv:2511.16407) with LAPO's models."""

    name: str = "laof"
    optical_flow_weight: float = 1.0
    """Weight of the optical flow's loss, which is about 1 for a decoder that predicts no motion."""
    optical_flow_height_px: int = 16
    """Height of the stored optical flow: `optical_flow.height_px` of preprocess."""
    optical_flow_width_px: int = 16
    """Width of the stored optical flow: `optical_flow.width_px` of preprocess."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(self, 0, "optical_flow_weight")
        check_at_least(self, 2, "optical_flow_height_px", "optical_flow_width_px")


class Laof(Lapo):
    """L = L_LAPO + w L_optical_flow(D(bottleneck(z_t)), flow(o_t, o_{t+1})).

    Optical flow shows what moves and in which direction, but not what distractors look like. Our
    reading of the paper: D sees only the latent action, in the form that the FDM sees.
    L_optical_flow is in units of the data's typical optical flow, so that w has the same effect for
    any frame size and speed. Preprocessing computes the targets. Masks of the agent weigh both
    losses, because LAOF's paper masks the optical flow too.
    """

    Config = LaofConfig

    def __init__(self, cfg: LaofConfig, obs: ObsSpec) -> None:
        super().__init__(cfg, obs)
        self.optical_flow_size_px = (cfg.optical_flow_height_px, cfg.optical_flow_width_px)
        self.optical_flow_decoder = OpticalFlowDecoder(
            cfg.latent_action_dim, *self.optical_flow_size_px
        )
        self.optical_flow_scale = ChangeScale()

    def _loss(self, window: Window, latent_BZ: Tensor, seen: BottleneckOutput) -> LossOutput:
        if window.optical_flow is None:
            raise ValueError(
                "laof needs windows with optical flow. Preprocess with `optical_flow: {}`."
            )
        out = super()._loss(window, latent_BZ, seen)
        predicted = self.optical_flow_decoder(seen.latent)
        target, scale = window.optical_flow, self.optical_flow_scale
        weight = self._optical_flow_weight(window)
        optical_flow_loss = residual_loss(predicted, scale.to_units(target), weight)
        metrics = {
            "optical_flow_loss": defined_if_weighted(optical_flow_loss.detach(), weight),
            "optical_flow_error_px": end_point_error(scale.to_pixels(predicted), target, weight),
        }
        loss = out.loss + self.cfg.optical_flow_weight * optical_flow_loss
        return replace(out, loss=loss, metrics=out.metrics | metrics)

    def networks(self) -> Sequence[nn.Module]:
        """See ``Objective``."""
        return *super().networks(), self.optical_flow_decoder

    def measured(self, window: Window) -> list[tuple[ChangeScale, Tensor]]:
        """See ``Objective``. Optical flow is measured too."""
        scales = super().measured(window)
        if (optical_flow := window.optical_flow) is None:
            return scales
        # Nothing trains a predicted vector without weight, so it does not count for the unit.
        weighted = as_weighted(optical_flow, self._optical_flow_weight(window))
        return [*scales, (self.optical_flow_scale, weighted)]

    def _optical_flow_weight(self, window: Window) -> Tensor | None:
        """Returns the weights of the optical flow's vectors, float [B, 1, h, w].

        A vector stands for a cell of pixels, and counts by the mean weight of these pixels.
        """
        if (weight := self.weight_of(window.next_mask)) is None:
            return None
        return F.adaptive_avg_pool2d(weight, self.optical_flow_size_px)
