"""Latent behavior cloning, the baseline that predicts one latent action per observation."""

from dataclasses import dataclass

from torch import Tensor

from lafp.flow_matching.solver import StepsTaken
from lafp.losses.masked import masked_mean
from lafp.models.heads import mlp
from lafp.policies.base import NoiseSource, Policy, PolicyConfig
from lafp.types import LossOutput, ObsSpec, PolicyState

_ANCHORS = "latent_bc supports anchor_time 0 (its own prediction) and 1 (the IDM latent)"


@dataclass(frozen=True, kw_only=True)
class LatentBcConfig(PolicyConfig):
    """Behavior cloning with the mean squared error on standardized latent actions."""

    name: str = "latent_bc"


class LatentBc(Policy):
    """z_t = MLP(h(o_t)), trained with MSE (LAPO, LAOM), so that it averages over modes."""

    Config = LatentBcConfig

    def __init__(self, cfg: LatentBcConfig, obs: ObsSpec, latent_action_dim: int) -> None:
        super().__init__(cfg, obs, latent_action_dim)
        self.head = mlp(self.embed_dim, cfg.hidden_dims, self.point_dim)

    @classmethod
    def check_anchors(cls, low: float, high: float) -> None:
        """See ``Policy``."""
        if low != high or low not in (0, 1):
            raise ValueError(f"{_ANCHORS} only, got {low if low == high else (low, high)}.")

    @property
    def has_memory(self) -> bool:
        """True with chunks: a step then depends on the chunk that was predicted before."""
        return self.cfg.chunk_steps > 1

    def loss_from_embedding(
        self, embedding: Tensor, latent_action: Tensor, has_step: Tensor | None
    ) -> LossOutput:
        """Computes the MSE in standardized units. See ``Policy.forward``."""
        target, is_present = self.training_target(latent_action, has_step)
        error = (self.head(embedding).float() - target).square()
        return LossOutput(loss=masked_mean(error, is_present))

    def chunk_from_embedding(
        self, embedding: Tensor, state: PolicyState | None, noise: NoiseSource | None = None
    ) -> tuple[Tensor, PolicyState]:
        """See ``Policy``. The prediction is deterministic: state and noise have no effect."""
        return self.denormalize(self.head(embedding)), PolicyState()

    def anchored_from_embedding(
        self,
        embedding: Tensor,
        latent_action: Tensor,
        anchor_time: float | Tensor,
        noise: NoiseSource | None = None,
        steps_taken: StepsTaken = "remaining",
    ) -> Tensor:
        """See ``Policy``. Time 0 gives the policy's prediction, 1 the projected IDM latent."""
        if isinstance(anchor_time, Tensor):
            raise ValueError(f"{_ANCHORS} only, got one for each sample.")
        self.check_anchors(anchor_time, anchor_time)
        if anchor_time == 0:
            return self.chunk_from_embedding(embedding, None)[0]
        return self.projection.unproject(self.projection.project(latent_action))
