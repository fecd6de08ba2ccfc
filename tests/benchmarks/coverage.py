"""How often an interval that says 95 % holds the truth, on planted laws: `python -m tests.benchmarks.coverage`.

Prints the tables of results/coverage.md, those of single laws in a few minutes on one core. For profiles all data sets
of a design are searched in one batch of the code that serves one fit (a test holds the two to the same numbers); other
methods fit one by one, as do the choice among laws and the laws of categories.
"""

from __future__ import annotations

import argparse
import os
import platform
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date

import numpy as np
from scipy import stats

from analysis import profile
from analysis.fit import fit, refits
from analysis.laws import LAWS
from analysis.laws.law import Law
from analysis.objective import LOG_HUBER, LOG_SQUARED, Objective
from analysis.points import Matrix, Vector, points
from analysis.rows import Rows
from analysis.uncertainty import Method, uncertainty
from tests.benchmarks.coverage_categories import ACROSS_NUMBERS, MIXTURE_NUMBERS, mixtures, of_across
from tests.benchmarks.coverage_choice import CHOICE_COLUMNS, choice_row, designs, of_choice, sets_of

LEVEL = 0.95
NOISE = 0.02
"""Standard deviation of ln y from run to run: that of probe errors of repeated pretraining."""
BEYOND = 10.0
"""How far beyond the largest size the prediction is asked."""


@dataclass(frozen=True, kw_only=True)
class Design:
    """A planted law on a design of sizes."""

    name: str
    law: Law
    theta: Vector
    x: Matrix
    """(n, k) one row a size."""
    seeds: int
    noise: float = NOISE

    @property
    def asked(self) -> Matrix:
        """The largest size, and ten times it."""
        return np.stack([self.x.max(axis=0), BEYOND * self.x.max(axis=0)])

    @property
    def label(self) -> str:
        return f"{self.name} | {len(self.x)} | {self.seeds}"


@dataclass(frozen=True, kw_only=True)
class Coverage:
    """Of one number in one design."""

    design: Design
    method: str
    number: str
    n_sets: int
    covered: float
    """Share of data sets whose interval holds the truth; an interval that is missing does not."""
    open_low: float
    """Share of intervals without a lower limit."""
    open_high: float
    width: float
    """Median of high - low, of theta or of ln y; infinite where most are open."""


def planted(n_sizes: tuple[int, ...] = (4, 6, 12), seeds: tuple[int, ...] = (1, 2, 3)) -> Iterator[Design]:
    """The learning-curve laws over three decades, and Chinchilla's on small grids.

    Seen: the removable error falls from three times the floor to half of it. Unseen: the floor is a hundredth of the
    smallest removable error, so that half of all fits would rather have none.
    """
    power, saturating, chinchilla = LAWS["power"], LAWS["saturating"], LAWS["chinchilla"]
    laws = [
        ("power", power, power.theta({"a": 0.6, "b": 0.12})),
        ("saturating, floor seen", saturating, np.array([1.0, 0.25, -3.0])),
        ("saturating, floor unseen", saturating, np.array([1.0, 0.25, -8.0])),
    ]
    for name, law, theta in laws:
        for n in n_sizes:
            for repeats in seeds:
                yield Design(name=name, law=law, theta=theta, x=np.geomspace(1e5, 1e8, n)[:, None], seeds=repeats)
    for side in (3, 4):
        grid = np.meshgrid(np.geomspace(1e7, 1e9, side), np.geomspace(2e8, 2e10, side))
        x = np.column_stack([axis.ravel() for axis in grid])
        theta = chinchilla.theta(chinchilla.example)
        for repeats in seeds:
            yield Design(name=f"chinchilla, {side} x {side}", law=chinchilla, theta=theta, x=x, seeds=repeats)


def profiles(design: Design, n_sets: int, seed: int = 0) -> tuple[list[str], Vector, profile.Ends]:
    """Names, truths (n_sets, K) and 95 % profile ends of all parameters, the curve and a new run in every data set."""
    law, theta, k = design.law, design.theta, design.seeds
    rng = np.random.default_rng(seed)
    curve, n = law.log_predict(design.x, theta), len(design.x)
    noise = design.noise * rng.standard_normal((n_sets, n, k))
    within = noise.var(axis=2, ddof=1).mean(axis=1) if k > 1 else np.zeros(n_sets)
    measured = curve + noise.mean(axis=2)
    rows = _rows(design, measured)
    free = rows.free
    variance = rows.squares(rows.thetas) / free
    t = np.asarray(stats.t.ppf((1 + LEVEL) / 2, free))
    parameters = profile.coordinates(rows.low[0], rows.high[0])
    asked, far = profile.log_curve(law, design.asked), profile.log_curve(law, design.asked[1:])
    one = variance[:, None]
    if k > 1:
        curve, lost = rows.spread(far.evaluate(rows.thetas)[1]) * one, within[:, None] * (1 - 1 / k)
        one = profile.variance_of_a_run(curve, one / k, float(free[0]), lost, n * (k - 1), level=LEVEL)
    parts = [
        profile.interval_ends(rows, parameters, t, variance),
        profile.interval_ends(rows, asked, t, variance),
        profile.interval_ends(rows, far, t, variance, variance[:, None] / one),
    ]
    truth = np.concatenate([theta, law.log_predict(design.asked, theta)])
    run = truth[-1] + design.noise * rng.standard_normal(n_sets)
    ends = profile.Ends(
        low=np.concatenate([part.low for part in parts], axis=1),
        high=np.concatenate([part.high for part in parts], axis=1),
        low_open=np.concatenate([part.low_open for part in parts], axis=1),
        high_open=np.concatenate([part.high_open for part in parts], axis=1),
        better=np.any([part.better for part in parts], axis=0),
    )
    return numbers(law), np.column_stack([np.broadcast_to(truth, (n_sets, len(truth))), run]), ends


def _rows(design: Design, measured: Matrix) -> Rows:
    """Every data set's optimum, searched from that of the curve without noise."""
    law, x = design.law, design.x
    base = fit(law, points(x, np.exp(law.log_predict(x, design.theta))))
    thetas, _ = refits(base, targets=np.exp(measured))
    bounds = [law.bounds(x, np.exp(one)) for one in measured]
    low, high = np.array([low for low, _ in bounds]), np.array([high for _, high in bounds])
    return Rows(
        evaluate=law.evaluate,
        x=x,
        measured=measured,
        weights=np.full(measured.shape, float(design.seeds)),
        thetas=np.clip(thetas, low, high),
        low=low,
        high=high,
        logs=law.logs,
    )


def covered(design: Design, n_sets: int, seed: int = 0) -> list[Coverage]:
    """By profile; an open end holds everything on its side."""
    names, truth, ends = profiles(design, n_sets, seed)
    low, high = np.where(ends.low_open, -np.inf, ends.low), np.where(ends.high_open, np.inf, ends.high)
    holds = (low <= truth) & (truth <= high)
    with np.errstate(invalid="ignore"):
        width = np.median(high - low, axis=0)
    return [
        Coverage(
            design=design,
            method="profile",
            number=name,
            n_sets=n_sets,
            covered=float(holds[:, j].mean()),
            open_low=float(ends.low_open[:, j].mean()),
            open_high=float(ends.high_open[:, j].mean()),
            width=float(width[j]),
        )
        for j, name in enumerate(names)
    ]


def one_by_one(design: Design, objective: Objective, method: Method, n_sets: int, *, n: int = 300) -> list[Coverage]:
    """The same by any method and objective, each data set fitted by itself as a user would; a fit that failed is one
    that does not cover."""
    law, theta, rng = design.law, design.theta, np.random.default_rng(0)
    x, curve = np.repeat(design.x, design.seeds, axis=0), law.log_predict(design.x, theta)
    truth = law.predict(design.asked, theta)
    holds, widths, chosen = [], [], method
    for _ in range(n_sets):
        noise = design.noise * rng.standard_normal(len(x))
        run = truth[1] * np.exp(design.noise * rng.standard_normal())
        found = fit(law, points(x, np.exp(np.repeat(curve, design.seeds) + noise)), objective=objective)
        estimates = uncertainty(found, method=method, n=n)
        chosen = estimates.method
        bands = estimates.curve(design.asked), estimates.new_runs(design.asked[1:])
        ends = [(e.low, e.high) for e in estimates.parameters().values()]
        ends += [(low, high) for band in bands for low, high in zip(band.low, band.high, strict=True)]
        low, high = np.array(ends).T if len(ends) > 3 else np.full((2, len(theta) + 3), np.nan)
        true = np.array([*law.natural(theta), *truth, run])
        holds.append((low <= true) & (true <= high))
        widths.append((high - low) / true)
    shares, width = np.mean(holds, axis=0), np.median(widths, axis=0)
    return [
        Coverage(
            design=design,
            method=f"{chosen}, {objective.name}",
            number=name,
            n_sets=n_sets,
            covered=float(share),
            open_low=0.0,
            open_high=0.0,
            width=float(wide),
        )
        for name, share, wide in zip(numbers(law), shares, width, strict=True)
    ]


def numbers(law: Law) -> list[str]:
    """What is asked of every design."""
    return [*law.names, "curve at the largest", f"curve at {BEYOND:.0f}x", f"new run at {BEYOND:.0f}x"]


def others(n_sets: int) -> Iterator[list[Coverage]]:
    """Robust objectives on few and on many sizes, and methods where they are not the automatic choice."""
    laws = ("power", "saturating, floor seen", "saturating, floor unseen")
    designs = [design for design in planted((4, 6, 12, 24), (1, 3)) if design.name in laws]
    for design in designs:
        if design.seeds == 1 or len(design.x) == 6:
            yield one_by_one(design, LOG_HUBER, "auto", n_sets)
    methods: tuple[Method, ...] = ("delta", "parametric", "wild", "bootstrap")
    for method in methods:
        for design in designs:
            if design.name == laws[1] and design.seeds == 1 and len(design.x) in (6, 24):
                yield one_by_one(design, LOG_SQUARED, method, n_sets)


def markdown(found: list[Coverage]) -> str:
    """One row a design: coverage in per cent and the median width of every number."""
    named = {one.number: f"{100 * one.covered:.1f} ({one.width:.2g})" for one in found}
    # laws name floor and exponents differently; a table has one column for each kind
    floor = named.get("c", named.get("E", "-"))
    exponents = " / ".join(named[name] for name in ("b", "alpha", "beta") if name in named)
    rest = [named[name] for name in numbers(found[0].design.law)[-3:]]
    one = found[0]
    return " | ".join((f"| {one.design.label}", one.method, str(one.n_sets), exponents, floor, *rest)) + " |"


ASKED = ("exponent(s)", "floor", "curve at the largest", "curve at 10x", "new run at 10x")
COLUMNS = ("law", "sizes", "seeds", "method", "data sets", *ASKED)
OF_CELLS = ("design", "cells", "seeds", "data sets")


def head(columns: Sequence[str]) -> str:
    return f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}"


def tables(given: argparse.Namespace) -> Iterator[str]:
    """Lines of those asked for."""
    if given.sets or given.others:
        yield head(COLUMNS)
    if given.sets:
        yield from (markdown(covered(design, given.sets)) for design in planted())
    if given.others:
        yield from map(markdown, others(given.others))
    if given.choice:
        yield head(CHOICE_COLUMNS)
        yield from (choice_row(of_choice(design, sets_of(design, given.choice))) for design in designs())
    if given.mixtures:
        yield head((*OF_CELLS, *MIXTURE_NUMBERS))
        yield from (one.row(MIXTURE_NUMBERS) for one in mixtures(given.mixtures))
    if given.across:
        yield head((*OF_CELLS, *ACROSS_NUMBERS, "AICc finds the pattern"))
        yield from (one.row(ACROSS_NUMBERS) for one in of_across(given.across))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.coverage", description=__doc__.splitlines()[0])
    for flag, usual, what in (
        ("sets", 1000, "single laws by profile"),
        ("others", 100, "single laws by other methods, one by one"),
        ("choice", 0, "the choice among laws; half an hour for 100"),
        ("mixtures", 0, "the mixture law"),
        ("across", 0, "one law across categories"),
    ):
        said = f"data sets a design, {what} (default {usual}; 0: none)"
        parser.add_argument(f"--{flag}", type=int, default=usual, help=said)
    given = parser.parse_args()
    started = time.perf_counter()
    where = f"{os.cpu_count()} x {platform.machine()}, Python {platform.python_version()}, numpy {np.__version__}"
    asked = " ".join(f"--{flag} {n}" for flag, n in vars(given).items() if n or flag in ("sets", "others"))
    print(f"{date.today()}, `python -m tests.benchmarks.coverage {asked}`, {where}\n")
    for line in tables(given):
        print(line, flush=True)
    print(f"\n{time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
