"""What trains in a LAM's training: the objective, and the head of its supervision."""

# Shape suffixes in this file: B windows, A true action.

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from lafp.objectives.base import Objective
from lafp.types import ActionSpec, LossOutput, Window


@dataclass(frozen=True, kw_only=True)
class LamInputs:
    """One micro-batch."""

    window: Window
    labeled: Window | None
    """Windows with actions, for supervision."""


class TrainedLam(nn.Module):
    """See ``TrainedModule``. The objective, and a linear action head when there is supervision."""

    def __init__(
        self, objective: Objective, supervision_weight: float, action: ActionSpec | None
    ) -> None:
        super().__init__()
        self.objective = objective
        self.supervision_weight, self.action = supervision_weight, action
        self.action_head = None
        if action is not None:
            self.action_head = nn.Linear(objective.latent_action_dim, action.dim)

    def forward(self, inputs: LamInputs) -> LossOutput:
        """L_objective + weight * error of the labeled windows' predicted actions."""
        out: LossOutput = self.objective(inputs.window)
        if inputs.labeled is None:
            return out
        supervision_loss = self._supervision_loss(inputs.labeled)
        return LossOutput(
            loss=out.loss + self.supervision_weight * supervision_loss,
            metrics={**out.metrics, "supervision_loss": supervision_loss.detach()},
        )

    def after_step(self) -> None:
        """See ``TrainedModule``."""
        self.objective.after_step()

    def discard_step(self) -> None:
        """See ``TrainedModule``."""
        self.objective.discard_step()

    def _supervision_loss(self, labeled: Window) -> Tensor:
        """MSE in normalized units; cross-entropy for discrete actions."""
        assert self.action is not None and self.action_head is not None
        assert labeled.true_action is not None
        latent_action = self.objective.label(labeled.obs, labeled.next_obs)
        predicted_BA = self.action_head(latent_action).float()
        if self.action.is_discrete:
            return F.cross_entropy(predicted_BA, labeled.true_action)
        return F.mse_loss(predicted_BA, self.action.normalize(labeled.true_action))
