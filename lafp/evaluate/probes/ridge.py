"""Ridge regression whose penalty is chosen by folds that are left out, in bounded memory.

A fit holds ``NUM_MATRICES`` matrices of D x D or N x N numbers in float64, whichever is smaller.
Where these do not fit into the memory that the caller allows, fewer transitions are used, spread
evenly over all of them.
"""

# Shape suffixes in this file: N transitions, D features, Y targets, P penalties.

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from lafp.evaluate.probes.normal_equations import NUM_MATRICES, Dual, Primal, block_rows

PENALTIES = tuple(10.0**exponent for exponent in range(-7, 3))
"""Candidates, as multiples of the features' total variance (the trace of their Gram matrix)."""
MAX_MEMORY_BYTES = 4 << 30
"""Limit of the matrices of a fit, if the caller gives none."""


@dataclass(frozen=True, kw_only=True)
class LinearProbe:
    """y = x W + b."""

    weight: Tensor
    """float64 [D, Y]."""
    bias: Tensor
    """float64 [Y]."""
    num_fit: int
    """Number of transitions that it was fitted on."""

    def __call__(self, features: Tensor) -> Tensor:
        """Predicts targets: [N, D] -> float64 [N, Y]."""
        blocks = features.split(block_rows(features.shape[1]))
        device = self.weight.device
        return torch.cat([b.to(device, torch.float64) @ self.weight + self.bias for b in blocks])


class Ridge:
    """Minimises ||Xc W - Yc||^2 + penalty * tr(Xc^T Xc) * ||W||^2, Xc and Yc centred.

    It computes on the device of the targets.

    Args:
        features: X, float [N, D]. May lie on the CPU, mapped from a file.
        targets: Y, float [N, Y].
        rows: int64, the transitions to fit on.
        folds: int64, the fold of each of these transitions, from 0 on.
        max_memory_bytes: Limit of the matrices of a fit.
    """

    def __init__(
        self,
        features: Tensor,
        targets: Tensor,
        rows: Tensor,
        folds: Tensor,
        max_memory_bytes: int = MAX_MEMORY_BYTES,
    ) -> None:
        rows, folds = rows.cpu(), folds.cpu()
        largest = max_matrix_dim(max_memory_bytes)
        if min(len(rows), features.shape[1]) > largest:
            kept = torch.linspace(0, len(rows) - 1, largest).round().long()
            rows, folds = rows[kept], folds[kept]
        self._num_fit = len(rows)
        self._rows_of_fold = [rows[folds == fold] for fold in range(int(folds.max()) + 1)]
        is_wide = features.shape[1] > len(rows)
        form = Dual if is_wide else Primal
        self._form: Primal | Dual = form(features, targets, self._rows_of_fold)

    def std(self) -> Tensor:
        """Returns the standard deviation of each feature, float64 [D]; 1 where it is 0."""
        return self._form.std()

    def fit(self, scale_D: Tensor | None = None) -> LinearProbe:
        """Fits with the penalty that has the least error on folds that are left out in turn.

        Args:
            scale_D: Features are divided by it before they are penalised, float64 [D]. The probe
                reads features that are not.
        """
        errors_P = torch.zeros(len(PENALTIES), dtype=torch.float64)
        for fold in range(len(self._rows_of_fold)):
            found = self._form.errors(fold, PENALTIES, scale_D)
            errors_P += torch.tensor(found, dtype=torch.float64)
        return self.solve(PENALTIES[int(errors_P.argmin())], scale_D)

    def solve(self, penalty: float, scale_D: Tensor | None = None) -> LinearProbe:
        """Fits on all folds with a penalty, which must be positive."""
        weight_DY, bias_Y = self._form.solve(penalty, scale_D)
        return LinearProbe(weight=weight_DY, bias=bias_Y, num_fit=self._num_fit)


def max_matrix_dim(max_memory_bytes: int) -> int:
    """Returns the largest N or D for which the matrices of a fit take no more memory."""
    return math.isqrt(max_memory_bytes // (8 * NUM_MATRICES))
