"""LAOF: LAPO whose latent actions must also predict the optical flow between the two frames."""

# Shape suffixes in this file: B windows, Z latent action.

from dataclasses import dataclass, replace

from torch import Tensor

from lafp.losses.forward_dynamics import residual_loss
from lafp.losses.optical_flow import end_point_error
from lafp.models.change_scale import ChangeScale
from lafp.models.optical_flow_decoder import FlowDecoder
from lafp.models.quantizers import BottleneckOutput
from lafp.objectives.lapo import Lapo, LapoConfig
from lafp.types import LossOutput, ObsSpec, Window


@dataclass(frozen=True, kw_only=True)
class LaofConfig(LapoConfig):
    """LAOF (Bu et al., CVPR 2026, arXiv:2511.16407) with LAPO's models."""

    name: str = "laof"
    flow_weight: float = 1.0
    """Weight of the flow loss, which is about 1 for a decoder that predicts no motion."""
    flow_height_px: int = 16
    """Height of the stored optical flow: `optical_flow.height_px` of preprocess."""
    flow_width_px: int = 16
    """Width of the stored optical flow: `optical_flow.width_px` of preprocess."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.flow_weight < 0:
            raise ValueError(f"flow_weight must not be negative, got {self.flow_weight}.")
        for name in ("flow_height_px", "flow_width_px"):
            if getattr(self, name) < 2:
                raise ValueError(f"{name} must be at least 2, got {getattr(self, name)}.")


class Laof(Lapo):
    """L = L_LAPO + w L_flow(D(bottleneck(z_t)), flow(o_t, o_{t+1})).

    Optical flow shows what moves and in which direction, but not what distractors look like. Our
    reading of the paper: D sees only the latent action, in the form that the FDM sees. L_flow is in
    units of the data's typical flow, so that w has the same effect for any frame size and speed.
    Preprocessing computes the targets.
    """

    Config = LaofConfig

    def __init__(self, cfg: LaofConfig, obs: ObsSpec) -> None:
        super().__init__(cfg, obs)
        self.flow_size_px = (cfg.flow_height_px, cfg.flow_width_px)
        self.flow_decoder = FlowDecoder(cfg.latent_action_dim, *self.flow_size_px)
        self.flow_scale = ChangeScale()

    def _loss(self, window: Window, latent_BZ: Tensor, seen: BottleneckOutput) -> LossOutput:
        if window.flow is None:
            raise ValueError("laof needs windows with flow. Preprocess with `optical_flow: {}`.")
        out = super()._loss(window, latent_BZ, seen)
        predicted = self.flow_decoder(seen.latent)
        flow_loss = residual_loss(predicted, self.flow_scale.to_units(window.flow))
        metrics = {
            "flow_loss": flow_loss.detach(),
            "flow_error_px": end_point_error(self.flow_scale.to_pixels(predicted), window.flow),
        }
        loss = out.loss + self.cfg.flow_weight * flow_loss
        return replace(out, loss=loss, metrics=out.metrics | metrics)

    def measured(self, window: Window) -> list[tuple[ChangeScale, Tensor]]:
        """See ``Objective``. Optical flow is measured too."""
        scales = super().measured(window)
        return scales if window.flow is None else [*scales, (self.flow_scale, window.flow)]
