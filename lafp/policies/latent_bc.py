"""Latent behavior cloning: the baseline, one latent action per observation."""

from dataclasses import dataclass

from torch import Tensor

from lafp.flow_matching.solver import StepsTaken
from lafp.losses.masked import masked_mean
from lafp.models.heads import mlp
from lafp.policies.base import NoiseSource, Policy, PolicyConfig
from lafp.types import LossOutput, ObsSpec, PolicyState


@dataclass(frozen=True, kw_only=True)
class LatentBcConfig(PolicyConfig):
    """Mean squared error on standardized latent actions."""

    name: str = "latent_bc"


class LatentBc(Policy):
    """z_t = MLP(h(o_t)), trained with MSE (LAPO, LAOM). It averages over modes."""

    Config = LatentBcConfig

    def __init__(self, cfg: LatentBcConfig, obs: ObsSpec, latent_action_dim: int) -> None:
        super().__init__(cfg, obs, latent_action_dim)
        self.head = mlp(self.embed_dim, cfg.hidden_dims, self.point_dim)

    @property
    def has_memory(self) -> bool:
        """Of the rest of a chunk, if there is one."""
        return self.cfg.chunk_steps > 1

    def loss_on(
        self, embedding: Tensor, latent_action: Tensor, has_step: Tensor | None
    ) -> LossOutput:
        """MSE in standardized units. See ``Policy.forward``."""
        target, is_present = self._training_target(latent_action, has_step)
        error = (self.head(embedding).float() - target).square()
        return LossOutput(loss=masked_mean(error, is_present))

    def plan_on(
        self, embedding: Tensor, state: PolicyState | None, noise: NoiseSource | None = None
    ) -> tuple[Tensor, PolicyState]:
        """Deterministic: neither state nor noise matters. See ``Policy``."""
        return self.restore(self.head(embedding)), PolicyState()

    def anchored_on(
        self,
        embedding: Tensor,
        latent_action: Tensor,
        anchor_time: float | Tensor,
        noise: NoiseSource | None = None,
        steps_taken: StepsTaken = "remaining",
    ) -> Tensor:
        """0: its own prediction; 1: the IDM latent, as projected. See ``Policy``."""
        if not isinstance(anchor_time, Tensor):
            if anchor_time == 0:
                return self.plan_on(embedding, None)[0]
            if anchor_time == 1:
                return self.projection.restore(self.projection.project(latent_action))
        raise ValueError(
            "latent_bc knows anchor_time 0 (its own prediction) and 1 (the raw IDM latent), got "
            f"{anchor_time}: between them lies no point of its making."
        )
