"""The two forms of a centred ridge regression, fitted on all folds of transitions but one.

Features are read in blocks, so they may be mapped from a file. ``Primal`` keeps a D x D matrix for
each fold, ``Dual`` one N x N matrix.
"""

# Shape suffixes in this file: N transitions, D features, Y targets, T transitions of the folds that
# are fitted on, L transitions of the fold that is left out.

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add
from pathlib import Path

import torch
from torch import Tensor

from lafp.storage.temporary import TemporaryFolder

BLOCK_BYTES = 1 << 24
"""Size of a block of features in float64."""
NUM_MATRICES = 4
"""Matrices that a fit holds at once: the system, its factor, and the copies that solvers make."""
_IN_MEMORY_BYTES = 1 << 26
"""If the matrices of all folds are larger, they lie in a file."""


def block_rows(num_features: int) -> int:
    """Returns how many transitions a block of features holds."""
    return max(1, BLOCK_BYTES // (8 * num_features))


@dataclass(frozen=True, kw_only=True)
class _Sums:
    """Sums over the transitions of a fold, of shifted features and targets."""

    num: int
    x: Tensor
    """[D]."""
    y: Tensor
    """[Y]."""
    xy: Tensor
    """[D, Y]."""
    yy: float

    def __add__(self, other: "_Sums") -> "_Sums":
        return _Sums(**{name: value + getattr(other, name) for name, value in vars(self).items()})


class _Form:
    """Reads transitions shifted by their means: sums of squares far from zero would lose digits.

    Args:
        features: X, float [N, D].
        targets: Y, float [N, Y].
        rows_of_fold: The transitions of each fold.
    """

    def __init__(self, features: Tensor, targets: Tensor, rows_of_fold: Sequence[Tensor]) -> None:
        self._features, self._device = features, targets.device
        self._rows = torch.cat(list(rows_of_fold))
        self._x_shift = torch.zeros(features.shape[1], dtype=torch.float64, device=self._device)
        total_D = torch.zeros_like(self._x_shift)
        for x_ND in self._blocks(self._rows):
            total_D += x_ND.sum(0)
        self._x_shift = total_D / len(self._rows)
        self._y_shift = targets[self._rows.to(self._device)].double().mean(0)
        self._targets = targets.double() - self._y_shift

    def _blocks(self, rows: Tensor) -> Iterator[Tensor]:
        for part in rows.split(block_rows(self._features.shape[1])):
            x_ND = self._features[part.to(self._features.device)]
            yield x_ND.to(self._device, torch.float64).sub_(self._x_shift)

    def _y(self, rows: Tensor) -> Tensor:
        return self._targets[rows.to(self._device)]

    def _without_shift(self, weight_DY: Tensor, bias_Y: Tensor) -> tuple[Tensor, Tensor]:
        return weight_DY, bias_Y + self._y_shift - self._x_shift @ weight_DY


class Primal(_Form):
    """W = (Xc^T Xc + penalty)^-1 Xc^T Yc, from sums over each fold."""

    def __init__(self, features: Tensor, targets: Tensor, rows_of_fold: Sequence[Tensor]) -> None:
        super().__init__(features, targets, rows_of_fold)
        self._xx = _Matrices(len(rows_of_fold), features.shape[1], self._device)
        self._sums = [self._sum_up(fold, rows) for fold, rows in enumerate(rows_of_fold)]

    def _sum_up(self, fold: int, rows: Tensor) -> _Sums:
        y_NY, x_D = self._y(rows), torch.zeros_like(self._x_shift)
        xy_DY = x_D.new_zeros(len(x_D), y_NY.shape[1])
        xx_DD, start = x_D.new_zeros(len(x_D), len(x_D)), 0
        for x_ND in self._blocks(rows):
            xx_DD.addmm_(x_ND.T, x_ND)
            xy_DY.addmm_(x_ND.T, y_NY[start : start + len(x_ND)])
            x_D += x_ND.sum(0)
            start += len(x_ND)
        self._xx.put(fold, xx_DD)
        yy = float(y_NY.square().sum())
        return _Sums(num=len(rows), x=x_D, y=y_NY.sum(0), xy=xy_DY, yy=yy)

    def std(self) -> Tensor:
        """Returns the standard deviation of each feature, float64 [D]; 1 where it is 0."""
        square_D, total = torch.zeros_like(self._x_shift), reduce(add, self._sums)
        for fold in range(len(self._sums)):
            square_D += self._xx.get(fold).diagonal()
        return _std(square_D - total.x.square() / total.num, total.num)

    def errors(
        self, left_out: int, penalties: Sequence[float], scale_D: Tensor | None
    ) -> list[float]:
        """Returns the squared error on a fold of fits on the others, for each penalty."""
        others = [fold for fold in range(len(self._sums)) if fold != left_out]
        equations, of = self._equations(others, scale_D), self._sums[left_out]
        xx_DD, errors = self._xx.get(left_out), []
        for penalty in penalties:
            weight_DY, bias_Y = equations.solve(penalty)
            squared = (weight_DY * (xx_DD @ weight_DY)).sum() + of.num * bias_Y.square().sum()
            mixed = bias_Y @ (of.x @ weight_DY) - (weight_DY * of.xy).sum() - bias_Y @ of.y
            errors.append(of.yy + float(squared + 2 * mixed))
        return errors

    def solve(self, penalty: float, scale_D: Tensor | None) -> tuple[Tensor, Tensor]:
        """Returns weight and bias of a fit on all folds."""
        equations = self._equations(range(len(self._sums)), scale_D)
        return self._without_shift(*equations.solve(penalty))

    def _equations(self, folds: Sequence[int], scale_D: Tensor | None) -> "_Equations":
        sums = reduce(add, (self._sums[fold] for fold in folds))
        xx_DD = self._xx.sum(folds).addr_(sums.x, sums.x, alpha=-1 / sums.num)
        xy_DY = sums.xy - torch.outer(sums.x, sums.y) / sums.num
        scale_D = torch.ones_like(sums.x) if scale_D is None else scale_D
        xx_DD.div_(scale_D[:, None]).div_(scale_D)
        return _Equations(
            penalised=_Penalised(xx_DD),
            xy=xy_DY / scale_D[:, None],
            x=sums.x / sums.num,
            y=sums.y / sums.num,
            scale=scale_D,
        )


@dataclass(frozen=True, kw_only=True)
class _Equations:
    """Centred normal equations of scaled features, solved for one penalty after the other."""

    penalised: "_Penalised"
    xy: Tensor
    x: Tensor
    y: Tensor
    scale: Tensor

    def solve(self, penalty: float) -> tuple[Tensor, Tensor]:
        """Returns weight and bias for features that are not scaled."""
        weight_DY = self.penalised.solve(penalty, self.xy) / self.scale[:, None]
        return weight_DY, self.y - self.x @ weight_DY


class Dual(_Form):
    """W = Xc^T (Xc Xc^T + penalty)^-1 Yc, from the products of all pairs of transitions."""

    def __init__(self, features: Tensor, targets: Tensor, rows_of_fold: Sequence[Tensor]) -> None:
        super().__init__(features, targets, rows_of_fold)
        sizes = torch.tensor([len(rows) for rows in rows_of_fold])
        self._fold = torch.arange(len(sizes)).repeat_interleave(sizes).to(self._device)
        self._kernel: tuple[Tensor | None, Tensor] | None = None

    def std(self) -> Tensor:
        """See ``Primal.std``."""
        square_D = torch.zeros_like(self._x_shift)
        for x_ND in self._blocks(self._rows):
            square_D += x_ND.square_().sum(0)
        return _std(square_D, len(self._rows))

    def errors(
        self, left_out: int, penalties: Sequence[float], scale_D: Tensor | None
    ) -> list[float]:
        """See ``Primal.errors``."""
        is_out_N = self._fold == left_out
        fit, out = (~is_out_N).nonzero().flatten(), is_out_N.nonzero().flatten()
        kernel_NN, y_NY = self._products(scale_D), self._y(self._rows)
        kernel_TT = kernel_NN[fit[:, None], fit]
        mean_T, mean_Y = kernel_TT.mean(0), y_NY[fit].mean(0)
        penalised = _Penalised(_centred(kernel_TT, mean_T))
        kernel_LT, errors = kernel_NN[out[:, None], fit], []
        for penalty in penalties:
            alpha_TY = penalised.solve(penalty, y_NY[fit] - mean_Y)
            # alpha sums to zero, so centring the other side of the products changes nothing.
            predicted_LY = (kernel_LT - mean_T) @ alpha_TY + mean_Y
            errors.append(float((predicted_LY - y_NY[out]).square().sum()))
        return errors

    def solve(self, penalty: float, scale_D: Tensor | None) -> tuple[Tensor, Tensor]:
        """See ``Primal.solve``."""
        kernel_NN, y_NY = self._products(scale_D).clone(), self._y(self._rows)
        penalised = _Penalised(_centred(kernel_NN, kernel_NN.mean(0)))
        alpha_NY, start = penalised.solve(penalty, y_NY), 0
        weight_DY = y_NY.new_zeros(self._features.shape[1], y_NY.shape[1])
        for x_ND in self._blocks(self._rows):
            weight_DY.addmm_(x_ND.T, alpha_NY[start : start + len(x_ND)])
            start += len(x_ND)
        if scale_D is not None:
            weight_DY /= scale_D[:, None].square()
        # The shift is the mean of these transitions, so it leaves no bias.
        return self._without_shift(weight_DY, torch.zeros_like(self._y_shift))

    def _products(self, scale_D: Tensor | None) -> Tensor:
        """Returns X X^T of scaled features. It keeps that of the last scale."""
        if self._kernel is not None and self._kernel[0] is scale_D:
            return self._kernel[1]
        self._kernel = None  # frees its memory before the next one is made
        num, scale = len(self._rows), 1.0 if scale_D is None else scale_D
        kernel_NN = self._x_shift.new_empty(num, num)
        top = 0
        for x_ND in self._blocks(self._rows):
            x_ND, left, bottom = x_ND.div_(scale), 0, top + len(x_ND)
            for other_ND in self._blocks(self._rows[:bottom]):
                product, right = x_ND @ other_ND.div_(scale).T, left + len(other_ND)
                kernel_NN[top:bottom, left:right] = product
                kernel_NN[left:right, top:bottom] = product.T
                left = right
            top = bottom
        self._kernel = scale_D, kernel_NN
        return kernel_NN


class _Penalised:
    """Solves (A + penalty * tr(A) * I) W = B, without a copy of A for each penalty."""

    def __init__(self, matrix: Tensor) -> None:
        self._matrix, self._trace = matrix, float(matrix.diagonal().sum())
        self._diagonal = matrix.diagonal().clone()

    def solve(self, penalty: float, right: Tensor) -> Tensor:
        """Returns W; zeros if A has no variance."""
        if self._trace <= 0:
            return torch.zeros_like(right)
        self._matrix.diagonal().copy_(self._diagonal + penalty * self._trace)
        return torch.cholesky_solve(right, torch.linalg.cholesky(self._matrix))


class _Matrices:
    """Square matrices, in memory if they are small, else in a temporary file."""

    def __init__(self, num: int, dim: int, device: torch.device) -> None:
        self._device = device
        self._kept: dict[int, Tensor] = {}
        self._file: Tensor | None = None
        if 8 * num * dim * dim > _IN_MEMORY_BYTES:
            self._folder = TemporaryFolder()
            path = str(Path(self._folder.name, "folds"))
            flat = torch.from_file(path, shared=True, size=num * dim * dim, dtype=torch.float64)
            self._file = flat.view(num, dim, dim)

    def put(self, index: int, matrix: Tensor) -> None:
        """Stores a matrix."""
        if self._file is None:
            self._kept[index] = matrix
        else:
            self._file[index].copy_(matrix)

    def get(self, index: int) -> Tensor:
        """Returns a stored matrix, which is not to be written to."""
        if self._file is None:
            return self._kept[index]
        return self._file[index].to(self._device)

    def sum(self, indices: Sequence[int]) -> Tensor:
        """Returns a new matrix, the sum of some of them."""
        total = self.get(indices[0]).clone()
        for index in indices[1:]:
            total += self.get(index)
        return total


def _centred(kernel_NN: Tensor, mean_N: Tensor) -> Tensor:
    """Centres the features behind a matrix of products, in place."""
    return kernel_NN.sub_(mean_N).sub_(mean_N[:, None]).add_(mean_N.mean())


def _std(square_D: Tensor, num: int) -> Tensor:
    std_D = (square_D.clamp_min(0) / max(1, num - 1)).sqrt()
    return torch.where(std_D > 0, std_D, 1.0)
