"""Intervals of parameters and predictions that hold for three or four sizes.

A case bootstrap of so few points covers far too little. Residuals of the logarithms are taken as normal with one
unknown variance, estimated with n - p degrees of freedom, and Student's t pays for how badly few points know it. For
the power law this is exact (linear regression). For other laws it is the delta method at the optimum, which is not:
measured, it covers the saturating law's parameters where the floor is seen, but a floor that is not seen only four
times in five. The intervals belong to the fit by squares; another objective would need another theory and gets none.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import stats

from analysis.fit import Fit, Status
from analysis.laws.law import Matrix, Vector

ROUNDING = 1e-12
"""Least residual deviation believed: errors equal to the last digit are no proof of a law without noise."""


@dataclass(frozen=True, kw_only=True)
class Interval:
    value: float
    low: float
    high: float
    """At the confidence asked for; low and high are NaN when there is no degree of freedom to tell."""

    @property
    def significant(self) -> bool:
        """Whether zero lies outside; False where there is no interval."""
        return bool(self.low > 0 or self.high < 0)


def _width(fit: Fit, level: float) -> float:
    """t quantile x residual deviation; NaN where the data do not tell."""
    free = len(fit.x) - len(fit.parameters)
    if free < 1 or fit.status is not Status.CONVERGED or fit.objective != "log_squared":
        return np.nan
    residuals = np.log(fit.y) - fit.law.log_predict(fit.x, fit.parameters)
    deviation = max(float(np.sqrt((residuals**2).sum() / free)), ROUNDING)
    return float(stats.t.ppf((1 + level) / 2, free)) * deviation


def _covariance(fit: Fit) -> Matrix:
    """Inverse of J'J, by columns of length 1, so that a parameter that hardly matters comes out as badly known."""
    jacobian = fit.law.log_gradient(fit.x, fit.parameters)
    length = np.linalg.norm(jacobian, axis=0)
    length = np.where(length > 0, length, 1.0)
    inverse = np.linalg.pinv(jacobian / length)
    return np.asarray(inverse @ inverse.T / np.outer(length, length), np.float64)


def parameter_intervals(fit: Fit, *, level: float = 0.95) -> dict[str, Interval]:
    """By parameter name; empty for a fit without parameters. Ends are NaN unless the fit converged by squares."""
    if not fit.status.usable:
        return {}
    half = _width(fit, level) * np.sqrt(np.diag(_covariance(fit)))
    return {
        parameter.name: Interval(value=float(value), low=float(value - h), high=float(value + h))
        for parameter, value, h in zip(fit.law.parameters, fit.parameters, half, strict=True)
    }


def prediction_band(fit: Fit, x: Vector, *, level: float = 0.95) -> tuple[Vector, Vector]:
    """Pointwise interval of the law's curve at `x` (not of a new run there): lower and upper errors.

    NaN unless the fit converged by squares.
    """
    gradient = fit.law.log_gradient(x, fit.parameters)
    half = _width(fit, level) * np.sqrt(np.einsum("ni,ij,nj->n", gradient, _covariance(fit), gradient))
    middle = fit.law.log_predict(x, fit.parameters)
    with np.errstate(over="ignore"):  # three points may leave the curve unknown by more than numbers can say
        return np.exp(middle - half), np.exp(middle + half)


def mean_interval(values: Vector, *, level: float = 0.95) -> Interval:
    """Of a mean of independent values, by Student's t; NaN ends for fewer than two, NaN all over for none."""
    values = np.asarray(values, np.float64)
    mean = float(values.mean()) if len(values) else np.nan
    if len(values) < 2:
        return Interval(value=mean, low=np.nan, high=np.nan)
    half = float(stats.t.ppf((1 + level) / 2, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values)))
    return Interval(value=mean, low=mean - half, high=mean + half)
