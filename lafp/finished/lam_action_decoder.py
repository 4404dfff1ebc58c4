"""Acts with the action head of a finished latent action model, without an action decoder."""

import torch
from torch import Tensor, nn

from lafp import storage
from lafp.config import ConfigError, config_from_dict
from lafp.finished.saved_model import ACTION_HEAD, load_model, read_card
from lafp.models.action_head import ActionHead, ActionHeadConfig
from lafp.objectives import OBJECTIVES
from lafp.objectives.base import Objective
from lafp.types import ActionSpec, ObsSpec


class LamActionDecoder(nn.Module):
    """Decodes latent actions with the head that was trained inside the LAM (LAFP's IDM-AD).

    Args:
        head: The action head.
        objective: The LAM, whose bottleneck a head that reads quantized latents needs.
    """

    def __init__(self, head: ActionHead, objective: Objective | None) -> None:
        super().__init__()
        self.head, self.objective = head, objective

    @property
    def action(self) -> ActionSpec:
        """Dimensions of an action, and their bounds in the environment's units."""
        return self.head.action

    def decode(
        self, latent_action: Tensor, embedding: Tensor, gumbel: Tensor | None = None
    ) -> Tensor:
        """Decodes actions in the environment's units: float32 [B, A], or int64 [B] choices.

        Args:
            latent_action: float [B, Z].
            embedding: Is not read.
            gumbel: See ``ActionSpec.decode``.
        """
        if self.objective is not None:
            latent_action = self.objective.quantize(latent_action)
        return self.head.decode(latent_action, gumbel)


def load_objective(uri: str, device: torch.device | str = "cpu") -> Objective:
    """Loads the model of a finished LAM, frozen and in eval mode.

    Raises:
        ConfigError: There is no finished LAM at ``uri``, or this version does not read it.
    """
    card, weights = load_model(uri, "lam")
    objective_class = OBJECTIVES.get(card["config"]["name"])
    config = config_from_dict(objective_class.Config, card["config"])
    objective: Objective = objective_class(config, config_from_dict(ObsSpec, card["specs"]["obs"]))
    objective.load_state_dict(weights)
    return objective.to(device).eval().requires_grad_(False)


def load_lam_action_decoder(uri: str, device: torch.device | str = "cpu") -> LamActionDecoder:
    """Loads the action head of the finished LAM in the folder ``uri``.

    Raises:
        ConfigError: The LAM was trained without action supervision, or its head is of another LAM.
    """
    head_uri = storage.join(uri, ACTION_HEAD)
    if not storage.is_file(storage.join(head_uri, "model.json")):
        raise ConfigError(
            f"The LAM at {uri} has no action head: it was trained without action supervision. "
            "Train it with supervision.weight above 0 and labeled_shards, or name an action "
            "decoder instead of idm."
        )
    card, weights = load_model(head_uri, "action_head")
    specs = card["specs"]
    if specs["lam_sha256"] != read_card(uri, "lam")["weights_sha256"]:
        raise ConfigError(
            f"The action head in {head_uri} belongs to another LAM than {uri}. Copy the whole "
            "folder of one LAM, or train the LAM again."
        )
    head = ActionHead(
        config_from_dict(ActionHeadConfig, card["config"]),
        config_from_dict(ActionSpec, specs["action"]),
        specs["latent_action_dim"],
    )
    head.load_state_dict(weights)
    objective = load_objective(uri, device) if head.cfg.reads == "quantized" else None
    return LamActionDecoder(head.to(device), objective).eval().requires_grad_(False)
