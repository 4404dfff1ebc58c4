"""The residual MLP of LAOM's heads, in which every block reads the context."""

# Shape suffixes in this file: B batch, I input, K context, H hidden.

import torch
from torch import Tensor, nn


class RereadingMlp(nn.Module):
    """Residual MLP blocks, each after a linear layer over its input and the context.

        h_0 = block_0(W_0 [input, context]),   h_i = block_i(W_i [h_{i-1}, context])

    This is LAOM's ``LatentActHead`` and ``LatentObsHead`` (Nikulin et al., arXiv:2502.00379). Every
    block reads the context, because a latent action is small compared with an observation's
    embedding and has too little influence if it is read only once.
    """

    def __init__(
        self, input_dim: int, context_dim: int, hidden_dim: int, output_dim: int, num_blocks: int
    ) -> None:
        super().__init__()
        self.projections = nn.ModuleList(
            nn.Linear((hidden_dim if i else input_dim) + context_dim, hidden_dim)
            for i in range(num_blocks)
        )
        self.blocks = nn.ModuleList(MlpBlock(hidden_dim) for _ in range(num_blocks))
        self.output = nn.Linear(hidden_dim, output_dim)

    def forward(self, inputs_BI: Tensor, context_BK: Tensor) -> Tensor:
        """Maps inputs [B, I] (I may be 0) and context [B, K] to float [B, output_dim]."""
        hidden_BH = inputs_BI
        for projection, block in zip(self.projections, self.blocks, strict=True):
            hidden_BH = block(projection(torch.cat([hidden_BH, context_BK], dim=-1)))
        return self.output(hidden_BH)


class MlpBlock(nn.Module):
    """Computes LayerNorm(x + W_2 ReLU6(W_1 x)), with a hidden layer four times as wide."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(dim, 4 * dim), nn.ReLU6(), nn.Linear(4 * dim, dim))
        self.norm = nn.LayerNorm(dim)

    def forward(self, hidden_BH: Tensor) -> Tensor:
        """Maps features [B, H] to features of the same shape."""
        return self.norm(hidden_BH + self.layers(hidden_BH))
