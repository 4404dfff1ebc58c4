"""Latent flow policy whose head learns average velocities, so that sampling takes one step."""

# Shape suffixes in this file: N pairs of noise and data, D point.

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lafp.config.ranges import check_at_least
from lafp.flow_matching.mean_flow import AverageVelocity, integrate_average
from lafp.flow_matching.solver import StepsTaken
from lafp.losses.flow_matching import Space, mean_flow_loss
from lafp.policies.latent_flow import LatentFlow, LatentFlowConfig
from lafp.types import LossOutput


@dataclass(frozen=True, kw_only=True)
class LatentMeanFlowConfig(LatentFlowConfig):
    """MeanFlow on standardized latent actions. Keys of latent_flow have the same meaning here."""

    name: str = "latent_mean_flow"
    prediction: Space = "velocity"
    loss_space: Space = "velocity"
    num_solver_steps: int = 1
    """Steps from noise to data. More than one step hardly improves the samples."""
    interval_share: float = 0.25
    """Share of the draws with an interval longer than 0. The other draws train the velocity."""
    loss_power: float = 0.5
    """Strength with which samples of larger error count less; 0 weighs all alike. See
    ``mean_flow_loss``. The paper prefers 1, which made one mode too frequent at our forks."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.prediction, self.loss_space, self.solver) != ("velocity", "velocity", "euler"):
            raise ValueError(
                "latent_mean_flow predicts average velocities and needs no solver. Leave out "
                f"prediction, loss_space and solver; got {self.prediction}, {self.loss_space} and "
                f"{self.solver}."
            )
        if not 0.0 < self.interval_share <= 1.0:
            raise ValueError(f"interval_share must be in (0, 1], got {self.interval_share}.")
        check_at_least(self, 0, "loss_power")


class LatentMeanFlow(LatentFlow):
    """z_t = x_0 + u(x_0, 0, 1, h(o_t)), u the average velocity (Geng et al., arXiv:2505.13447).

    An anchored sample starts at tau_a and takes one step to 1, with u(x, tau_a, 1).
    """

    Config = LatentMeanFlowConfig
    num_times = 2

    def _loss(
        self, x_0_ND: Tensor, x_1_ND: Tensor, condition: Tensor, is_present: Tensor | None
    ) -> LossOutput:
        """Computes the MeanFlow loss of N pairs of noise and data.

        For ``interval_share`` of the pairs, the interval lies between two draws of the time. For
        the other pairs, it has length 0.
        """
        num, device = len(x_1_ND), x_1_ND.device
        first_N, second_N = self.time.sample(num, device), self.time.sample(num, device)
        has_length_N = torch.rand(num, device=device) < self.cfg.interval_share
        second_N = torch.where(has_length_N, second_N, first_N)
        loss = mean_flow_loss(
            self._average_velocity(condition),
            x_0_ND,
            x_1_ND,
            torch.minimum(first_N, second_N),
            torch.maximum(first_N, second_N),
            power=self.cfg.loss_power,
            is_present=is_present,
        )
        return LossOutput(loss=loss)

    def _solve(
        self,
        embedding: Tensor,
        x_BD: Tensor,
        start_time: float | Tensor,
        steps_taken: StepsTaken = "remaining",
    ) -> Tensor:
        return integrate_average(
            self._average_velocity(self.head.condition(embedding)),
            x_BD,
            start_time=start_time,
            num_steps=self.cfg.num_solver_steps,
            steps_taken=steps_taken,
        )

    def networks(self) -> Sequence[nn.Module]:
        """See ``Policy``. torch.compile cannot trace the derivative of the head in the loss."""
        return (self.encoder,)

    def _average_velocity(self, condition: Tensor) -> AverageVelocity:
        def average_velocity(x_t: Tensor, t: Tensor, s: Tensor) -> Tensor:
            return self.head(x_t, torch.stack([t, s - t], dim=1), condition).float()

        return average_velocity
