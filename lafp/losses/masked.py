"""Means over the elements that a mask selects or weighs. Pure functions."""

import torch
from torch import Tensor


def masked_mean(values: Tensor, is_present: Tensor | None) -> Tensor:
    """Averages the values for which ``is_present`` is true.

    Args:
        values: float [B, D].
        is_present: bool [B, D]; None counts all.

    Returns:
        Scalar; 0 if no value counts.
    """
    if is_present is None:
        return values.mean()
    # A batch in which nothing is present has the loss 0, and not NaN.
    return (values * is_present).sum() / is_present.sum().clamp_min(1)


def weighted_means(values: Tensor, weight: Tensor | None) -> Tensor:
    """Averages each row's elements by their weights: sum w v / sum w.

    Args:
        values: float [B, ...].
        weight: Not negative, of a shape that broadcasts to that of ``values``; None weighs all
            elements alike.

    Returns:
        float [B]; 0 for rows without any weight.
    """
    if weight is None:
        return values.flatten(1).mean(1)
    weight_BD = weight.expand_as(values).flatten(1)
    # The smallest divisor only matters where all weights are 0, and the sum is 0 too.
    return (values.flatten(1) * weight_BD).sum(1) / weight_BD.sum(1).clamp_min(1e-6)


def mean_of_weighted_rows(values_B: Tensor, weight: Tensor | None) -> Tensor:
    """Averages the rows that have any weight.

    Args:
        values_B: float [B], 0 for rows without weight.
        weight: float [B, ...], as in ``weighted_means``.

    Returns:
        Scalar; 0 if no row has any weight.
    """
    return masked_mean(values_B, None if weight is None else weight.flatten(1).any(1))


def defined_if_weighted(value: Tensor, weight: Tensor | None) -> Tensor:
    """Returns a metric; NaN, which means leave out, if no element of the batch has any weight.

    Args:
        value: Scalar.
        weight: As in ``weighted_means``.
    """
    return value if weight is None else torch.where(weight.any(), value, torch.nan)


def as_weighted(values: Tensor, weight: Tensor | None) -> Tensor:
    """Scales elements so that each row's plain mean square becomes the weighted mean square.

    Args:
        values: float [B, ...].
        weight: As in ``weighted_means``.

    Returns:
        Same shape as ``values``; zeros in rows without any weight.
    """
    if weight is None:
        return values
    mean_B = weight.flatten(1).mean(1).clamp_min(1e-6)
    return values * (weight / mean_B.view(-1, *[1] * (weight.ndim - 1))).sqrt()
