"""Means over what is there. Pure functions."""

from torch import Tensor


def masked_mean(values: Tensor, is_present: Tensor | None) -> Tensor:
    """Mean of the values that count.

    Args:
        values: float [B, D].
        is_present: bool [B, D]; None counts all.

    Returns:
        Scalar. 0 where nothing counts.
    """
    if is_present is None:
        return values.mean()
    return (values * is_present).sum() / is_present.sum().clamp_min(1)
