"""Defines the module that trains in a policy's training, and one micro-batch of it."""

# Shape suffixes in this file: B windows, Z latent action.

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from lafp.models.standardizer import RangeStandardizer
from lafp.policies.base import Policy
from lafp.types import LossOutput


@dataclass(frozen=True, kw_only=True)
class PolicyInputs:
    """One micro-batch."""

    obs: Tensor
    """float [B, 3 F, H, W] in [-1, 1]."""
    latent_action: Tensor
    """The LAM's z_t, float [B, Z]; for policies that predict chunks z_t .. z_{t+H-1}, [B, H, Z]."""
    has_step: Tensor | None = None
    """bool [B, H]: which steps of a chunk lie inside their clip. Steps beyond its end repeat the
    last latent action and do not count in the loss."""
    vectors: Tensor | None = None
    """Vectors that the policy reads beside the image, float [B, V]; see ``ObsSpec.vector_dims``."""


class TrainedPolicy(nn.Module):
    """See ``TrainedModule``."""

    def __init__(self, policy: Policy) -> None:
        super().__init__()
        self.policy = policy

    def forward(self, inputs: PolicyInputs) -> LossOutput:
        """Computes the policy's loss, and metrics of its projection and its standardizer."""
        out: LossOutput = self.policy(
            inputs.obs, inputs.latent_action, inputs.has_step, inputs.vectors
        )
        projection, standardizer = self.policy.projection, self.policy.standardizer
        metrics = dict(out.metrics)
        if projection.num_fit_latents:
            metrics["projection_explained"] = projection.explained_variance
        if isinstance(standardizer, RangeStandardizer):
            metrics["centre_offset"] = standardizer.centre_offset
        return LossOutput(loss=out.loss, metrics=metrics)

    def networks(self) -> Sequence[nn.Module]:
        """See ``TrainedModule``."""
        return self.policy.networks()

    def after_step(self) -> None:
        """See ``TrainedModule``. Nothing is to be done."""

    def discard_step(self) -> None:
        """See ``TrainedModule``. Nothing is to be done."""
