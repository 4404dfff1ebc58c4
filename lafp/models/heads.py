"""The plain multilayer perceptron of heads."""

from itertools import pairwise

from torch import nn


def mlp(in_dim: int, hidden_dims: tuple[int, ...], out_dim: int) -> nn.Sequential:
    """Linear layers with SiLU between them; the last one is linear.

    Args:
        in_dim: Size of the input.
        hidden_dims: Widths of the hidden layers; none makes a linear map.
        out_dim: Size of the output.
    """
    widths = (in_dim, *hidden_dims)
    layers: list[nn.Module] = []
    for width_in, width_out in pairwise(widths):
        layers += [nn.Linear(width_in, width_out), nn.SiLU()]
    return nn.Sequential(*layers, nn.Linear(widths[-1], out_dim))
