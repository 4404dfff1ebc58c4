"""Action decoder: maps latent actions to the true actions of one embodiment."""

# Shape suffixes in this file: B batch, E embedding, Z latent action, A true action.

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lafp.models.heads import mlp
from lafp.models.standardizer import LatentStandardizer
from lafp.types import ActionSpec


@dataclass(frozen=True, kw_only=True)
class ActionDecoderConfig:
    """Settings of a small MLP. LAPO has three layers of 192, 128 and 64, LAOM two of 256."""

    hidden_dims: tuple[int, ...] = (256, 256)
    """Widths of the hidden layers; an empty list makes a linear map."""
    use_obs_embedding: bool = False
    """Also read the policy's h(o_t), for latent actions that lack information about the state."""

    def __post_init__(self) -> None:
        if any(width < 1 for width in self.hidden_dims):
            raise ValueError(f"hidden_dims must be positive, got {self.hidden_dims}.")


class ActionDecoder(nn.Module):
    """Decodes actions: a_t = MLP(z_t) or MLP([z_t, h(o_t)]).

    Continuous actions are the output of a tanh in normalized units, so they stay within the
    environment's bounds. Discrete actions are logits. Latent actions are read in the LAM's own
    units and standardized by statistics that are learned with the weights.
    """

    Config = ActionDecoderConfig

    def __init__(
        self,
        cfg: ActionDecoderConfig,
        action: ActionSpec,
        latent_action_dim: int,
        embed_dim: int,
    ) -> None:
        super().__init__()
        self.cfg, self.action = cfg, action
        self.standardizer = LatentStandardizer(latent_action_dim)
        in_dim = latent_action_dim + (embed_dim if cfg.use_obs_embedding else 0)
        self.layers = mlp(in_dim, cfg.hidden_dims, action.dim)

    def forward(self, latent_action: Tensor, embedding: Tensor) -> Tensor:
        """Predicts actions in normalized units.

        Args:
            latent_action: z_t in the LAM's units, float [B, Z].
            embedding: The policy's h(o_t), [B, E]; only used with ``use_obs_embedding``.

        Returns:
            float32 [B, A]: continuous actions in [-1, 1], or logits of the A choices.
        """
        if self.training:
            self.standardizer.update(latent_action)
        inputs = self.standardizer.standardize(latent_action)
        if self.cfg.use_obs_embedding:
            inputs = torch.cat([inputs, embedding.float()], dim=1)
        outputs = self.layers(inputs).float()
        return outputs if self.action.is_discrete else outputs.tanh()

    def decode(
        self, latent_action: Tensor, embedding: Tensor, gumbel: Tensor | None = None
    ) -> Tensor:
        """Predicts actions in the environment's units.

        Args:
            latent_action: See ``forward``.
            embedding: See ``forward``.
            gumbel: See ``ActionSpec.decode``.

        Returns:
            float32 [B, A], or for discrete actions int64 [B].
        """
        return self.action.decode(self(latent_action, embedding), gumbel)


class TrueActions(nn.Module):
    """Replaces the action decoder of a policy that predicts true actions: changes their units."""

    def __init__(self, action: ActionSpec) -> None:
        super().__init__()
        self.action = action

    def decode(
        self, latent_action: Tensor, embedding: Tensor, gumbel: Tensor | None = None
    ) -> Tensor:
        """Maps predicted actions from normalized units to the environment's, and clips them.

        Args:
            latent_action: The policy's action in normalized units, float [B, A].
            embedding: Is not read.
            gumbel: See ``ActionSpec.decode``.

        Returns:
            float32 [B, A].
        """
        return self.action.decode(latent_action.float(), gumbel)
