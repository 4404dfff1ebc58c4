"""The multilayer perceptron that heads consist of."""

from itertools import pairwise

from torch import nn


def mlp(in_dim: int, hidden_dims: tuple[int, ...], out_dim: int) -> nn.Sequential:
    """Builds linear layers with SiLU between them, and none after the last one.

    Args:
        in_dim: Size of the input.
        hidden_dims: Widths of the hidden layers; an empty tuple makes a linear map.
        out_dim: Size of the output.
    """
    widths = (in_dim, *hidden_dims)
    layers: list[nn.Module] = []
    for width_in, width_out in pairwise(widths):
        layers += [nn.Linear(width_in, width_out), nn.SiLU()]
    return nn.Sequential(*layers, nn.Linear(widths[-1], out_dim))
