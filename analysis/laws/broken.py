"""y = a + b x^-c0 prod_i (1 + (x/d_i)^(1/f_i))^(-c_i f_i): a power law whose exponent changes at n smooth breaks.

Good at curves that bend (several phases, even a rise before a fall); bad at few points, as each break costs three
parameters. A break is searched for inside the data only: one beyond them cannot be seen.
"""

from __future__ import annotations

import functools
import itertools

import numpy as np

from analysis.laws.law import MAX_EXPONENT, VANISHING, Law, Parameter
from analysis.laws.lines import weighted_lines
from analysis.points import Index, Matrix, Stack, Vector

SHARPEST = np.log(0.02)
"""ln f: a break within 2 % of x cannot be told from a corner."""
PLACES = {1: 14, 2: 9, 3: 7}
"""Grid of ln d of the starts, by number of breaks; ordered combinations of these places."""
WIDTHS = (0.02, 0.06, 0.15)
"""f of the starts, as parts of the range of ln x."""
FLOORS = np.array([1.0, 0.6, 0.3, 0.12, 0.04, 0.01])
"""a of the starts: the smallest y less these parts of it."""


def softplus(t: Stack) -> Stack:
    return np.logaddexp(0.0, t)


def _columns(n_breaks: int) -> tuple[Index, Index, Index]:
    """Of c_i, ln d_i and ln f_i in a theta."""
    first = 3 + 3 * np.arange(n_breaks)
    return first, first + 1, first + 2


def evaluate(x: Matrix, thetas: Matrix) -> tuple[Matrix, Stack]:
    """Theta: ln a, ln b, c0, then c_i, ln d_i, ln f_i of each break."""
    c_columns, d_columns, f_columns = _columns(thetas.shape[1] // 3 - 1)
    ln_x = np.log(x[:, 0])
    c, ln_d, ln_f = (thetas[:, None, columns] for columns in (c_columns, d_columns, f_columns))
    f = np.exp(ln_f)
    t = (ln_x[:, None] - ln_d) / f
    bend, past = softplus(t), np.exp(-softplus(-t))
    removable = thetas[:, 1:2] - thetas[:, 2:3] * ln_x - (c * f * bend).sum(axis=-1)
    curves = np.logaddexp(thetas[:, :1], removable)
    share = np.exp(removable - curves)
    gradient = np.empty((*curves.shape, thetas.shape[1]))
    gradient[..., 0], gradient[..., 1], gradient[..., 2] = 1 - share, share, -share * ln_x
    gradient[..., c_columns] = -share[..., None] * f * bend
    gradient[..., d_columns] = share[..., None] * c * past
    gradient[..., f_columns] = -share[..., None] * c * f * (bend - t * past)
    return curves, gradient


def bounds(n_breaks: int, x: Matrix, y: Vector) -> tuple[Vector, Vector]:
    ln_x, least = np.log(x[:, 0]), np.log(y.min())
    width = np.log(max(np.ptp(ln_x), 0.1))
    low = np.array([least - VANISHING, -np.inf, -MAX_EXPONENT] + [-MAX_EXPONENT, ln_x.min(), SHARPEST] * n_breaks)
    high = np.array([np.log(y.max()), np.inf, MAX_EXPONENT] + [MAX_EXPONENT, ln_x.max(), width] * n_breaks)
    return low, high


def starts(n_breaks: int, x: Matrix, y: Vector) -> Matrix:
    """Given floor, breaks and their widths, ln(y - a) is linear in ln b, c0 and the c_i."""
    c_columns, d_columns, f_columns = _columns(n_breaks)
    low, high = bounds(n_breaks, x, y)
    ln_x = np.log(x[:, 0])
    places = np.quantile(ln_x, np.linspace(0, 1, PLACES[n_breaks] + 2)[1:-1])
    widths = np.ptp(ln_x) * np.array(WIDTHS)
    grid = itertools.product(itertools.combinations(places, n_breaks), widths, y.min() * (1 - FLOORS))
    rows = np.array([[*ln_d, f, a] for ln_d, f, a in grid])
    ln_d, f, a = rows[:, None, :n_breaks], rows[:, -2, None], rows[:, -1, None]
    bends = -f[..., None] * softplus((ln_x[:, None] - ln_d) / f[..., None])
    ones = np.ones((len(rows), len(ln_x)))
    columns = np.concatenate([np.stack([ones, -ln_x * ones], axis=-1), bends], axis=-1)
    lines = weighted_lines(columns, np.log(y - a), (y - a) / y)
    found = np.empty((len(rows), len(low)))
    found[:, 0], found[:, 1:3] = np.log(np.maximum(a[:, 0], np.finfo(float).tiny)), lines[:, :2]
    found[:, c_columns], found[:, d_columns] = lines[:, 2:], ln_d[:, 0]
    found[:, f_columns] = np.log(f)
    return np.clip(found, low, high)


def broken(n_breaks: int) -> Law:
    """The law of `n_breaks` breaks, 1 to 3; 3 + 3 n_breaks parameters."""
    breaks = [
        parameter
        for i in range(1, n_breaks + 1)
        for parameter in (
            Parameter(name=f"c{i}", meaning=f"what break {i} adds to the exponent"),
            Parameter(name=f"d{i}", meaning=f"x at break {i}", log=True),
            Parameter(name=f"f{i}", meaning=f"width of break {i} in ln x; small is sharp", log=True),
        )
    ]
    product = " ".join(f"(1 + (x/d{i})^(1/f{i}))^(-c{i} f{i})" for i in range(1, n_breaks + 1))
    first = {"c1": 0.25, "d1": 1e5, "f1": 0.7}
    more = {2: {"c2": -0.3, "d2": 1e8, "f2": 0.5}, 3: {"c3": 0.35, "d3": 1e10, "f3": 0.4}}
    example = {"a": 0.02, "b": 3.0, "c0": 0.1} | first
    for i in range(2, n_breaks + 1):
        example |= more[i]
    return Law(
        name=f"broken{n_breaks}",
        formula=f"a + b x^-c0 {product}",
        source="Caballero et al. 2023 (arXiv 2210.14891), equation 1",
        inputs=("x",),
        parameters=(
            Parameter(name="a", meaning="floor: the error that scale does not remove", log=True),
            Parameter(name="b", meaning="removable error at x = 1, were there no break", log=True),
            Parameter(name="c0", meaning="exponent before the first break; positive when scale helps"),
            *breaks,
        ),
        evaluate=evaluate,
        bounds=functools.partial(bounds, n_breaks),
        starts=functools.partial(starts, n_breaks),
        example=example,
        example_x=np.geomspace(1e3, 1e9 if n_breaks == 1 else 1e12, 30 + 10 * n_breaks)[:, None],
    )


BROKEN1, BROKEN2, BROKEN3 = broken(1), broken(2), broken(3)
