"""The interface of latent action models: a loss over windows, and z for pairs of observations."""

# Shape suffixes in this file: B windows, Z latent action.

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lafp.models.bottlenecks.base import Bottleneck
from lafp.models.change_scale import ChangeScale
from lafp.models.moments import Moments
from lafp.types import LossOutput, ObsSpec, Window

NEAR_NULL = 0.1
"""A latent counts as near-null if its distance to the batch's mean is at most this share of the
RMS distance."""

COLLAPSED_SPREAD = 1e-3
"""Latents count as constant if their RMS distance to their mean is below this share of their RMS
norm."""


@dataclass(frozen=True, kw_only=True)
class MaskConfig:
    """Weighs what the FDM predicts by masks of the agent, so that distractors cost nothing.

    This is MaskLAM (arXiv:2602.02259). The pixels that show the agent in either of the two frames
    have the weight 1. Each window's error is divided by the sum of its weights. Without any weight,
    where no pixel shows the agent and ``background_weight`` is 0, a window does not count. The IDM
    sees whole frames. Needs shards with masks (`masks` of preprocess); clips without a mask count
    in full.
    """

    background_weight: float = 0.0
    """Weight of all other pixels."""
    fraction: float = 1.0
    """Share of the training clips whose masks are used, drawn by ``train.seed``, to find out how
    many masks are needed. The other clips count as without masks. A larger share of the same seed
    holds a smaller one."""

    def __post_init__(self) -> None:
        if not 0 <= self.background_weight <= 1:
            raise ValueError(f"background_weight must be in [0, 1], got {self.background_weight}.")
        if not 0 < self.fraction <= 1:
            raise ValueError(
                f"fraction must be in (0, 1], got {self.fraction}. To train without masks, set "
                "mask to null."
            )


class Objective(nn.Module, ABC):
    """A latent action model with its training loss.

    A subclass has a file of its own, with its config and its class.
    """

    Config: Any
    latent_action_dim: int
    """Z, size of the latent actions that ``infer_latent_action`` returns."""
    optical_flow_size_px: tuple[int, int] | None = None
    """Height and width of the optical flow that windows must have; None if it is not needed."""

    mask: MaskConfig | None = None
    """How masks of the agent weigh the loss; None if they do not."""

    def __init__(self, cfg: Any, obs: ObsSpec) -> None:
        super().__init__()
        self.cfg, self.obs = cfg, obs

    @abstractmethod
    def forward(self, window: Window) -> LossOutput:
        """Computes the loss of a batch of windows, and metrics of its parts."""

    @abstractmethod
    def infer_latent_action(self, obs: Tensor, next_obs: Tensor) -> Tensor:
        """Infers z_t, which policies learn to predict, before any quantization or noise.

        Gradients flow if they are enabled, so that action supervision reaches the IDM.

        Args:
            obs: o_t, float [B, 3 F, H, W] in [-1, 1].
            next_obs: o_{t+1}, same shape.

        Returns:
            z_t, float [B, Z].
        """

    def quantize(self, latent_action: Tensor) -> Tensor:
        """Maps latent actions to those that the FDM sees; the same ones without a bottleneck.

        Args:
            latent_action: z_t as ``infer_latent_action`` returns it, float [B, Z].
        """
        return latent_action

    @abstractmethod
    def embed(self, obs: Tensor) -> Tensor:
        """Embeds o_t alone, as the control of the linear probe.

        If true actions are predicted no better from latent actions than from this embedding, the
        latent actions add no information about them.

        Args:
            obs: o_t, float [B, 3 F, H, W] in [-1, 1].

        Returns:
            float [B, E].
        """

    def measured(self, window: Window) -> list[tuple[ChangeScale, Tensor]]:
        """Pairs each ``ChangeScale`` of the model with the values whose size it must learn.

        ``ChangeScale`` says why a model reads or predicts changes in such units. The default is an
        empty list, for a model that does not.
        """
        del window
        return []

    def weight_of(self, mask: Tensor | None) -> Tensor | None:
        """Returns the weight of each pixel in the loss, float [B, 1, H, W]; None if all are equal.

        Args:
            mask: Mask of a window, float [B, 1, H, W]; None if its clips have none.
        """
        if self.mask is None or mask is None:
            return None
        return self.mask.background_weight + (1 - self.mask.background_weight) * mask

    @torch.no_grad()
    def fit_scales(self, windows: Iterable[Window]) -> None:
        """Measures the typical change of the data before the first step. All ranks must call it.

        Args:
            windows: This rank's share of the first batches.
        """
        moments: dict[ChangeScale, Moments] = {}
        for window in windows:
            measured = self.measured(window)
            if not measured:
                return
            for scale, change in measured:
                moments.setdefault(scale, Moments()).add(scale.log_rms(change))
        for scale, of_scale in moments.items():
            of_scale.all_reduce()
            scale.fit(of_scale)

    def take_scales(self, other: "Objective") -> None:
        """Copies the scales of a model of the same config, but not its weights.

        A control with random weights then differs by its weights alone.
        """
        for ours, theirs in zip(self.modules(), other.modules(), strict=True):
            if isinstance(ours, ChangeScale):
                ours.load_state_dict(theirs.state_dict())

    def augment(self, window: Window) -> Window:
        """Augments a window for training, without gradients."""
        return window

    def networks(self) -> Sequence[nn.Module]:
        """Returns the parts that take most of the time, which ``train.compile`` compiles.

        They may not change anything of themselves in a forward pass. The default is none.
        """
        return ()

    def after_step(self) -> None:
        """Does work after an optimizer step, e.g. the EMA of a target encoder.

        The loop calls it after each step.
        """
        return

    def discard_step(self) -> None:
        """Drops what the forward passes of a step collected.

        The loop calls it instead of ``after_step`` if a step is skipped because it is not finite.
        """
        for module in self.modules():
            if isinstance(module, Bottleneck):
                module.discard_step()


@torch.no_grad()
def latent_metrics(latent_BZ: Tensor) -> dict[str, Tensor]:
    """Computes norm, spread, effective rank and share of near-null latent actions of a batch.

    The effective rank is the participation ratio of the covariance's spectrum,
    (sum_i l_i)^2 / sum_i l_i^2. It is 1 if all latents lie on a line, and Z (or B - 1) if they
    spread evenly. It is computed from traces, so it costs one B x B product and no decomposition.

    Returns:
        Scalars by the name of the metric. Undefined ones are NaN, and metrics leave NaN out: all
        but the norm for a single latent, and the rank if all latents are equal.
    """
    centred_BZ = latent_BZ.float() - latent_BZ.float().mean(0)
    # The rank is a ratio of fourth powers, for which bf16 has too few digits.
    with torch.autocast(latent_BZ.device.type, enabled=False):
        gram_BB = centred_BZ @ centred_BZ.T
    squared_distance_B = gram_BB.diagonal()
    total = squared_distance_B.sum()
    if len(latent_BZ) == 1:  # a single latent equals the mean, so the spread is undefined
        total = torch.full_like(total, torch.nan)
    eps = torch.finfo(torch.float32).tiny
    is_near_null_B = squared_distance_B <= NEAR_NULL**2 * total / len(latent_BZ)
    return {
        "latent/norm": latent_BZ.float().norm(dim=1).mean(),
        "latent/std": (total / latent_BZ.numel()).sqrt(),
        "latent/spread": (total / latent_BZ.float().square().sum().clamp_min(eps)).sqrt(),
        "latent/effective_rank": total.square() / gram_BB.square().sum(),
        # NaN is not >= 0, so a single latent has no share.
        "latent/near_null_share": torch.where(total >= 0, is_near_null_B.float().mean(), torch.nan),
    }
