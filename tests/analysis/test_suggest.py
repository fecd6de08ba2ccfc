"""Suggested runs: what they are said to bring is what simulated experiments find, and refusals have reasons."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from analysis.fit import Fit, fit, refits
from analysis.laws.chinchilla import CHINCHILLA
from analysis.laws.power import POWER
from analysis.objective import SQUARED
from analysis.points import points
from analysis.suggest import Advice, Candidate, suggest

Array = NDArray[np.float64]
THETA = CHINCHILLA.theta(CHINCHILLA.example)
GRID = np.array(list(itertools.product(np.geomspace(1e6, 3e7, 4), np.geomspace(1e6, 3e7, 4))))
TARGET = np.array([1e9, 1e10])
NOISE = 0.01


def fitted(x: Array = GRID, *, noise: float = NOISE, seed: int = 0) -> Fit:
    scatter = np.exp(noise * np.random.default_rng(seed).standard_normal(len(x)))
    return fit(CHINCHILLA, points(x, CHINCHILLA.predict(x, THETA) * scatter))


def candidate(n_params: float, n_images: float, cost: float | None = None) -> Candidate:
    cost = 6 * n_params * n_images / 1e15 if cost is None else cost
    return Candidate(name=f"{n_params:.2g} x {n_images:.2g}", x=(float(n_params), float(n_images)), cost=float(cost))


CANDIDATES = [candidate(n, d) for n, d in itertools.product(np.geomspace(1e6, 3e8, 6), np.geomspace(1e6, 1e9, 6))]


def simulated_error(x: Array, *, n: int = 600) -> float:
    """Standard deviation of ln y at the target over refits of `n` experiments, from the middle 68 %: known to 4 %."""
    exact = fit(CHINCHILLA, points(x, CHINCHILLA.predict(x, THETA)))
    noise = np.exp(NOISE * np.random.default_rng(7).standard_normal((n, len(x))))
    thetas, _ = refits(exact, targets=exact.points.y * noise)
    left, right = np.percentile(CHINCHILLA.evaluate(TARGET[None], thetas)[0][:, 0], [15.87, 84.13])
    return float(right - left) / 2


def test_the_promised_shrinkage_is_what_simulated_experiments_find() -> None:
    found = suggest(fitted(), CANDIDATES, TARGET, budget=50.0)
    assert found.status is Advice.GIVEN
    assert found.cost <= 50
    promised = found.steps[-1].log_se / found.log_se
    bought = np.concatenate([GRID, [step.candidate.x for step in found.steps]])
    # two simulated errors of 4 % each, and a law that is not linear: two standard deviations of their ratio
    assert promised == pytest.approx(simulated_error(bought) / simulated_error(GRID), rel=0.15)
    assert promised < 0.5


def test_every_step_shrinks_the_interval_and_none_exceeds_the_budget() -> None:
    found = suggest(fitted(), CANDIDATES, TARGET, budget=5.0)
    shrinks = [1.0, *(step.shrinks for step in found.steps)]
    assert all(after < before for before, after in itertools.pairwise(shrinks))
    assert [step.spent for step in found.steps] == pytest.approx(
        np.cumsum([step.candidate.cost for step in found.steps])
    )
    assert found.cost <= 5
    assert found.interval[0] < found.expected[0] < found.expected[1] < found.interval[1]
    width = [np.log(high / low) for low, high in (found.interval, found.expected)]
    assert width[1] / width[0] == pytest.approx(found.steps[-1].shrinks)


def test_greedy_choices_are_near_the_best_of_all() -> None:
    """Every set of up to four of nine candidates: greedy is within 15 % of the best set's error."""
    few, start = CANDIDATES[::4], fitted()
    found = suggest(start, few, TARGET, budget=8.0)
    sigma2 = float(np.sum(start.residuals**2)) / start.free

    def error(chosen: tuple[Candidate, ...]) -> float:
        x = np.concatenate([GRID, [c.x for c in chosen]]) if chosen else GRID
        jacobian = CHINCHILLA.log_gradient(x, start.theta)
        at = CHINCHILLA.log_gradient(TARGET[None], start.theta)[0]
        return float(np.sqrt(sigma2 * at @ np.linalg.solve(jacobian.T @ jacobian, at)))

    sets = [chosen for n in range(5) for chosen in itertools.combinations(few, n) if sum(c.cost for c in chosen) <= 8]
    assert found.log_se == pytest.approx(error(()), rel=1e-6)
    assert found.steps[-1].log_se == pytest.approx(error(tuple(step.candidate for step in found.steps)), rel=1e-6)
    assert found.steps[-1].log_se < 1.15 * min(map(error, sets))


def test_the_unit_of_cost_and_a_dear_twin_change_nothing() -> None:
    start = fitted()
    found = suggest(start, CANDIDATES, TARGET, budget=5.0)
    in_flops = [replace(c, cost=c.cost * 1e15) for c in CANDIDATES]
    dear = [replace(c, cost=c.cost * 1.001) for c in CANDIDATES]
    assert [s.index for s in suggest(start, in_flops, TARGET, budget=5e15).steps] == [s.index for s in found.steps]
    first = suggest(start, [*dear, *CANDIDATES], TARGET, budget=5.0).steps[0]
    assert first.index == found.steps[0].index + len(CANDIDATES)


def test_where_seeds_share_their_size_s_luck_another_seed_teaches_less_than_another_size() -> None:
    rng = np.random.default_rng(0)
    x = np.repeat(GRID, 3, axis=0)
    luck = np.repeat(0.01 * rng.standard_normal(16), 3)
    y = CHINCHILLA.predict(x, THETA) * np.exp(luck + 0.002 * rng.standard_normal(48))
    seed, beside = candidate(*GRID[3], cost=1.0), candidate(GRID[3][0] * 0.95, GRID[3][1] * 1.05, cost=1.0)
    found = suggest(fit(CHINCHILLA, points(x, y)), [seed, beside], TARGET, budget=2.0)
    assert found.alone is not None
    assert found.alone[0] < 0.2 * found.alone[1]


def test_an_objective_in_the_unit_of_y_gives_errors_of_ln_y() -> None:
    x = GRID * 300
    y = CHINCHILLA.predict(x, THETA) * np.exp(0.002 * np.random.default_rng(0).standard_normal(len(x)))
    start = fit(CHINCHILLA, points(x, y), objective=SQUARED)
    far, target = [candidate(n, d) for n, d in itertools.product((1e9, 3e10), (1e9, 3e10))], np.array([1e11, 1e11])
    found = suggest(start, far, target, budget=1e9)
    sigma = np.sqrt(np.sum(start.residuals**2) / start.free)
    jacobian = CHINCHILLA.log_gradient(x, start.theta) * start.predict(x)[:, None] / sigma
    at = CHINCHILLA.log_gradient(target[None], start.theta)[0]
    assert found.scatter == pytest.approx(sigma / start.predict(target[None])[0])
    assert found.log_se == pytest.approx(np.sqrt(at @ np.linalg.solve(jacobian.T @ jacobian, at)), rel=1e-5)


def test_the_power_law_s_textbook_answer_is_the_farthest_size() -> None:
    """Of a straight line the run with the largest lever tells most about a far point, at equal cost."""
    x = np.geomspace(1e6, 1e8, 5)
    start = fit(POWER, points(x, 0.6 * x**-0.1 * np.exp(0.01 * np.array([1, -1, 0.5, -1, 1]))))
    sizes = [Candidate(name=f"{n:.1g}", x=(n,), cost=1.0) for n in (1e7, 1e8, 1e9)]
    assert suggest(start, sizes, np.array([1e10]), budget=1.0).steps[0].candidate.name == "1e+09"


def test_refusals_have_reasons() -> None:
    one_ratio = np.column_stack([GRID[:, 0], 20 * GRID[:, 0]]) * np.geomspace(1, 3, 16)[:, None]
    unfit = suggest(fitted(one_ratio), CANDIDATES, TARGET, budget=1.0)
    assert (unfit.status, unfit.steps) == (Advice.NO_FIT, ())
    assert "same D/N, about 20" in unfit.reason
    poor = suggest(fitted(), CANDIDATES, TARGET, budget=1e-9)
    assert poor.status is Advice.NOTHING_AFFORDABLE
    assert poor.reason == "nothing for 1e-09; the cheapest costs 0.006"
    assert suggest(fitted(), [], TARGET, budget=1.0).status is Advice.NOTHING_AFFORDABLE
    nowhere = suggest(fitted(), CANDIDATES, np.array([1e9, np.nan]), budget=1.0)
    assert nowhere.status is Advice.NO_TARGET
    at_the_target = suggest(fitted(), CANDIDATES, GRID[0], budget=100.0)
    assert at_the_target.alone is not None
    least = CANDIDATES[int(np.argmin(at_the_target.alone))]
    useless = suggest(fitted(), [least], GRID[0], budget=100.0)
    assert useless.status is Advice.NOTHING_HELPS
    assert useless.reason.startswith("no affordable candidate removes 1% of the prediction's variance")


def test_misuse_is_an_error_that_names_the_candidate() -> None:
    start = fitted()
    with pytest.raises(ValueError, match="target: 1 sizes; the law chinchilla takes 2: n_params, n_images"):
        suggest(start, CANDIDATES, np.array([1e9]), budget=1.0)
    with pytest.raises(ValueError, match="candidate free: sizes and cost must be positive numbers"):
        suggest(start, [Candidate(name="free", x=(1e6, 1e6), cost=0.0)], TARGET, budget=1.0)
    with pytest.raises(ValueError, match="budget: 0 is not positive"):
        suggest(start, CANDIDATES, TARGET, budget=0)
