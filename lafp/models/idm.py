"""Inverse dynamics models, which infer the latent action between two observations."""

# Shape suffixes in this file: B batch, C channels (3 F), H height, W width, E embedding,
# Z latent action.

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn

from lafp.config import Choice
from lafp.config.ranges import check_at_least
from lafp.models import ENCODERS
from lafp.models.change_scale import ChangeScale
from lafp.models.mlp import RereadingMlp
from lafp.types import ObsSpec

SecondInput = Literal["frame", "difference"]


class PixelIdm(nn.Module):
    """LAPO's IDM: one CNN over o_t and the newest frame of o_{t+1}, stacked along channels.

    With a frame stack of 2 the input is LAPO's (o_{t-1}, o_t, o_{t+1}) (arXiv:2312.10812). With
    ``second_input`` ``difference``, the CNN reads the difference between the newest frames of
    o_{t+1} and o_t instead of the frame, in units of the data's typical change. Then a small CNN
    need not learn to subtract.
    """

    def __init__(
        self, encoder: Choice, obs: ObsSpec, latent_action_dim: int, second_input: SecondInput
    ) -> None:
        super().__init__()
        self.second_input = second_input
        self.change_scale = ChangeScale()
        pair = replace(obs, frame_stack=obs.frame_stack + 1)
        self.encoder = ENCODERS.build(encoder, pair)
        self.head = nn.Linear(self.encoder.embed_dim, latent_action_dim)

    def forward(self, obs: Tensor, next_obs: Tensor) -> Tensor:
        """Infers latent actions, before any bottleneck.

        Args:
            obs: o_t, float [B, 3 F, H, W] in [-1, 1].
            next_obs: o_{t+1}, same shape and range.

        Returns:
            z_t, float [B, Z], unbounded.
        """
        return self.head(self.embed(obs, next_obs))

    def embed(self, obs: Tensor, next_obs: Tensor) -> Tensor:
        """Computes the CNN's features of the pair, float [B, E]."""
        second = next_obs[:, -3:]
        if self.second_input == "difference":
            second = self.change_scale.compressed(second - obs[:, -3:])
        # Along the last dimension in memory, which on a CPU takes a fifth of the time.
        pair = torch.cat([pixels.permute(0, 2, 3, 1) for pixels in (obs, second)], dim=-1)
        return self.encoder(pair.permute(0, 3, 1, 2))


@dataclass(frozen=True, kw_only=True)
class HeadConfig:
    """Size of LAOM's IDM and FDM heads: residual MLP blocks that each read the inputs again."""

    hidden_dim: int = 1024
    num_blocks: int = 3

    def __post_init__(self) -> None:
        check_at_least(self, 1, "hidden_dim", "num_blocks")


class EmbeddingIdm(nn.Module):
    """LAOM's IDM: residual MLP blocks that each read both embeddings."""

    def __init__(self, cfg: HeadConfig, embed_dim: int, latent_action_dim: int) -> None:
        super().__init__()
        self.mlp = RereadingMlp(0, 2 * embed_dim, cfg.hidden_dim, latent_action_dim, cfg.num_blocks)

    def forward(self, obs_BE: Tensor, next_obs_BE: Tensor) -> Tensor:
        """Maps the embeddings of o_t and o_{t+k}, float [B, E] each, to z_t, float [B, Z]."""
        context_B2E = torch.cat([obs_BE, next_obs_BE], dim=-1)
        return self.mlp(context_B2E[:, :0], context_B2E)
