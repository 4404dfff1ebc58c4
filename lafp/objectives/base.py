"""What every latent action model is: a loss over windows, and labels for pairs of observations."""

# Shape suffixes in this file: B windows, Z latent action.

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from lafp.models.change_scale import ChangeScale
from lafp.models.moments import Moments
from lafp.models.quantizers import Bottleneck
from lafp.types import LossOutput, ObsSpec, Window

NEAR_NULL = 0.1
"""A latent nearer to the batch's mean than this share of the RMS distance counts as near-null."""

COLLAPSED_SPREAD = 1e-3
"""Latents whose RMS distance from their mean is below this share of their RMS norm are constant."""


class Objective(nn.Module, ABC):
    """A latent action model with its training loss. Subclasses: one file, Config and class."""

    Config: Any
    latent_action_dim: int
    """Z, the size of what ``label`` returns."""
    needs_supervision: bool = False
    """Whether it learns from labels alone."""
    flow_size_px: tuple[int, int] | None = None
    """Height and width of the flow that windows must carry; None needs none."""

    def __init__(self, cfg: Any, obs: ObsSpec) -> None:
        super().__init__()
        self.cfg, self.obs = cfg, obs

    @abstractmethod
    def forward(self, window: Window) -> LossOutput:
        """Loss of a batch of windows, and metrics of its parts."""

    @abstractmethod
    def label(self, obs: Tensor, next_obs: Tensor) -> Tensor:
        """Infers z_t, what the policy learns to predict.

        Before any quantization or bottleneck noise. With gradients where they are enabled, so
        that action supervision reaches the IDM.

        Args:
            obs: o_t, float [B, 3 F, H, W] in [-1, 1].
            next_obs: o_{t+1}, same shape.

        Returns:
            z_t, float [B, Z].
        """

    @abstractmethod
    def embed(self, obs: Tensor) -> Tensor:
        """What the model sees in o_t alone: float [B, 3 F, H, W] -> [B, E].

        The control of the linear probe: a latent action that predicts no better than this holds
        nothing about the action that the observation did not hold already.
        """

    def measured(self, window: Window) -> list[tuple[ChangeScale, Tensor]]:
        """The model's scales, each with the change that it is to measure in a batch of windows."""
        del window
        return []

    @torch.no_grad()
    def fit_scales(self, windows: Iterable[Window]) -> None:
        """Measures the data's change, before the first step. All ranks call it.

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
        """Takes over what a model of the same config knows of the data, but none of its weights."""
        for ours, theirs in zip(self.modules(), other.modules(), strict=True):
            if isinstance(ours, ChangeScale):
                ours.load_state_dict(theirs.state_dict())

    def augment(self, window: Window) -> Window:
        """The window as this objective wants to be trained on it. Without gradients."""
        return window

    def after_step(self) -> None:
        """Called after each optimizer step, e.g. for the EMA of a target encoder."""
        return

    def forget_step(self) -> None:
        """Called instead of ``after_step`` where a step is skipped because it is not finite."""
        for module in self.modules():
            if isinstance(module, Bottleneck):
                module.forget_step()


@torch.no_grad()
def latent_metrics(latent_BZ: Tensor) -> dict[str, Tensor]:
    """Is the latent alive? Norm, effective rank and share of near-null actions of a batch.

    The effective rank is the participation ratio of the covariance's spectrum,
    (sum_i l_i)^2 / sum_i l_i^2: 1 when all latents lie on a line, Z (or B - 1) when they spread
    evenly. Computed from traces, so it costs one B x B product and no decomposition.

    Returns:
        What is undefined is NaN, which metrics leave out: all but the norm for a single latent,
        the rank where all latents are equal.
    """
    centred_BZ = latent_BZ.float() - latent_BZ.float().mean(0)
    with torch.autocast(latent_BZ.device.type, enabled=False):
        gram_BB = centred_BZ @ centred_BZ.T
    squared_distance_B = gram_BB.diagonal()
    total = squared_distance_B.sum()
    if len(latent_BZ) == 1:  # it is its own mean, and says nothing about a spread
        total = torch.full_like(total, torch.nan)
    eps = torch.finfo(torch.float32).tiny
    is_near_null_B = squared_distance_B <= NEAR_NULL**2 * total / len(latent_BZ)
    return {
        "latent/norm": latent_BZ.float().norm(dim=1).mean(),
        "latent/std": (total / latent_BZ.numel()).sqrt(),
        "latent/spread": (total / latent_BZ.float().square().sum().clamp_min(eps)).sqrt(),
        "latent/effective_rank": total.square() / gram_BB.square().sum(),
        "latent/near_null_share": torch.where(total >= 0, is_near_null_B.float().mean(), torch.nan),
    }
