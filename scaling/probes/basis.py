"""Features turned to the principal axes of the training split: what makes all ridge strengths one eigenproblem.

A penalty |w|^2 does not change under rotation, and no weight leaves the span of the training images. So the linear
read-outs solve the same problem in min(n, d) uncorrelated coordinates, whose variances precondition it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

RANK = 1e-10
"""Axes with less than this share of the largest variance are left out: fp64 no longer knows their direction."""
ROWS = 8192
"""Rows taken to fp64 at once."""


@dataclass(frozen=True, kw_only=True)
class Axes:
    mean: Tensor
    """(d,) fp32, of the training features."""
    turn: Tensor
    """(d, r) fp32, orthonormal columns, the one along which the training features vary most first; r may be 0."""
    variance: Tensor
    """(r,) fp64, of the training features along them."""

    def of(self, features_ND: Tensor) -> Tensor:
        """(n, r) fp32; columns of the training features are centred and uncorrelated."""
        with exact_products():
            return (features_ND - self.mean) @ self.turn


def principal_axes(train_ND: Tensor) -> Axes:
    """By the smaller of the two Gram matrices, in fp64."""
    n, d = train_ND.shape
    mean = train_ND.double().mean(dim=0).float()
    x = train_ND - mean
    if d <= n:
        variance, turn = _descending(_gram(x) / n)
    else:
        variance, left = _descending(_gram(x.T) / n)
        turn = torch.cat([rows @ (left / (variance * n).sqrt()) for rows in _doubled(x.T)])
    return Axes(mean=mean, turn=turn.float(), variance=variance)


def _gram(x: Tensor) -> Tensor:
    """x' x in fp64."""
    total = torch.zeros(x.shape[1], x.shape[1], dtype=torch.float64, device=x.device)
    for rows in _doubled(x):
        total.addmm_(rows.T, rows)
    return total


def _doubled(x: Tensor) -> Iterator[Tensor]:
    return (x[start : start + ROWS].double() for start in range(0, len(x), ROWS))


def _descending(gram: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues above the rank's limit, and their vectors as columns."""
    values, vectors = torch.linalg.eigh(gram)
    kept = values > (RANK * values[-1]).clamp_min(torch.finfo(torch.float64).tiny)
    return values[kept].flip(0), vectors[:, kept].flip(1)


@contextmanager
def exact_products() -> Iterator[None]:
    """fp32 products in fp32, whatever training has chosen (TF32, or bf16 on a CPU with matrix units)."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
