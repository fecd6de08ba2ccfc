"""Weighted least squares with coefficients of either sign, for a whole grid of nonlinear parameters in one call."""

from __future__ import annotations

import numpy as np

from analysis.points import Matrix, Stack

RIDGE = 1e-10
"""Relative to each column's length: collinear columns share what they explain instead of failing."""


def weighted_lines(columns: Stack, targets: Matrix, weights: Matrix) -> Matrix:
    """Columns (S, n, m), targets and weights of residuals (S, n) -> coefficients (S, m).

    The first column is the constant. The others are centred before the normal equations are formed, as logarithms of
    large counts are nearly constant.
    """
    squares = weights**2
    total = squares.sum(axis=1, keepdims=True)
    means = np.einsum("sn,snm->sm", squares, columns[:, :, 1:]) / total
    mean = (squares * targets).sum(axis=1, keepdims=True) / total
    centred = weights[:, :, None] * (columns[:, :, 1:] - means[:, None])
    length = np.linalg.norm(centred, axis=1)
    length = np.where(length > 0, length, 1.0)
    unit = centred / length[:, None]
    square = np.swapaxes(unit, 1, 2) @ unit + RIDGE * np.eye(unit.shape[2])
    right = np.einsum("snm,sn->sm", unit, weights * (targets - mean))
    slopes = np.linalg.solve(square, right[..., None])[..., 0] / length
    return np.column_stack([mean[:, 0] - (slopes * means).sum(axis=1), slopes])
