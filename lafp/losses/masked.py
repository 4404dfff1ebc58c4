"""Means over the elements that a mask selects. Pure functions."""

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
