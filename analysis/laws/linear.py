"""Variable projection: given its exponents, a sum of powers is linear in its coefficients, which are solved for.

Golub and Pereyra 1973. Used for starts: a grid over the exponents alone replaces one over all parameters.
"""

from __future__ import annotations

import itertools

import numpy as np

from analysis.points import Matrix, Stack, Vector

SMALLEST = 1e-6
"""Least coefficient x largest basis value, relative to the mean of y: a start must have a logarithm."""


def coefficients(basis: Stack, y: Vector) -> Matrix:
    """(S, n, m) columns -> (S, m) positive coefficients of least squares of relative residuals, (basis c - y) / y.

    Relative residuals are those of logarithms to first order. Non-negative least squares by trying every subset of the
    m columns, which for m <= 4 is at most fifteen small solves for the whole batch; a coefficient that comes out zero
    is set to the least that matters.
    """
    scaled = basis / y[:, None]
    length = np.linalg.norm(scaled, axis=1)
    length = np.where(length > 0, length, 1.0)
    unit = scaled / length[:, None, :]
    gram = np.swapaxes(unit, 1, 2) @ unit
    right = unit.sum(axis=1)
    n_starts, m = right.shape
    best, best_gain = np.zeros((n_starts, m)), np.zeros(n_starts)
    for size in range(1, m + 1):
        for subset in itertools.combinations(range(m), size):
            index = np.array(subset)
            square = gram[:, index[:, None], index[None, :]] + 1e-13 * np.eye(size)
            solved = np.linalg.solve(square, right[:, index, None])[..., 0]
            # what the sum of squares falls by against no column at all, for solutions of the normal equations
            gain = np.where((solved >= 0).all(axis=1), (solved * right[:, index]).sum(axis=1), -np.inf)
            better = gain > best_gain
            best[better] = 0.0
            best[np.ix_(better, index)] = solved[better]
            best_gain = np.where(better, gain, best_gain)
    found = best / length
    least = SMALLEST * y.mean() / np.maximum(np.abs(basis).max(axis=1), np.finfo(float).tiny)
    return np.maximum(found, least)
