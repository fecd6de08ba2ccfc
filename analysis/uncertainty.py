"""Intervals of parameters and predictions that hold for three or four sizes.

A case bootstrap of so few points covers far too little. Residuals of the logarithms are taken as normal with one
unknown variance, estimated with n - p degrees of freedom, and Student's t pays for how badly few points know it. For
the power law this is exact (linear regression); for other laws it is the delta method at the optimum. The tests
measure the coverage.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import stats

from analysis.fit import Fit, Status
from analysis.laws.law import Vector


@dataclass(frozen=True, kw_only=True)
class Interval:
    value: float
    low: float
    high: float
    """At the confidence asked for; low and high are NaN when there is no degree of freedom to tell."""

    @property
    def significant(self) -> bool:
        """Whether zero lies outside."""
        return bool(self.low > 0 or self.high < 0)


def _spread(fit: Fit, level: float) -> tuple[float, np.ndarray]:
    """t quantile x residual deviation, and the inverse of J'J."""
    jacobian = fit.law.log_gradient(fit.x, fit.parameters)
    free = len(fit.x) - jacobian.shape[1]
    if free < 1:
        return np.nan, np.linalg.pinv(jacobian.T @ jacobian)
    residuals = np.log(fit.y) - fit.law.log_predict(fit.x, fit.parameters)
    deviation = np.sqrt((residuals**2).sum() / free)
    return float(stats.t.ppf((1 + level) / 2, free) * deviation), np.linalg.pinv(jacobian.T @ jacobian)


def parameter_intervals(fit: Fit, *, level: float = 0.95) -> dict[str, Interval]:
    """By parameter name; empty for a fit without parameters. At a bound nothing is known, so both ends are NaN."""
    if not fit.status.usable:
        return {}
    width, inverse = _spread(fit, level)
    if fit.status is Status.AT_BOUND:
        width = np.nan
    half = width * np.sqrt(np.diag(inverse))
    return {
        parameter.name: Interval(value=float(value), low=float(value - h), high=float(value + h))
        for parameter, value, h in zip(fit.law.parameters, fit.parameters, half, strict=True)
    }


def prediction_band(fit: Fit, x: Vector, *, level: float = 0.95) -> tuple[Vector, Vector]:
    """Pointwise interval of the law's curve at `x` (not of a new run there): lower and upper errors."""
    width, inverse = _spread(fit, level)
    gradient = fit.law.log_gradient(x, fit.parameters)
    half = width * np.sqrt(np.einsum("ni,ij,nj->n", gradient, inverse, gradient))
    middle = fit.law.log_predict(x, fit.parameters)
    return np.exp(middle - half), np.exp(middle + half)


def mean_interval(values: Vector, *, level: float = 0.95) -> Interval:
    """Of a mean of independent values, by Student's t; NaN ends for fewer than two."""
    values = np.asarray(values, np.float64)
    mean = float(values.mean()) if len(values) else np.nan
    if len(values) < 2:
        return Interval(value=mean, low=np.nan, high=np.nan)
    half = float(stats.t.ppf((1 + level) / 2, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values)))
    return Interval(value=mean, low=mean - half, high=mean + half)
