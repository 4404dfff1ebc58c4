"""LAOM: infer z_t so that the embedding of o_t and z_t predict the next observation's embedding."""

# Shape suffixes in this file: B windows, E embedding, Z latent action.

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lafp.config import Choice, choice
from lafp.config.ranges import check_at_least
from lafp.data.augment import AugmentConfig, augment_window
from lafp.losses.forward_dynamics import frame_loss, prediction_errors
from lafp.losses.masked import defined_if_weighted
from lafp.models import ENCODERS
from lafp.models.change_scale import ChangeScale
from lafp.models.ema import ema_update_
from lafp.models.encoders import StridedResnetConfig, init_orthogonal_
from lafp.models.fdm import EmbeddingFdm
from lafp.models.idm import EmbeddingIdm, HeadConfig, SecondInput
from lafp.objectives.base import MaskConfig, Objective, latent_metrics
from lafp.types import LossOutput, ObsSpec, Window

DEAD_STD = 1e-4
"""A unit of the embedding counts as dead if its standard deviation over a batch is at most this
share of the units' root mean square."""
PIXEL_STRIDE = 4
"""The spread of pixels is measured at every fourth of each direction: neighbours vary alike, and
all of them would take a tenth of the step of a small network."""


@dataclass(frozen=True, kw_only=True)
class LaomConfig:
    """LAOM (Nikulin et al., ICML 2025, arXiv:2502.00379). Defaults are the paper's.

    The paper's windows have ``frame_stack`` 3 and ``max_offset_steps`` 10.
    """

    name: str = "laom"
    latent_action_dim: int = 8192
    """Z, size of a latent action. LAOM takes a large one, and quantizes nothing."""
    encoder: Choice = choice(ENCODERS, default=StridedResnetConfig())
    """Use one that ends in a feature map. Half of the units of a ReLU vector died in training."""
    idm_input: SecondInput = "frame"
    """Second input of the IDM, through the same encoder: o_{t+k}'s frames (``frame``), or their
    ``difference`` to o_t's in units of the data's typical change."""
    idm: HeadConfig = field(default_factory=HeadConfig)
    fdm: HeadConfig = field(default_factory=HeadConfig)
    target_ema_decay: float = 0.999
    """Decay of the target encoder's moving average, per optimizer step. LAOM's ``target_tau`` is
    1 - decay. LAOM makes 98,000 steps; 1,000 steps need 0.99, or the target hardly moves."""
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    mask: MaskConfig | None = None
    """Set this ({} takes the defaults) to weigh the cells of the target map by masks of the agent.
    Needs an encoder that ends in a feature map."""

    def __post_init__(self) -> None:
        check_at_least(self, 1, "latent_action_dim")
        if self.idm_input == "difference" and self.augment.kinds:
            raise ValueError(
                "idm_input difference needs augment.kinds=[]: o_t and o_{t+k} are distorted "
                "independently, so their difference would show the distortions."
            )
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
        self.latent_action_dim, self.mask = cfg.latent_action_dim, cfg.mask
        self.encoder = ENCODERS.build(cfg.encoder, obs)
        if cfg.mask is not None and self.encoder.map_size is None:
            raise ValueError(
                f"mask needs an encoder that ends in a feature map (strided_resnet): encoder "
                f"{cfg.encoder.name} ends in a vector, none of whose units belong to the agent. "
                "Set mask to null, or take another encoder."
            )
        embed_dim = self.encoder.embed_dim
        self.idm = EmbeddingIdm(cfg.idm, embed_dim, cfg.latent_action_dim)
        self.fdm = EmbeddingFdm(cfg.fdm, embed_dim, cfg.latent_action_dim)
        init_orthogonal_(self)
        self.change_scale = ChangeScale()
        # After the initialization, because the target begins with the encoder's weights.
        self.target_encoder = copy.deepcopy(self.encoder).requires_grad_(False)

    def augment(self, window: Window) -> Window:
        """See ``Objective``."""
        return augment_window(window, self.cfg.augment)

    def forward(self, window: Window) -> LossOutput:
        """See ``Objective``."""
        obs_BE, second_BE = self._pair(window.obs, window.future_obs)
        latent_BZ = self.idm(obs_BE, second_BE)
        # Detached as in LAOM: the encoder learns through the IDM only.
        prediction_BE = self.fdm(obs_BE.detach(), latent_BZ)
        with torch.no_grad():
            target_BE = self.target_encoder(window.next_obs).float()
        weight_BE = self._weight(window)
        loss = frame_loss(prediction_BE, target_BE, weight_BE)
        variance = _variance(target_BE, weight_BE)
        # A collapsed target has no variance, and any error over none would be a huge number.
        explained = torch.where(variance > 1e-12, 1 - loss.detach() / variance, torch.nan)
        return LossOutput(
            loss=loss,
            metrics={
                "fdm_loss": defined_if_weighted(loss.detach(), weight_BE),
                "target_explained": explained,
                **embedding_metrics(target_BE, window.next_obs),
                **latent_metrics(latent_BZ.detach()),
                **self._errors(window, prediction_BE.detach(), target_BE, weight_BE),
            },
        )

    @torch.no_grad()
    def _errors(
        self, window: Window, prediction_BE: Tensor, target_BE: Tensor, weight_BE: Tensor | None
    ) -> dict[str, Tensor]:
        """Computes prediction errors, in eval mode only: they encode o_t once more."""
        if self.training:
            return {}
        copied_BE = self.target_encoder(window.obs)
        return prediction_errors(prediction_BE, copied_BE, target_BE, weight_BE)

    def _weight(self, window: Window) -> Tensor | None:
        """Returns the weights of the target's units, float [B, E].

        A unit of the map counts by the share of its cell that shows the agent. Its receptive field
        is larger than its cell, so it sees some of the background beside the agent.
        """
        weight = self.weight_of(window.next_mask)
        if weight is None or self.encoder.map_size is None:
            return None
        cells_B1hw = F.adaptive_avg_pool2d(weight, self.encoder.map_size)
        num_channels = self.encoder.embed_dim // cells_B1hw[0].numel()
        return cells_B1hw.expand(-1, num_channels, -1, -1).flatten(1)

    def infer_latent_action(self, obs: Tensor, next_obs: Tensor) -> Tensor:
        """See ``Objective``."""
        return self.idm(*self._pair(obs, next_obs))

    def measured(self, window: Window) -> list[tuple[ChangeScale, Tensor]]:
        """See ``Objective``."""
        if self.cfg.idm_input == "frame":
            return []
        return [(self.change_scale, window.future_obs - window.obs)]

    def embed(self, obs: Tensor) -> Tensor:
        """See ``Objective``. Returns the encoder's output."""
        return self.encoder(obs)

    def networks(self) -> Sequence[nn.Module]:
        """See ``Objective``."""
        return self.encoder, self.idm, self.fdm, self.target_encoder

    def after_step(self) -> None:
        """Moves the target encoder towards the encoder."""
        ema_update_(self.target_encoder, self.encoder, self.cfg.target_ema_decay)

    def _pair(self, obs: Tensor, future_obs: Tensor) -> tuple[Tensor, Tensor]:
        """Embeds o_t and what the IDM sees of o_{t+k}, in one pass."""
        second = future_obs
        if self.cfg.idm_input == "difference":
            second = self.change_scale.compressed(future_obs - obs)
        obs_BE, second_BE = self.encoder(torch.cat([obs, second])).chunk(2)
        return obs_BE, second_BE


def _variance(target_BE: Tensor, weight_BE: Tensor | None) -> Tensor:
    """Computes the variance of a unit over the batch, averaged by weight; NaN for one window."""
    if weight_BE is None:
        return _variances(target_BE).mean()
    # A tensor, because the division by 0 for one window then gives NaN and no error.
    num_windows = torch.full((), len(target_BE), device=target_BE.device)
    mean_BE = target_BE.mean(0).expand_as(target_BE)
    return frame_loss(target_BE, mean_BE, weight_BE) * num_windows / (num_windows - 1)


def _variances(values: Tensor) -> Tensor:
    """Computes ``values.var(0)``, which takes ten times as long on a CPU; NaN for one window."""
    return (values - values.mean(0)).square_().sum(0) / (len(values) - 1)


@torch.no_grad()
def embedding_metrics(target_BE: Tensor, obs: Tensor) -> dict[str, Tensor]:
    """Computes how much the embeddings of a batch differ.

    If they are equal, a small loss means nothing: a constant predicts them.

    Args:
        target_BE: Embeddings of the observations.
        obs: The observations, float [B, 3 F, H, W] in [-1, 1].

    Returns:
        ``target_std``, mean standard deviation of a unit; ``target_spread``, root of the mean
        variance of a unit over that of a pixel; ``target_dead_share``, share of the units that
        hardly vary compared with the others. All are NaN for a single window.
    """
    pixels = obs[:, :, ::PIXEL_STRIDE, ::PIXEL_STRIDE].float()
    variance_E, pixel_variance = _variances(target_BE), _variances(pixels).mean()
    variance = variance_E.mean()
    dead_share = (variance_E <= DEAD_STD**2 * variance).float().mean()
    return {
        "target_std": variance_E.sqrt().mean(),
        "target_spread": (variance / pixel_variance).sqrt(),
        "target_dead_share": torch.where(variance >= 0, dead_share, torch.nan),
    }
