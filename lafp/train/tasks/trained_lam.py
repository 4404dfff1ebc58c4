"""Defines the module that trains in a LAM's training: objective and head of the supervision."""

from collections.abc import Mapping, Sequence
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
        self,
        objective: Objective,
        supervision: SupervisionConfig,
        action: ActionSpec | None,
        fdm_weight: float = 1.0,
    ) -> None:
        super().__init__()
        self.objective, self.fdm_weight = objective, fdm_weight
        self.supervision_weight = supervision.weight
        self.action_head = None
        if action is not None:
            latent_dim = objective.latent_action_dim
            self.action_head = ActionHead(supervision.head, action, latent_dim)

    def forward(self, inputs: LamInputs) -> LossOutput:
        """Computes fdm_weight * L_objective + weight * error of the labeled windows' actions."""
        out: LossOutput = self.objective(inputs.window)
        # Not left out if its weight is 0: DDP needs a gradient, here of zeros, for every parameter.
        loss, metrics = self.fdm_weight * out.loss, about_what_trains(out.metrics, self.fdm_weight)
        if inputs.labeled is not None:
            supervision_loss = self._supervision_loss(inputs.labeled)
            weighted = self.supervision_weight * supervision_loss
            loss = loss + weighted
            metrics["supervision_loss"] = supervision_loss.detach()
            if self.fdm_weight > 0:
                metrics["supervision_share"] = (weighted / loss).detach()
        return LossOutput(loss=loss, metrics=metrics)

    def networks(self) -> Sequence[nn.Module]:
        """See ``TrainedModule``."""
        return self.objective.networks()

    def after_step(self) -> None:
        """See ``TrainedModule``."""
        self.objective.after_step()

    def discard_step(self) -> None:
        """See ``TrainedModule``."""
        self.objective.discard_step()

    def _supervision_loss(self, labeled: Window) -> Tensor:
        assert self.action_head is not None and labeled.true_action is not None
        latent_action = self.objective.infer_latent_action(labeled.obs, labeled.future_obs)
        if self.action_head.cfg.reads == "quantized":
            latent_action = self.objective.quantize(latent_action)
        predicted = self.action_head(latent_action)
        return action_loss(predicted, labeled.true_action, self.action_head.action)


def about_what_trains(metrics: Mapping[str, Tensor], fdm_weight: float) -> dict[str, Tensor]:
    """Drops the metrics of the FDM's predictions if no loss trains the FDM."""
    untrained = () if fdm_weight > 0 else ("fdm_error", "copy_error", "target_explained")
    return {name: value for name, value in metrics.items() if name not in untrained}
