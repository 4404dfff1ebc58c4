"""Measures how much neighbouring frames of the training data differ. LAMs use it as a unit."""

import torch
from torch import Tensor

from lafp.models.exact_buffers import ExactBuffers
from lafp.models.moments import Moments

LARGE = 4.0
"""Changes beyond this multiple of the typical change are compressed, usual motions are not."""
MIN_RMS = 1e-3
"""An eighth of a grey level. Pairs that differ by less count as still."""


class ChangeScale(ExactBuffers):
    """Holds the typical change from o_t to o_{t+1}: the geometric mean of its RMS over pairs.

    The amount of motion between frames differs between videos by a factor of a hundred. If the
    differences are small, a network that reads them in units of pixels learns nothing: its output
    hardly depends on them, and its first errors are many times as large as the change that it
    should predict. The geometric mean, over the pairs in which something changes, does not depend
    much on a few pairs with large changes.

    The number is a buffer, so it is stored in checkpoints and in ``model.safetensors``. It is 1,
    the unit of pixels in [-1, 1], until ``fit``.
    """

    typical: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("typical", torch.ones(()))

    @staticmethod
    def log_rms(change: Tensor) -> Tensor:
        """Computes the log RMS of each pair in which something changes, as input of ``fit``.

        Args:
            change: float [B, ...].

        Returns:
            float64 [N, 1], N at most B.
        """
        rms_B = change.double().square().flatten(1).mean(1).sqrt()
        return rms_B[rms_B > MIN_RMS].log()[:, None]

    def fit(self, moments: Moments) -> None:
        """Sets the typical change from the moments of ``log_rms``, unless nothing changes."""
        if moments.num_rows:
            mean, _ = moments.mean_and_mean_square()
            self.typical.copy_(mean.squeeze().exp())

    def to_units(self, change: Tensor) -> Tensor:
        """Maps a change of pixels in [-1, 1] to multiples of the typical change."""
        return change / self.typical

    def to_pixels(self, change: Tensor) -> Tensor:
        """Maps multiples of the typical change to pixels: the inverse of ``to_units``."""
        return change * self.typical

    def compressed(self, change: Tensor) -> Tensor:
        """Does as ``to_units``, but divides changes beyond ``LARGE`` by the root of their excess.

        Networks read this form, in which large motions do not exceed small ones by orders of
        magnitude.

        Args:
            change: float [B, ...].

        Returns:
            Same shape, in multiples of the typical change.
        """
        units = self.to_units(change)
        excess_B = (units.float().square().flatten(1).mean(1).sqrt() / LARGE).clamp_min(1)
        return units / excess_B.sqrt().view(-1, *[1] * (units.ndim - 1))
