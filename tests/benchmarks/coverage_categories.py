"""How often the intervals of the laws of categories hold the truth: the mixture law, and one law across algorithms.

Part of `python -m tests.benchmarks.coverage`. Each data set is fitted by itself, as the report does.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from analysis.compare import patterns
from analysis.fit import Fit, fit
from analysis.laws import LAWS
from analysis.laws.across import across
from analysis.laws.law import Law
from analysis.laws.mixture import mixture
from analysis.points import Matrix, Points, Vector, cell_means, points
from analysis.uncertainty import Estimate, uncertainty

NOISE = 0.02
"""Standard deviation of ln y from run to run, as in `coverage`."""
SAME = 1e-6
"""By which a share may miss a truth of 0 or 1 in rounding."""
GROUPS = ("a", "b", "c")


@dataclass(frozen=True, kw_only=True)
class Answers:
    """Of one design."""

    name: str
    n_cells: int
    seeds: int
    n_sets: int
    covered: dict[str, float]
    """Number -> share of data sets whose interval holds the truth; one that is missing does not."""
    width: dict[str, float]
    """Median, in the number's own unit."""
    note: str = ""

    def row(self, numbers: Sequence[str]) -> str:
        cells = [
            f"{100 * self.covered[name]:.0f} ({self.width[name]:.2g})" if name in self.covered else "-"
            for name in numbers
        ]
        note = [self.note] if self.note else []
        return f"| {' | '.join(map(str, (self.name, self.n_cells, self.seeds, self.n_sets, *cells, *note)))} |"


def _noisy(law: Law, theta: Vector, x: Matrix, seeds: int, rng: np.random.Generator) -> Points:
    x = np.repeat(x, seeds, axis=0)
    return cell_means(points(x, np.exp(law.log_predict(x, theta) + NOISE * rng.standard_normal(len(x)))))


def _answers(
    name: str, x: Matrix, seeds: int, truth: dict[str, float], found: Sequence[dict[str, Estimate]], note: str = ""
) -> Answers:
    missing = Estimate(value=np.nan, se=np.nan, low=np.nan, high=np.nan)
    covered, width = {}, {}
    for number, true in truth.items():
        ends = [one.get(number, missing) for one in found]
        covered[number] = float(np.mean([end.low - SAME <= true <= end.high + SAME for end in ends]))
        width[number] = float(np.median([np.inf if np.isnan(end.low) else end.high - end.low for end in ends]))
    return Answers(name=name, n_cells=len(x), seeds=seeds, n_sets=len(found), covered=covered, width=width, note=note)


# --- mixtures ------------------------------------------------------------------------------------------------------

BLENDS = {
    "a:b, 3 mixtures": [(1, 0), (0.5, 0.5), (0, 1)],
    "a:b, 5 mixtures": [(1, 0), (0.75, 0.25), (0.5, 0.5), (0.25, 0.75), (0, 1)],
    "a:b:c, 7 mixtures": [*np.eye(3), np.full(3, 1 / 3), *(0.5 * np.eye(3) + 0.5 / 3)],
}
KAPPAS = {"gamma 0.48": 1.6, "gamma 1.2": 4.0, "gamma 0.75": 2.5}
SLOW, USUAL = "gamma 0.75", "a:b, 5 mixtures"
"""Nearly a corner, where the profile of the best mixture takes seconds; the blend that is run with seeds, too."""
MIXTURE_NUMBERS = ("gamma", "best_share_a", "best_share_b")


def mixtures(n_sets: int) -> Iterator[Answers]:
    """The law's example at two model sizes, three data sizes and each blend."""
    for kind, kappa in KAPPAS.items():
        for name, blend in BLENDS.items():
            if kind == SLOW and name != USUAL:
                continue
            law = mixture(GROUPS[: len(blend[0])])
            x = np.array([[n, d, *shares] for n in (1e6, 1e7) for d in (1e4, 1e5, 1e6) for shares in blend])
            theta = law.theta(law.example | {"kappa": kappa})
            truth = {one.name: float(one.compute(theta[None])[0]) for one in law.derived}
            for seeds in (1, 3) if name == USUAL and kind != SLOW else (1,):
                rng, found = np.random.default_rng(0), []
                for _ in range(n_sets):
                    sure = uncertainty(fit(law, _noisy(law, theta, x, seeds, rng)))
                    found.append({one.name: sure.of(one.compute) for one in law.derived})
                label = f"{name}, {kind}, best a:b {truth['best_share_a']:.2f}:{truth['best_share_b']:.2f}"
                yield _answers(label, x, seeds, {key: truth[key] for key in MIXTURE_NUMBERS}, found)


# --- across categories ---------------------------------------------------------------------------------------------

ACROSS: dict[str, tuple[str, tuple[str, ...], dict[str, tuple[float, ...]]]] = {
    "power, b shared": ("power", ("a",), {"a": (0.6, 0.7, 0.9), "b": (0.12, 0.12, 0.12)}),
    "power, b of each 0.12, 0.13, 0.14": ("power", ("a", "b"), {"a": (0.6, 0.7, 0.9), "b": (0.12, 0.13, 0.14)}),
    "power, b of each 0.12, 0.15, 0.18": ("power", ("a", "b"), {"a": (0.6, 0.7, 0.9), "b": (0.12, 0.15, 0.18)}),
    "saturating, b shared": (
        "saturating",
        ("a", "c"),
        {"a": (2.7, 2.2, 1.8), "b": (0.25, 0.25, 0.25), "c": (0.05, 0.04, 0.06)},
    ),
}
"""Law, the parameters that differ, and the value of each in three categories."""
ACROSS_NUMBERS = ("b of the first, pattern known", "b of the first, pattern by AICc")


def of_across(n_sets: int) -> Iterator[Answers]:
    """Of the first category's exponent: where it is known which parameters differ, and where AICc says."""
    for name, (base_name, separate, values) in ACROSS.items():
        base = LAWS[base_name]
        whole = across(base, GROUPS, base.names)
        planted = whole.theta({f"{p}[{g}]": values[p][i] for p in base.names for i, g in enumerate(GROUPS)})
        for n_sizes, seeds in ((4, 1), (6, 1), (6, 3), (12, 1)):
            sizes = np.geomspace(1e5, 1e8, n_sizes)
            x = np.array([[size, group + 1.0] for group in range(len(GROUPS)) for size in sizes])
            rng, found, right = np.random.default_rng(0), [], 0
            for _ in range(n_sets):
                given = _noisy(whole, planted, x, seeds, rng)
                known = fit(across(base, GROUPS, separate), given)
                best = patterns(base, GROUPS, given)[0]
                right += set(best.separate) == set(separate)
                found.append({key: _first(of) for key, of in zip(ACROSS_NUMBERS, (known, best.fit), strict=True)})
            truth = dict.fromkeys(ACROSS_NUMBERS, values["b"][0])
            yield _answers(name, x, seeds, truth, found, f"{100 * right / n_sets:.0f} %")


def _first(found: Fit) -> Estimate:
    parameters = uncertainty(found).parameters()
    return parameters["b"] if "b" in parameters else parameters[f"b[{GROUPS[0]}]"]
