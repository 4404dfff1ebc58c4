"""Defines the module that trains in a LAM's training: objective and head of the supervision."""

from dataclasses import dataclass

from torch import Tensor, nn

from lafp.losses.action import action_loss
from lafp.models.action_head import ActionHead
from lafp.objectives.base import Objective
from lafp.train.tasks.lam_sections import SupervisionConfig
from lafp.types import ActionSpec, LossOutput, Window


@dataclass(frozen=True, kw_only=True)
class LamInputs:
    """One micro-batch."""

    window: Window
    labeled: Window | None
    """Windows with actions, for supervision."""


class TrainedLam(nn.Module):
    """Holds the objective, and the action head if there is supervision. See ``TrainedModule``."""

    def __init__(
        self, objective: Objective, supervision: SupervisionConfig, action: ActionSpec | None
    ) -> None:
        super().__init__()
        self.objective = objective
        self.supervision_weight = supervision.weight
        self.action_head = None
        if action is not None:
            latent_dim = objective.latent_action_dim
            self.action_head = ActionHead(supervision.head, action, latent_dim)

    def forward(self, inputs: LamInputs) -> LossOutput:
        """Computes L_objective + weight * error of the labeled windows' predicted actions."""
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
        assert self.action_head is not None and labeled.true_action is not None
        latent_action = self.objective.label(labeled.obs, labeled.next_obs)
        if self.action_head.cfg.reads == "quantized":
            latent_action = self.objective.quantize(latent_action)
        predicted = self.action_head(latent_action)
        return action_loss(predicted, labeled.true_action, self.action_head.action)
