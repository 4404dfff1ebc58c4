"""LAPA: patch transformers that encode the change between two frames in a few discrete latents."""

# Shape suffixes in this file: B windows, T frames of a pair, P patches, D features,
# Z latent action.

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from lafp.config import Choice, choice
from lafp.config.ranges import check_at_least
from lafp.losses.forward_dynamics import frame_loss, prediction_errors, residual_loss
from lafp.losses.masked import as_weighted, defined_if_weighted
from lafp.models import BOTTLENECKS, PATCHES
from lafp.models.bottlenecks.base import BottleneckConfig
from lafp.models.bottlenecks.vq import VqConfig
from lafp.models.change_scale import ChangeScale
from lafp.models.idm import SecondInput
from lafp.models.patch_transformer import PatchFdm, PatchIdm, TransformerConfig
from lafp.models.patches import PixelPatchesConfig
from lafp.objectives.base import MaskConfig, Objective, latent_metrics
from lafp.types import LossOutput, ObsSpec, Window


@dataclass(frozen=True, kw_only=True)
class LapaConfig:
    """LAPA (Ye et al., ICLR 2025, arXiv:2410.11758) and UniVLA (arXiv:2505.06111)."""

    name: str = "lapa"
    num_action_tokens: int = 4
    """L, number of discrete latents of one latent action (LAPA: 4)."""
    latent_action_dim: int = 128
    """Z, a multiple of L: each discrete latent has Z / L dimensions."""
    patches: Choice = choice(PATCHES, default=PixelPatchesConfig())
    """Features that the IDM reads and the FDM predicts: ``{name: pixels}``, or
    ``{name: dinov2, path: FOLDER}``."""
    idm_input: SecondInput = "frame"
    """Second input of the IDM: o_{t+k}'s patches (``frame``), or their ``difference`` to o_t's in
    units of the data's typical change."""
    idm: TransformerConfig
    """Transformer over the patches of both frames, in space and time."""
    fdm: TransformerConfig
    """Transformer over the patches of one frame and the latent action."""
    target: Literal["frame", "residual"] = "frame"
    """The FDM predicts the next frame's patches (``frame``), or their change in units of the data's
    typical change (``residual``)."""
    bottleneck: BottleneckConfig = choice(
        BOTTLENECKS, default=VqConfig(num_codebooks=1, num_discrete_latents=4, num_codes=8)
    )
    mask: MaskConfig | None = None
    """Set this ({} takes the defaults) to weigh the FDM's loss by masks of the agent."""

    def __post_init__(self) -> None:
        check_at_least(self, 1, "num_action_tokens", "latent_action_dim")
        if self.latent_action_dim % self.num_action_tokens:
            raise ValueError(
                f"latent_action_dim must be a multiple of num_action_tokens "
                f"({self.num_action_tokens}), got {self.latent_action_dim}."
            )
        self.bottleneck.check(self.latent_action_dim)


class Lapa(Objective):
    """L = || FDM(p(o_t), bottleneck(z)) - p(o_{t+k}) ||^2 + L_bottleneck,   z = IDM(both frames).

    p cuts a frame into patches of pixels, or of a frozen encoder's features (UniVLA). As in LAPA,
    the IDM reads and the FDM predicts the same frame, k steps after o_t. Our deviations: only the
    IDM has attention over time, and VQ with EMA codebooks, or FSQ, replaces LAPA's NSVQ.
    """

    Config = LapaConfig

    def __init__(self, cfg: LapaConfig, obs: ObsSpec) -> None:
        super().__init__(cfg, obs)
        self.latent_action_dim, self.mask = cfg.latent_action_dim, cfg.mask
        self.patches = PATCHES.build(cfg.patches, obs)
        shape = (
            self.patches.num_patches,
            self.patches.input_dim,
            cfg.num_action_tokens,
            cfg.latent_action_dim,
        )
        self.idm = PatchIdm(cfg.idm, *shape)
        self.bottleneck = BOTTLENECKS.build(cfg.bottleneck, cfg.latent_action_dim)
        self.fdm = PatchFdm(cfg.fdm, *shape, self.patches.target_dim)
        self.change_scale, self.idm_scale = ChangeScale(), ChangeScale()

    def forward(self, window: Window) -> LossOutput:
        """See ``Objective``."""
        obs_BPD, future_BPD = self._patches_of_both(window.obs, window.future_obs)
        pair_BTPD = self._pair(obs_BPD, future_BPD)
        latent_BZ = self.bottleneck.normalize(self.idm(pair_BTPD))
        seen = self.bottleneck(latent_BZ)
        prediction_BPD = self.fdm(pair_BTPD[:, 0], seen.latent)
        with torch.no_grad():
            target_BPD = self.patches.newest(future_BPD)
            copied_BPD = self.patches.newest(obs_BPD)
            weight_BPD = self._weight(window)
        if self.cfg.target == "residual":
            change_BPD = self.change_scale.to_units(target_BPD - copied_BPD)
            fdm_loss = residual_loss(prediction_BPD, change_BPD, weight_BPD)
        else:
            fdm_loss = frame_loss(prediction_BPD, target_BPD, weight_BPD)
        predicted_BPD = self._to_patches(prediction_BPD.detach(), copied_BPD)
        return LossOutput(
            loss=fdm_loss + seen.loss,
            metrics={
                "fdm_loss": defined_if_weighted(fdm_loss.detach(), weight_BPD),
                "bottleneck_loss": seen.loss.detach(),
                **prediction_errors(predicted_BPD, copied_BPD, target_BPD, weight_BPD),
                **latent_metrics(latent_BZ.detach()),
                **seen.metrics,
            },
        )

    def infer_latent_action(self, obs: Tensor, next_obs: Tensor) -> Tensor:
        """See ``Objective``."""
        pair_BTPD = self._pair(*self._patches_of_both(obs, next_obs))
        return self.bottleneck.normalize(self.idm(pair_BTPD))

    def quantize(self, latent_action: Tensor) -> Tensor:
        """See ``Objective.quantize``."""
        return self.bottleneck(latent_action).latent

    def embed(self, obs: Tensor) -> Tensor:
        """See ``Objective``. Returns the IDM's embedding of the first frame of a pair."""
        return self.idm.embed(self.patches(obs))

    def networks(self) -> Sequence[nn.Module]:
        """See ``Objective``."""
        return self.idm, self.fdm

    def after_step(self) -> None:
        """Moves the codebooks of a VQ bottleneck."""
        self.bottleneck.after_step()

    @property
    def predict_next_frame(self) -> Callable[[Tensor, Tensor], Tensor]:
        """Function that predicts o_{t+1} from o_t and z_t.

        The attribute only exists if patches are pixels.
        """
        if not self.patches.has_pixels:
            raise AttributeError("predict_next_frame")
        return self._predict_next_frame

    @torch.no_grad()
    def _predict_next_frame(self, obs: Tensor, latent_action: Tensor) -> Tensor:
        """Predicts the next frame, float [B, 3, H, W] in [-1, 1]."""
        seen = self.bottleneck(latent_action)
        obs_BPD = self.patches(obs)
        prediction_BPD = self.fdm(obs_BPD, seen.latent)
        predicted_BPD = self._to_patches(prediction_BPD, self.patches.newest(obs_BPD))
        return self.patches.to_frame(predicted_BPD).clamp(-1, 1)

    def measured(self, window: Window) -> list[tuple[ChangeScale, Tensor]]:
        """See ``Objective``."""
        if self.cfg.target == "frame" and self.cfg.idm_input == "frame":
            return []
        obs_BPD, future_BPD = self._patches_of_both(window.obs, window.future_obs)
        change_BPD, scales = future_BPD - obs_BPD, []
        if self.cfg.target == "residual":
            # Nothing trains a predicted change without weight, so it does not count for the unit.
            weighted = as_weighted(self.patches.newest(change_BPD), self._weight(window))
            scales.append((self.change_scale, weighted))
        if self.cfg.idm_input == "difference":
            scales.append((self.idm_scale, change_BPD))
        return scales

    def _weight(self, window: Window) -> Tensor | None:
        """Returns the weights of the predicted patches, which broadcast to [B, P, D]."""
        weight = self.weight_of(window.future_mask)
        return None if weight is None else self.patches.weights(weight)

    def _to_patches(self, prediction_BPD: Tensor, copied_BPD: Tensor) -> Tensor:
        """Computes the next frame's patches from the FDM's output and o_t's patches."""
        if self.cfg.target == "frame":
            return prediction_BPD
        return copied_BPD + self.change_scale.to_pixels(prediction_BPD.float())

    def _patches_of_both(self, obs: Tensor, next_obs: Tensor) -> tuple[Tensor, Tensor]:
        """Computes the patches of two observations in one pass."""
        obs_BPD, next_BPD = self.patches(torch.cat([obs, next_obs])).chunk(2)
        return obs_BPD, next_BPD

    def _pair(self, obs_BPD: Tensor, next_BPD: Tensor) -> Tensor:
        """Makes what the IDM sees of two observations' patches, float [B, 2, P, D]."""
        if self.cfg.idm_input == "difference":
            next_BPD = self.idm_scale.compressed(next_BPD - obs_BPD)
        return torch.stack([obs_BPD, next_BPD], dim=1)
