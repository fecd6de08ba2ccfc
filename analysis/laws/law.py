"""The contract of a law: a positive curve of its inputs, in logarithms with their gradient, for many fits at once.

Everything is batched over B parameter vectors, so that the starts of a fit and its resamples cost one call, not B.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from analysis.points import Matrix, Stack, Vector

MAX_EXPONENT = 10.0
"""Beyond any exponent seen in practice (0.05 to 1), so that a fit ending here says the data have no such power."""
VANISHING = 15.0
"""A term e^-15 of the smallest error seen cannot be told from none: where the logarithm of a floor or a coefficient is
bounded below, relative to the data, so that units change nothing."""


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """One number of a law. The optimiser moves `theta`: the parameter itself, or its logarithm."""

    name: str
    """The paper's letter, in ASCII: A, B, E, alpha, beta."""
    meaning: str
    """With its unit."""
    log: bool = False
    """Whether theta is the natural logarithm of the parameter, as for whatever must stay positive."""

    def natural(self, theta: Vector) -> Vector:
        return np.exp(theta) if self.log else theta

    def internal(self, value: float) -> float:
        return float(np.log(value)) if self.log else value


@dataclass(frozen=True, kw_only=True)
class Derived:
    """A number that follows from the parameters, such as the exponent of the frontier."""

    name: str
    meaning: str
    compute: Callable[[Matrix], Vector]
    """(B, p) thetas -> (B,)."""


@dataclass(frozen=True, kw_only=True)
class Law:
    """One functional form, y(inputs) > 0."""

    name: str
    formula: str
    """In the parameters' names."""
    source: str
    """Paper and equation."""
    inputs: tuple[str, ...]
    """Columns of x in order: `x` alone, or names of `analysis.observations` such as n_params, n_images."""
    parameters: tuple[Parameter, ...]
    evaluate: Callable[[Matrix, Matrix], tuple[Matrix, Stack]]
    """x (n, k), thetas (B, p) -> ln y (B, n) and d ln y / d theta (B, n, p); finite wherever thetas lie in `bounds`."""
    bounds: Callable[[Matrix, Vector], tuple[Vector, Vector]]
    """x (n, k), y (n,) -> low (p,), high (p,) of theta; may be infinite. Data-driven, so that units change nothing."""
    starts: Callable[[Matrix, Vector], Matrix]
    """x, y -> (S, p) thetas to start from; many are welcome, as all are scored in one call and the best are kept."""
    example: dict[str, float]
    """Natural values that a noiseless fit on `example_x` must find again."""
    example_x: Matrix
    """(n, k) a design that identifies the law."""
    unidentified: Callable[[Matrix], str] = lambda x: ""
    """x -> why this design cannot tell the parameters apart, or ''. Asked before any fit."""
    derived: tuple[Derived, ...] = ()
    may_be_zero: tuple[str, ...] = ()
    """Inputs of which a point may have none, such as the share of a modality; all others are positive."""

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(parameter.name for parameter in self.parameters)

    @property
    def logs(self) -> NDArray[np.bool_]:
        """(p,) whether theta is a logarithm."""
        return np.array([parameter.log for parameter in self.parameters])

    def theta(self, values: dict[str, float]) -> Vector:
        """Natural values by name -> theta (p,)."""
        return np.array([parameter.internal(values[parameter.name]) for parameter in self.parameters])

    def natural(self, thetas: Matrix) -> Matrix:
        """(..., p) thetas -> natural values."""
        columns = [p.natural(thetas[..., i]) for i, p in enumerate(self.parameters)]
        return np.stack(columns, axis=-1)

    def log_predict(self, x: Matrix, theta: Vector) -> Vector:
        """ln y (n,) of one theta (p,)."""
        return self.evaluate(np.atleast_2d(x), theta[None])[0][0]

    def log_gradient(self, x: Matrix, theta: Vector) -> Matrix:
        """(n, p) of one theta."""
        return self.evaluate(np.atleast_2d(x), theta[None])[1][0]

    def predict(self, x: Matrix, theta: Vector) -> Vector:
        """y (n,) of one theta; infinite where it leaves the range of numbers."""
        with np.errstate(over="ignore"):
            return np.exp(self.log_predict(x, theta))
