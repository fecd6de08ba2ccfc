"""Data sets of one design beside their optima, and which bound of a parameter each is near."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from analysis.bounded import Place, inverse_information
from analysis.objective import LARGEST_LOG, LOG_SQUARED
from analysis.points import Index, Matrix, Stack, Vector
from analysis.solver import Evaluate, Mask, minimise


@dataclass(frozen=True, kw_only=True)
class Nearest:
    """The bound that each of D data sets is nearest to."""

    parameter: Index
    """(D,) whose bound it is; any where there is none."""
    inward: Vector
    """(D,) 1 for a lower bound, -1 for an upper one."""
    cost: Vector
    """(D,) by how much the least sum of squares rises with the parameter at it; infinite where there is none."""


@dataclass(frozen=True, kw_only=True)
class Rows:
    """D data sets of one design with their optima by least squares, as linear as residuals are: curve - measured."""

    evaluate: Evaluate
    """x, thetas -> curve (B, n) and its gradient (B, n, p), in the residuals' unit."""
    x: Matrix
    measured: Matrix
    """(D, n)."""
    weights: Matrix
    """(D, n); a point of weight 0 is none."""
    thetas: Matrix
    """(D, p) the optima."""
    low: Matrix
    high: Matrix
    """(D, p) bounds."""
    logs: Mask
    """(p,) whether theta is a parameter's logarithm: noise moves the parameter itself evenly near its bound."""

    @property
    def free(self) -> Vector:
        """(D,) degrees of freedom."""
        return (self.weights > 0).sum(axis=1) - float(self.thetas.shape[1])

    def squares(self, thetas: Matrix, which: Index | slice = slice(None)) -> Vector:
        """(B,) weighted sums of squares of thetas (B, p) on the data sets `which`."""
        residuals = self.evaluate(self.x, thetas)[0] - self.measured[which]
        return np.einsum("bn,bn->b", self.weights[which], residuals**2)

    def covariance(self) -> Stack:
        """(D, p, p) inverse information, for residuals of variance 1; zero for a parameter at its bound."""
        jacobian = self.evaluate(self.x, self.thetas)[1] * np.sqrt(self.weights)[..., None]
        return inverse_information(jacobian * self._between(self.thetas)[:, None, :])

    def _between(self, thetas: Matrix, which: Index | slice = slice(None)) -> Mask:
        """(B, p) whether parameters are off their bounds."""
        room = 1e-6 * np.maximum(1.0, np.abs(thetas))
        return (thetas > self.low[which] + room) & (thetas < self.high[which] - room)

    @cached_property
    def nearest(self) -> Nearest:
        """By how much a bound costs the fit, as only a bound that some curve through the data nears is near."""
        p = self.thetas.shape[1]
        bounds = np.concatenate([self.low, self.high], axis=1)
        sets, which = np.nonzero(np.isfinite(bounds) & np.tile(self.low < self.high, 2))
        low, high, own = self.low[sets], self.high[sets], (np.arange(len(sets)), which % p)
        low[own] = high[own] = bounds[sets, which]
        targets, starts = np.exp(self.measured[sets]), self.thetas[sets]
        found = minimise(self.evaluate, self.x, targets, self.weights[sets], starts, low, high, LOG_SQUARED)
        least = np.full(bounds.shape, np.inf)
        least[sets, which] = np.nan_to_num(self.squares(found.thetas, sets), nan=np.inf)
        chosen = np.argmin(least, axis=1)
        return Nearest(
            parameter=chosen % p,
            inward=np.where(chosen < p, 1.0, -1.0),
            cost=least.min(axis=1) - self.squares(self.thetas),
        )

    def place(self, thetas: Matrix, sets: Index, gradient: Matrix, luck: Vector, gap: Vector) -> Place:
        """Of thetas (B, p) on the data sets `sets`, at the bounds that are nearest; the rest as `Place` has it."""
        parameter, inward = self.nearest.parameter[sets], self.nearest.inward[sets]
        own = np.arange(len(sets)), parameter
        curves, jacobian = self.evaluate(self.x, thetas)
        root_weights = np.sqrt(self.weights[sets])
        free = self._between(thetas, sets)
        free[own] = True
        room = np.where(inward > 0, thetas[own] - self.low[sets][own], self.high[sets][own] - thetas[own])
        in_logs = np.where(inward > 0, -np.expm1(-room), np.expm1(np.minimum(room, LARGEST_LOG)))
        return Place(
            jacobian=jacobian * free[:, None, :] * root_weights[..., None],
            residuals=(curves - self.measured[sets]) * root_weights,
            gradient=gradient,
            luck=luck,
            gap=gap,
            bounded=parameter,
            room=np.where(self.logs[parameter], in_logs, room),
            inward=inward,
        )

    def spread(self, gradient: Stack) -> Matrix:
        """(D, K) variance by the delta method of numbers with gradients (D, K, p), for residuals of variance 1."""
        found: Matrix = np.einsum("dkp,dpq,dkq->dk", gradient, self.covariance(), gradient)
        return found
