"""How often the intervals hold the truth where no law is given: of the choice among laws, and of laws of categories.

Part of `python -m tests.benchmarks.coverage`. Each data set is fitted by itself, as a user's is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from analysis.laws import LAWS
from analysis.laws.law import Law
from analysis.points import Matrix, Points, Vector, cell_means, points
from analysis.select import Selection, select

NOISE = 0.02
"""Standard deviation of ln y from run to run, as in `coverage`."""
TIMES = np.array([1.0, 3.0, 10.0])
"""The largest size, at which the prediction is asked."""
SHAPES: dict[str, tuple[str, dict[str, float]]] = {
    "power": ("power", {"a": 0.6, "b": 0.12}),
    "saturating, floor seen": ("saturating", {"a": np.e, "b": 0.25, "c": np.exp(-3.0)}),
    "saturating, floor unseen": ("saturating", {"a": np.e, "b": 0.25, "c": np.exp(-8.0)}),
    "m3, a bend": ("m3", {"beta": np.e, "c": -0.25, "gamma": 1e-7}),
    "m4, a plateau first": ("m4", {"b": 1000.0, "c": -0.5, "alpha": 0.7, "eps_inf": 0.05, "eps_0": 0.7}),
    "broken1, slow then fast": ("broken1", {"a": 1e-3, "b": 1.0, "c0": 0.05, "c1": 0.25, "d1": 3e6, "f1": 0.5}),
    "broken1, fast then slow": ("broken1", {"a": 1e-3, "b": 10.0, "c0": 0.3, "c1": -0.22, "d1": 3e6, "f1": 0.5}),
}
"""Law and natural parameters. Over three decades from 1e5: the bend of M3 at 1e7, M4 from 8 % below its upper limit to
three times its floor, breaks in the middle."""


AT_LENGTH = ("saturating, floor seen", "m4, a plateau first", "broken1, fast then slow")
PART = {6: 1.0, 12: 0.4, 24: 0.3}
"""Of the data sets asked for, by sizes: one of twelve sizes takes as long as five of six."""


@dataclass(frozen=True, kw_only=True)
class Planted:
    """A shape on a design of sizes, 1e5 to 1e8."""

    name: str
    n_sizes: int
    seeds: int

    @property
    def law(self) -> Law:
        return LAWS[SHAPES[self.name][0]]

    @property
    def theta(self) -> Vector:
        return self.law.theta(SHAPES[self.name][1])

    @property
    def x(self) -> Matrix:
        return np.geomspace(1e5, 1e8, self.n_sizes)[:, None]

    @property
    def asked(self) -> Matrix:
        return self.x.max() * TIMES[:, None]

    def data(self, i: int, seed: int = 0) -> tuple[Points, Vector]:
        """Data set `i`, as cell means, and the error of one new run at every size asked for."""
        rng = np.random.default_rng([seed, i, self.n_sizes, self.seeds])
        x = np.repeat(self.x, self.seeds, axis=0)
        logs = self.law.log_predict(x, self.theta) + NOISE * rng.standard_normal(len(x))
        runs = self.law.log_predict(self.asked, self.theta) + NOISE * rng.standard_normal(len(self.asked))
        return cell_means(points(x, np.exp(logs))), np.exp(runs)


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """Of one design: per cent of data sets whose interval holds the truth, and median width of the interval in ln y."""

    design: Planted
    n_sets: int
    curve: Vector
    """(3,) shares at the sizes asked for; an interval that is missing does not hold."""
    width: Vector
    runs: Vector
    """(3,) the same of one new run."""
    run_width: Vector
    right: float
    """Share of data sets in which the winner is the planted law."""


def designs() -> Iterator[Planted]:
    """Six, twelve and, of three shapes, twenty-four sizes."""
    for n_sizes, seeds in ((6, 1), (6, 3), (12, 1), (24, 1)):
        for name in SHAPES:
            if n_sizes < 24 or name in AT_LENGTH:
                yield Planted(name=name, n_sizes=n_sizes, seeds=seeds)


def sets_of(design: Planted, n_sets: int) -> int:
    return max(1, round(PART[design.n_sizes] * n_sets))


def of_choice(design: Planted, n_sets: int) -> Chosen:
    truth = design.law.predict(design.asked, design.theta)
    holds: list[Matrix] = []
    widths: list[Matrix] = []
    right = 0
    for i in range(n_sets):
        given, runs = design.data(i)
        chosen = select(given)
        inside, width = judged(chosen, design.asked, (truth, runs))
        holds.append(inside)
        widths.append(width)
        right += chosen.winner is not None and chosen.winner.law.name == design.law.name
    share, width = np.mean(holds, axis=0), np.median(widths, axis=0)
    return Chosen(
        design=design,
        n_sets=n_sets,
        curve=share[0],
        width=width[0],
        runs=share[1],
        run_width=width[1],
        right=right / n_sets,
    )


def judged(chosen: Selection, asked: Matrix, truths: Sequence[Vector]) -> tuple[Matrix, Matrix]:
    """(2, m) whether the curve's and new runs' intervals hold their truths, and their widths in ln y; NaN is inf."""
    if chosen.winner is None:
        return np.zeros((2, len(asked)), bool), np.full((2, len(asked)), np.inf)
    bands = chosen.curve(asked), chosen.new_runs(asked)
    holds = np.stack([(band.low <= true) & (true <= band.high) for band, true in zip(bands, truths, strict=True)])
    widths = np.stack([np.log(band.high / band.low) for band in bands])
    return holds, np.where(np.isnan(widths), np.inf, widths)


ASKED = tuple(f"{what} at {times:.0f}x" for what in ("curve", "new run") for times in TIMES)
CHOICE_COLUMNS = ("shape", "sizes", "seeds", "data sets", "planted law wins", *ASKED)


def choice_row(found: Chosen) -> str:
    design = found.design
    cells = [
        f"{100 * share:.0f} ({width:.2g})"
        for shares, widths in ((found.curve, found.width), (found.runs, found.run_width))
        for share, width in zip(shares, widths, strict=True)
    ]
    first = (design.name, design.n_sizes, design.seeds, found.n_sets, f"{100 * found.right:.0f} %")
    return f"| {' | '.join(map(str, (*first, *cells)))} |"
