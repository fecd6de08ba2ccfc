"""Logistic regressions of many L2 strengths and labels in one batched L-BFGS: scikit-learn's optimum for each.

All problems share the design matrix, so a step of all of them is two wide matrix products. Good at many strengths of
one task; each still converges on its own, and leaves the batch then. Convex: the optimum found is the optimum.

Letters in shapes: P problems, Q columns of one (its classes, or 1), N images, A = r + 1 coordinates and the intercept.
Images come last, so that what is done image by image runs along memory.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scaling.probes.basis import exact_products

GRADIENT = 1e-5
"""Largest gradient component of the mean loss at the end; scikit-learn's default is 1e-4."""
DECREMENT = 1e-7
"""Largest g' D g at the end: twice what the mean loss, in nats, could still fall by if its curvature were 1 / D."""
STEPS = 1000
"""Most fits take 30; some hundred where classes all but separate and the penalty is weak."""
MEMORY = 10
"""Pairs of steps and gradient changes kept (Nocedal and Wright 2006, algorithm 7.4)."""
SLOPE = 0.1
"""A step ends where the slope along it is this share of the slope at its start: nearly at the minimum."""
LOOKS = 12
"""Places looked at along a step; Newton's method in one dimension needs one to three."""


@dataclass(frozen=True, kw_only=True)
class Solution:
    weights: Tensor
    """(S, k, r + 1) fp32, the intercept last, in the order of the strengths given."""
    converged: NDArray[np.bool_]
    """(S,)"""


def solve(
    x_NR: Tensor, variance_R: Tensor, targets_NK: Tensor, strengths: NDArray[np.float64], *, sigmoid: bool
) -> Solution:
    """Minimises sum of log losses + |w|^2 / (2 C) for each C, the intercept free: LogisticRegression of scikit-learn.

    `x_NR`: centred and uncorrelated (`Axes.of`), `variance_R` of its columns. With `sigmoid` every column of targets
    is a binary problem of its own, otherwise the columns share a softmax. Each class must have an image.
    """
    n_s, k = len(strengths), targets_NK.shape[1]
    ridge_P = torch.as_tensor(1 / (strengths * len(x_NR)), dtype=torch.float32, device=x_NR.device)
    targets_PQN = targets_NK.float().T.contiguous()[None]
    if sigmoid:  # problem p = strength x k + label
        ridge_P = ridge_P.repeat_interleave(k)
        targets_PQN = targets_PQN.view(k, 1, -1).repeat(n_s, 1, 1)
    with exact_products():
        weights_PQA, converged_P = _Problems(x_NR, variance_R, targets_PQN, ridge_P).minimise()
    return Solution(
        weights=weights_PQA.view(n_s, k, -1),  # either way: strengths, then labels or classes
        converged=converged_P.view(n_s, -1).all(dim=1).cpu().numpy(),
    )


class _Problems:
    """The state of the problems that have not converged yet."""

    def __init__(self, x_NR: Tensor, variance_R: Tensor, targets_PQN: Tensor, ridge_P: Tensor) -> None:
        self.x_NA = torch.cat([x_NR, x_NR.new_ones(len(x_NR), 1)], dim=1)
        self.targets = targets_PQN
        self.ridge = ridge_P[:, None, None]
        prior_PQ1 = targets_PQN.mean(dim=2, keepdim=True).expand(len(ridge_P), -1, 1)
        many = prior_PQ1.shape[1] > 1
        self.weights = x_NR.new_zeros(*prior_PQ1.shape[:2], self.x_NA.shape[1])
        self.weights[..., -1:] = prior_PQ1.log() if many else prior_PQ1.logit()
        # What the curvature would be if all images had the classes' shares as probabilities: diagonal in these axes.
        spread = torch.cat([variance_R.float(), x_NR.new_ones(1)])
        curvature = prior_PQ1 * (1 - prior_PQ1) * spread
        curvature[..., :-1] += self.ridge
        self.inverse = 1 / curvature
        self.z = self.weights[..., -1:].expand(-1, -1, len(x_NR)).contiguous()
        self.gradient = self._gradient(_probabilities(self.z) - self.targets)
        self.scale = torch.ones_like(self.ridge)
        self.pairs: list[tuple[Tensor, Tensor, Tensor]] = []
        """Steps, gradient changes and 1 / their product, oldest first; 0 where a pair is of no use."""

    def minimise(self) -> tuple[Tensor, Tensor]:
        """Weights (P, Q, A), and whether each problem converged."""
        result, at = self.weights.clone(), torch.arange(len(self.weights), device=self.z.device)
        converged = torch.zeros_like(at, dtype=torch.bool)
        for _ in range(STEPS):
            decrement = _dot(self.gradient, self.inverse * self.gradient).flatten()
            done = (self.gradient.abs().amax(dim=(1, 2)) <= GRADIENT) & (decrement <= DECREMENT)
            if done.any():
                result[at[done]] = self.weights[done]
                converged[at[done]] = True
                at = at[~done]
                if len(at) == 0:
                    return result, converged
                self._keep(~done)
            self._step()
        result[at] = self.weights
        return result, converged

    def _keep(self, alive: Tensor) -> None:
        for name in ("weights", "gradient", "inverse", "z", "ridge", "scale"):
            setattr(self, name, getattr(self, name)[alive])
        if len(self.targets) > 1:
            self.targets = self.targets[alive]
        self.pairs = [(s[alive], y[alive], rho[alive]) for s, y, rho in self.pairs]

    def _step(self) -> None:
        direction = -self._times_inverse_hessian(self.gradient)
        slope = _dot(self.gradient, direction)
        lost = ~(slope < 0)  # rounding has eaten the memory: begin anew from the diagonal
        direction = torch.where(lost, -self.inverse * self.gradient, direction)
        slope = torch.where(lost, _dot(self.gradient, direction), slope)
        along = (direction.flatten(0, 1) @ self.x_NA.T).view_as(self.z)
        length, residual = self._search(direction, along, slope)
        moved = length * direction
        self.weights = self.weights + moved
        self.z = torch.addcmul(self.z, length, along)
        gradient = self._gradient(residual)
        change, self.gradient = gradient - self.gradient, gradient
        product = _dot(moved, change)
        useful = product > 0
        self.pairs = [*self.pairs[1 - MEMORY :], (moved, change, torch.where(useful, 1 / product, 0.0))]
        self.scale = torch.where(useful, product / _dot(change, self.inverse * change), self.scale)

    def _times_inverse_hessian(self, gradient: Tensor) -> Tensor:
        """The two-loop recursion, begun from the scaled diagonal."""
        q, shares = gradient, []
        for s, y, rho in reversed(self.pairs):
            shares.append(rho * _dot(s, q))
            q = torch.addcmul(q, shares[-1], y, value=-1)
        q = self.scale * self.inverse * q
        for (s, y, rho), share in zip(self.pairs, reversed(shares), strict=True):
            q = torch.addcmul(q, share - rho * _dot(y, q), s)
        return q

    def _search(self, direction: Tensor, along: Tensor, start: Tensor) -> tuple[Tensor, Tensor]:
        """Lengths where the slope has all but vanished, from `start` on, and the residuals there.

        The scores are linear in the length, so looking costs no product with the features: Newton's method on the
        slope, which only rises, held between the nearest places known to lie before and behind its zero.
        """
        inner = direction[..., :-1]
        linear, square = self.ridge * _dot(self.weights[..., :-1], inner), self.ridge * _dot(inner, inner)
        length, low, high = torch.ones_like(start), torch.zeros_like(start), torch.full_like(start, torch.inf)
        n = along.shape[2]
        for look in range(LOOKS):
            p = _probabilities(torch.addcmul(self.z, length, along))
            residual = p - self.targets
            slope = _dot(residual, along) / n + linear + length * square
            found = slope.abs() <= SLOPE * start.abs()
            if look == LOOKS - 1 or bool(found.all()):
                break
            low, high = torch.where(slope < 0, length, low), torch.where(slope < 0, high, length)
            newton = length - slope / (_bend(p, along) / n + square)
            middle = torch.where(high.isfinite(), (low + high) / 2, 4 * length)
            inside = (newton > low) & (newton < high) & (newton < 10 * length)
            length = torch.where(found, length, torch.where(inside, newton, middle))
        return length, residual

    def _gradient(self, residual_PQN: Tensor) -> Tensor:
        n = residual_PQN.shape[2]
        gradient = (residual_PQN.flatten(0, 1) @ self.x_NA).view_as(self.weights) / n
        gradient[..., :-1] += self.ridge * self.weights[..., :-1]
        return gradient


def _probabilities(z_PQN: Tensor) -> Tensor:
    return z_PQN.sigmoid() if z_PQN.shape[1] == 1 else z_PQN.softmax(dim=1)


def _bend(p: Tensor, along: Tensor) -> Tensor:
    """Second derivative of the summed log loss along a step, per problem."""
    if p.shape[1] == 1:
        return _dot(p - p.square(), along.square())
    seen = p * along
    return _dot(seen, along) - seen.sum(dim=1, keepdim=True).square().sum(dim=2, keepdim=True)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """(P, 1, 1)"""
    return torch.linalg.vecdot(a.flatten(1), b.flatten(1))[:, None, None]


def logits(x_NR: Tensor, weights_SKA: Tensor) -> Tensor:
    """(S, n, k) scores of each strength."""
    with exact_products():
        return x_NR @ weights_SKA[..., :-1].mT + weights_SKA[..., -1][:, None]
