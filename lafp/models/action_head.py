"""The head that predicts true actions inside a latent action model's training."""

# Shape suffixes in this file: B batch, Z latent action, A true action.

from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from lafp.models.heads import mlp
from lafp.types import ActionSpec


@dataclass(frozen=True, kw_only=True)
class ActionHeadConfig:
    """Configures the head. LAOM has a linear one on z, LAFP an MLP on the quantized z."""

    hidden_dims: tuple[int, ...] = ()
    """Widths of the hidden layers; none makes a linear map."""
    reads: Literal["latent", "quantized"] = "latent"
    """The head reads z before the bottleneck, or as the forward dynamics model sees it."""

    def __post_init__(self) -> None:
        if any(width < 1 for width in self.hidden_dims):
            raise ValueError(f"hidden_dims must be positive, got {self.hidden_dims}.")


class ActionHead(nn.Module):
    """a_t = MLP(z_t), in normalized units for continuous actions, as logits for discrete ones."""

    Config = ActionHeadConfig

    def __init__(self, cfg: ActionHeadConfig, action: ActionSpec, latent_action_dim: int) -> None:
        super().__init__()
        self.cfg, self.action = cfg, action
        self.layers = mlp(latent_action_dim, cfg.hidden_dims, action.dim)

    def forward(self, latent_action: Tensor) -> Tensor:
        """Predicts actions: float [B, Z] -> float32 [B, A]."""
        return self.layers(latent_action).float()

    def decode(self, latent_action: Tensor, gumbel: Tensor | None = None) -> Tensor:
        """Predicts actions in the environment's units: float32 [B, A], or int64 [B] choices.

        ``gumbel`` is that of ``ActionSpec.decode``.
        """
        return self.action.decode(self(latent_action), gumbel)
