"""Defines the module that trains in an action decoder's training: decoder and tuned policy."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from torch import Tensor, nn

from lafp.config import ConfigError
from lafp.flow_matching.solver import StepsTaken
from lafp.losses.action import action_loss
from lafp.models.action_decoder import ActionDecoder
from lafp.policies.base import Policy
from lafp.train.transitions import Transitions, anchored_latents
from lafp.types import LossOutput


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig:
    """Says which layers of the policy train together with its action decoder.

    These are the rows of LAFP's tables with a fine-tuned policy.
    """

    policy_layers: Literal["head", "last", "all"] = "head"
    """``head``: the policy's head. ``last``: only the last layer of the head. ``all``: all layers,
    those of the image encoder included."""


@dataclass(frozen=True, kw_only=True)
class DecoderInputs:
    """One micro-batch."""

    transitions: Transitions
    """B transitions, seen through the frozen models."""
    latent_action: Tensor | None
    """The frozen policy's latent actions near the demonstrated ones, float [B, Z]. None if the
    policy is trained too, because it then draws them in the forward pass."""
    obs: Tensor | None = None
    """o_t, float [B, 3 F, H, W]; only if the policy's encoder is trained too."""
    vectors: Tensor | None = None
    """Vectors that the policy reads beside the image, float [B, V]; given together with ``obs``."""


class TrainedDecoder(nn.Module):
    """See ``TrainedModule``. The loss is MSE in normalized units, or cross-entropy if discrete.

    Args:
        action_decoder: The decoder.
        anchors: Range of anchor times; see ``TrainDecoderConfig.anchor_time``.
        steps_taken: See ``TrainDecoderConfig.anchor_steps``.
        policy: The policy if it is trained too. Only its trained layers have gradients.
    """

    def __init__(
        self,
        action_decoder: ActionDecoder,
        anchors: tuple[float, float],
        steps_taken: StepsTaken,
        policy: Policy | None = None,
    ) -> None:
        super().__init__()
        self.action_decoder, self.policy = action_decoder, policy
        self._anchors, self._steps_taken = anchors, steps_taken

    def forward(self, inputs: DecoderInputs) -> LossOutput:
        """Computes the error of the predicted actions."""
        transitions, latent_action = inputs.transitions, inputs.latent_action
        if latent_action is None:
            assert self.policy is not None
            if inputs.obs is not None:
                embedding = self.policy.encode(inputs.obs, inputs.vectors).float()
                transitions = replace(transitions, embedding=embedding, chunk_embedding=embedding)
            latent_action = anchored_latents(
                self.policy, transitions, self._anchors, self._steps_taken
            )
        predicted = self.action_decoder(latent_action, transitions.embedding)
        action = self.action_decoder.action
        return LossOutput(loss=action_loss(predicted, transitions.true_action, action))

    def networks(self) -> Sequence[nn.Module]:
        """See ``TrainedModule``. A decoder is too small to gain by compiling."""
        return ()

    def after_step(self) -> None:
        """See ``TrainedModule``. Nothing is to be done."""

    def discard_step(self) -> None:
        """See ``TrainedModule``. Nothing is to be done."""


def tuned_copy(policy: Policy, cfg: FinetuneConfig) -> Policy:
    """Copies the policy, with gradients for the layers that are to be trained.

    Raises:
        ConfigError: The encoder is to be trained, but the policy executes several steps of a chunk:
            the encoder would then see other observations than those at which chunks are made.
    """
    if cfg.policy_layers == "all" and policy.cfg.execute_steps > 1:
        raise ConfigError(
            f"finetune.policy_layers is all, but the policy executes {policy.cfg.execute_steps} "
            "steps of a chunk. Fine-tune its head, or a policy with execute_steps=1."
        )
    tuned = copy.deepcopy(policy)
    for parameter in tuned.layers(cfg.policy_layers):
        parameter.requires_grad_(True)
    return tuned
