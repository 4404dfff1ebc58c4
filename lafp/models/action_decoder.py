"""Action decoder: latent action -> the true action of one embodiment."""

# Shape suffixes in this file: B batch, E embedding, Z latent action, A true action.

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lafp.models.heads import mlp
from lafp.models.standardizer import LatentStandardizer
from lafp.types import ActionSpec


@dataclass(frozen=True, kw_only=True)
class ActionDecoderConfig:
    """A small MLP. LAPO has three layers of 192, 128 and 64, LAOM two of 256."""

    hidden_dims: tuple[int, ...] = (256, 256)
    """Widths of the hidden layers; none makes a linear map."""
    use_obs_embedding: bool = False
    """Also read the policy's h(o_t), for latent actions that leave the state's part out."""

    def __post_init__(self) -> None:
        if any(width < 1 for width in self.hidden_dims):
            raise ValueError(f"hidden_dims must be positive, got {self.hidden_dims}.")


class ActionDecoder(nn.Module):
    """a_t = MLP(z_t) or MLP([z_t, h(o_t)]).

    Continuous actions come out of a tanh in normalized units, so they keep to the environment's
    bounds; discrete ones as logits. Latent actions go in in the LAM's own units, whatever their
    scale: their statistics are learned with the weights.
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
            embedding: The policy's h(o_t), [B, E]; read only with ``use_obs_embedding``.

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

    def decode(self, latent_action: Tensor, embedding: Tensor) -> Tensor:
        """As ``forward``, in the environment's units: float32 [B, A], or int64 [B] choices."""
        outputs = self(latent_action, embedding)
        if self.action.is_discrete:
            return outputs.argmax(dim=1)
        return self.action.denormalize(outputs)


class TrueActions(nn.Module):
    """In the place of an action decoder, for a policy of true actions: only their units change."""

    def __init__(self, action: ActionSpec) -> None:
        super().__init__()
        self.action = action

    def decode(self, latent_action: Tensor, embedding: Tensor) -> Tensor:
        """Normalized actions as a policy predicts them -> the environment's units, in bounds.

        Args:
            latent_action: float [B, A].
            embedding: Not read.

        Returns:
            float32 [B, A].
        """
        return self.action.denormalize(latent_action.float().clamp(-1, 1))
