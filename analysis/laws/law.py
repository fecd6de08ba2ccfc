"""The contract of a law: a formula with bounded parameters, fitted to logarithms of the error."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]
"""One number a point, or a parameter."""
Matrix = NDArray[np.float64]
"""Points x parameters."""


@dataclass(frozen=True, kw_only=True)
class Parameter:
    name: str
    meaning: str
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Law:
    """One functional form y(x), both positive."""

    name: str
    formula: str
    source: str
    parameters: tuple[Parameter, ...]
    log_predict: Callable[[Vector, Vector], Vector]
    """(x, parameters) -> ln y, shape of x."""
    log_gradient: Callable[[Vector, Vector], Matrix]
    """(x, parameters) -> d ln y / d parameters, (n, n_parameters)."""
    starts: Callable[[Vector, Vector], list[Vector]]
    """(x, y) -> starting points from the data."""
    example: dict[str, float]
    """Parameters that a noiseless fit must find again."""

    def predict(self, x: Vector, parameters: Vector) -> Vector:
        return np.exp(self.log_predict(x, parameters))
