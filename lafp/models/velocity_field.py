"""The velocity field v(x_t, t, h(o)), a small head that solvers call many times per observation."""

# Shape suffixes in this file: B batch, E embedding, Z latent action, D hidden, T times,
# K time features.

import math
from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lafp.device_constants import device_constant
from lafp.models.heads import mlp

NUM_TIME_FEATURES = 8


class VelocityField(nn.Module):
    """An MLP over [x_t, features of t, h(o)], as deep and wide as the head of `latent_bc`.

    Its first layer is a sum of two linear maps, which equals one linear map of the concatenation.
    ``condition`` computes the part that depends only on the observation, once per observation. The
    MLP may be trained to predict the data instead of the velocity, which has the same shape.
    """

    frequency: Tensor

    def __init__(
        self,
        latent_action_dim: int,
        embed_dim: int,
        hidden_dims: tuple[int, ...],
        num_times: int = 1,
    ) -> None:
        super().__init__()
        first, *rest = hidden_dims
        point_dim = latent_action_dim + num_times * NUM_TIME_FEATURES
        self.from_embedding = nn.Linear(embed_dim, first)
        # The sum of both maps has one bias already.
        self.from_point = nn.Linear(point_dim, first, bias=False)
        self.head = nn.Sequential(nn.SiLU(), *mlp(first, tuple(rest), latent_action_dim))
        # Configs are checked on the device "meta", where torch.arange would import sympy.
        frequency = torch.tensor([math.pi * k for k in range(1, NUM_TIME_FEATURES + 1)])
        self.register_buffer("frequency", frequency, persistent=False)
        self._point_dim = latent_action_dim

    def condition(self, embedding: Tensor) -> Tensor:
        """Maps h(o), [B, E], to the observation's part of the first layer, [B, D]."""
        return self.from_embedding(embedding)

    def forward(self, x_t: Tensor, t: Tensor, condition: Tensor) -> Tensor:
        """Predicts the velocity at x_t.

        Args:
            x_t: Points on the path, float [B, Z].
            t: Flow times in [0, 1], float [B], or [B, T] if ``num_times`` T is more than 1.
            condition: Output of ``condition`` for the observations, [B, D].

        Returns:
            [B, Z], in the condition's dtype.
        """
        # cos(k pi t) is a complete basis on [0, 1]. Sines would be 0 at both ends.
        features_BTK = torch.cos(t.view(len(t), -1, 1) * self.frequency)
        point = torch.cat([x_t, features_BTK.flatten(1)], dim=1).to(condition.dtype)
        return self.head(self.from_point(point) + condition)

    def at_times(self, times: Sequence[float], condition: Tensor) -> list[Callable]:
        """Returns ``forward`` at each of the times as a function of x_t. All points share a time.

        The part that depends on the time is computed here for all times at once, so that the
        solver's loop only runs the remaining layers.
        """
        weight = self.from_point.weight
        t_S1 = device_constant(times, weight.device, self.frequency.dtype)[:, None]
        features_SK = torch.cos(t_S1 * self.frequency)
        from_x, from_time = weight[:, : self._point_dim], weight[:, self._point_dim :]
        first_SBD = F.linear(features_SK, from_time)[:, None] + condition
        return [partial(self._after_first, from_x.T, first_BD) for first_BD in first_SBD.unbind()]

    def _after_first(self, from_x: Tensor, first_BD: Tensor, x_t: Tensor) -> Tensor:
        return self.head(torch.addmm(first_BD, x_t.to(first_BD.dtype), from_x))
