"""How much neighbouring frames of the training data differ: the unit of what a LAM looks at."""

import torch
from torch import Tensor

from lafp.models.exact_buffers import ExactBuffers
from lafp.models.moments import Moments

LARGE = 4.0
"""In units of the typical change. The size of usual motions is seen as it is."""
MIN_RMS = 1e-3
"""An eighth of a grey level: pairs that differ by less count as still."""


class ChangeScale(ExactBuffers):
    """The typical change from o_t to o_{t+1}: the geometric mean of its RMS over training pairs.

    Videos differ in how much moves from frame to frame by a factor of a hundred. A network that
    sees differences in units of pixels learns nothing where they are small: its output hardly
    depends on them, and its first errors are many times as large as the change to be predicted.
    A geometric mean, over the pairs in which something changes, is not ruled by a few large ones.

    The number is a buffer, so it travels in checkpoints and in ``model.safetensors``. It is 1, the
    unit of pixels in [-1, 1], until ``fit``.
    """

    typical: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("typical", torch.ones(()))

    @staticmethod
    def log_rms(change: Tensor) -> Tensor:
        """What ``fit`` takes: log RMS of the pairs in which something changes, float64 [N, 1].

        Args:
            change: float [B, ...].
        """
        rms_B = change.double().square().flatten(1).mean(1).sqrt()
        return rms_B[rms_B > MIN_RMS].log()[:, None]

    def fit(self, moments: Moments) -> None:
        """Takes the mean of ``log_rms`` over the first batches; nothing where nothing changes."""
        if moments.num_rows:
            mean, _ = moments.mean_and_mean_square()
            self.typical.copy_(mean.squeeze().exp())

    def to_units(self, change: Tensor) -> Tensor:
        """A change of pixels in [-1, 1] -> multiples of the typical one."""
        return change / self.typical

    def to_pixels(self, change: Tensor) -> Tensor:
        """The inverse of ``to_units``."""
        return change * self.typical

    def compressed(self, change: Tensor) -> Tensor:
        """``to_units`` for a network to look at: of changes beyond ``LARGE`` it sees the root.

        Args:
            change: float [B, ...].
        """
        units = self.to_units(change)
        excess_B = (units.float().square().flatten(1).mean(1).sqrt() / LARGE).clamp_min(1)
        return units / excess_B.sqrt().view(-1, *[1] * (units.ndim - 1))
