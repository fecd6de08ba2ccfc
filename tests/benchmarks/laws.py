"""How fast laws are fitted, against the naive way: SciPy, numeric gradients, a grid of starts, a loop over resamples.

Data are planted with the spread of published designs, so that the benchmark needs no file; where the published tables
lie in $SCALING_SHARED, they are used as well.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.optimize import curve_fit, minimize

from analysis.fit import Fit, fit
from analysis.laws import LAWS
from analysis.objective import HUBER_DELTA, LOG_HUBER, LOG_SQUARED
from analysis.points import Points, points
from analysis.select import select
from analysis.uncertainty import uncertainty
from tests.benchmarks.rows import Benchmark, Row, compare, seconds_of

CHINCHILLA = LAWS["chinchilla"]
Predict = Callable[[np.ndarray], np.ndarray]
GRID = list(itertools.product((0, 10, 20), (0, 10, 20), (-1, 0, 0.7, 1.4), (0, 0.4, 0.8, 1.2), (0, 0.4, 0.8, 1.2)))
"""576 starts: Hoffmann et al. 2022, appendix D.3, has 4,500; naive users take a subset."""
TIMED_STARTS, TIMED_RESAMPLES, RESAMPLES = 12, 12, 1000
CURVE_STARTS = 16
AUTHORS = {
    ("power", "NMT"): 0.2217,
    ("power", "LM"): 0.0140,
    ("saturating", "NMT"): 0.0341,
    ("m3", "NMT"): 0.0471,
    ("m3", "LM"): 0.0023,
    ("m4", "NMT"): 0.0208,
}
"""Mean RMSLE of the published code of Alabdulmohsin et al. 2022 (arXiv 2209.06640) on its own curves."""


def design() -> Points:
    """240 runs along nine isoFLOP slices with the noise of the published ones."""
    rng = np.random.default_rng(0)
    flops = np.repeat(np.geomspace(6e18, 3e21, 9), 27)[:240]
    n = np.sqrt(flops / 6 / 20) * np.exp(rng.uniform(-1.5, 1.5, 240))
    x = np.column_stack([n, flops / (6 * n)])
    truth = CHINCHILLA.theta({"A": 480.0, "B": 2100.0, "E": 1.82, "alpha": 0.35, "beta": 0.37})
    return points(x, CHINCHILLA.predict(x, truth) * np.exp(0.006 * rng.standard_t(4, 240)))


def published() -> Points | None:
    path = Path(os.environ.get("SCALING_SHARED", "")) / "reference" / "chinchilla" / "svg_extracted_data.csv"
    if not path.is_file():
        return None
    table = pd.read_csv(path)
    table = table[table["loss"] < np.sort(table["loss"])[-5]]
    n = table["Model Size"].to_numpy(float)
    return points(np.column_stack([n, table["Training FLOP"].to_numpy(float) / (6 * n)]), table["loss"].to_numpy(float))


def naive_objective(given: Points, weights: np.ndarray) -> Callable[[np.ndarray], float]:
    ln_n, ln_d, ln_y = np.log(given.x[:, 0]), np.log(given.x[:, 1]), np.log(given.y)

    def value(theta: np.ndarray) -> float:
        a, b, e, alpha, beta = theta
        curve = np.logaddexp(np.logaddexp(a - alpha * ln_n, b - beta * ln_d), e)
        size = np.abs(curve - ln_y)
        loss = np.where(size <= HUBER_DELTA, 0.5 * size**2, HUBER_DELTA * (size - 0.5 * HUBER_DELTA))
        return float((weights * loss).sum())

    return value


def huber_fit_and_bootstrap() -> Iterator[Row]:
    """Optimum from many starts, then 1,000 resamples of the points."""
    for name, given in (("planted", design()), ("published", published())):
        if given is None:
            continue
        objective = naive_objective(given, np.ones(len(given)))
        rng = np.random.default_rng(0)
        tried = [GRID[i] for i in rng.choice(len(GRID), TIMED_STARTS, replace=False)]
        peer = seconds_of(lambda: [minimize(objective, s, method="L-BFGS-B") for s in tried]) * len(GRID) / TIMED_STARTS  # noqa: B023
        found: list[Fit] = []
        ours = min(seconds_of(lambda: found.append(fit(CHINCHILLA, given, objective=LOG_HUBER))) for _ in range(3))  # noqa: B023
        yield Row(
            what=f"Chinchilla's law by Huber's objective, 240 {name} points, all starts",
            ours=f"{ours:.2f} s",
            peer=f"SciPy, numeric gradients, {len(GRID)} starts: {peer:.0f} s",
            ratio=peer / ours,
            note=f"objective {found[0].value:.10f}; aim 1 s; {TIMED_STARTS} starts timed",
        )
        best = found[0].theta
        counts = rng.multinomial(240, np.full(240, 1 / 240), size=TIMED_RESAMPLES)
        loop = seconds_of(lambda: [minimize(naive_objective(given, c), best, method="L-BFGS-B") for c in counts])  # noqa: B023
        peer = loop * RESAMPLES / TIMED_RESAMPLES
        ours = min(
            seconds_of(lambda: uncertainty(found[0], method="bootstrap", n=RESAMPLES).parameters())  # noqa: B023
            for _ in range(3)
        )
        yield Row(
            what=f"{RESAMPLES:,} bootstraps of it, {name}",
            ours=f"{ours:.2f} s",
            peer=f"SciPy in a loop, one start: {peer:.0f} s",
            ratio=peer / ours,
            note=f"aim 3 s; {TIMED_RESAMPLES} resamples timed",
        )


def curve(law_name: str, n: int = 40) -> Points:
    law = LAWS[law_name]
    x = np.geomspace(law.example_x[:, 0].min(), law.example_x[:, 0].max(), n)[:, None]
    noise = np.exp(0.01 * np.random.default_rng(0).standard_normal(n))
    return points(x, law.predict(x, law.theta(law.example)) * noise)


def one_input_laws() -> Iterator[Row]:
    """A learning curve of 40 points by each law, all starts, against SciPy's curve_fit from some of the same."""
    aims = {"m4": "aim 0.05 s", "broken1": "aim 0.5 s"}
    for name in ("power", "saturating", "m3", "m4", "broken1", "broken2", "sigmoid"):
        law, given = LAWS[name], curve(name)
        starts = law.starts(given.x, given.y)
        chosen = np.random.default_rng(0).permutation(len(starts))[:CURVE_STARTS]

        def peer(law=law, given=given, starts=starts[chosen]) -> None:  # type: ignore[no-untyped-def]
            low, high = law.bounds(given.x, given.y)

            def log_curve(_: np.ndarray, *theta: float) -> np.ndarray:
                return law.log_predict(given.x, np.clip(np.array(theta), low, high))

            for start in np.clip(starts, low + 1e-9, high - 1e-9):
                with contextlib.suppress(RuntimeError), warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    curve_fit(log_curve, given.x[:, 0], np.log(given.y), p0=start, maxfev=2_000)

        ours, theirs = compare(lambda law=law, given=given: fit(law, given, objective=LOG_SQUARED), peer, repeats=3)
        yield Row(
            what=f"law {name}, 40 points, all starts",
            ours=f"{1e3 * ours:.0f} ms",
            peer=f"curve_fit, {len(chosen)} of the {len(starts)} starts {1e3 * theirs:.0f} ms",
            ratio=theirs / ours,
            note=aims.get(name, ""),
        )


def learning_curves() -> Iterator[Row]:
    """How well each form foretells the published language curves: fitted to all sizes, and to those it chooses."""
    path = Path(os.environ.get("SCALING_SHARED", "")) / "reference" / "learning_curves" / "benchmark.lang.csv"
    if not path.is_file():
        return
    table = pd.read_csv(path)
    for domain in ("NMT", "LM"):
        curves = [curve for _, curve in table[table["Domain"] == domain].groupby("Model")]
        seen = [points(*_columns(curve, 1)) for curve in curves]
        for name in ("power", "saturating", "m3", "m4", "broken1"):
            whole = [fit(LAWS[name], given).predict for given in seen]
            chosen = [select(given, [LAWS[name]]).predict for given in seen]
            yield _foretold(f"{name}, {domain}", whole, chosen, curves, AUTHORS.get((name, domain)))
        automatic = [select(given).predict for given in seen]
        yield _foretold(f"automatic choice, {domain}", automatic, automatic, curves, None)


def _columns(curve: pd.DataFrame, training: int) -> tuple[np.ndarray, np.ndarray]:
    mine = curve[curve["Training"] == training]
    return mine["Seen Examples"].to_numpy(float), mine["Loss"].to_numpy(float)


def _foretold(
    what: str, whole: list[Predict], chosen: list[Predict], curves: list[pd.DataFrame], authors: float | None
) -> Row:
    def mean_rmsle(predictors: list[Predict]) -> float:
        errors = []
        for predict, curve in zip(predictors, curves, strict=True):
            x, y = _columns(curve, 0)
            errors.append(np.sqrt(np.mean((np.log(predict(x[:, None])) - np.log(y)) ** 2)))
        return float(np.mean(errors))

    plain, best = mean_rmsle(whole), mean_rmsle(chosen)
    return Row(
        what=f"mean RMSLE beyond the data: {what}",
        ours=f"{best:.4f}",
        peer=f"authors' code {authors:.4f}" if authors else "none published",
        ratio=authors / best if authors else np.nan,
        note=f"{plain:.4f} when fitted to all sizes",
    )


def report_of_a_thousand_runs() -> Iterator[Row]:
    """Laws, benefits, correlations, figures and page of 1,000 runs x 12 tasks."""
    from analysis.report import write

    rows, tasks = made_up_sweep()
    with tempfile.TemporaryDirectory() as folder:
        ours = seconds_of(lambda: write(rows, tasks, Path(folder), title="a thousand runs"))
    n = rows["run"].nunique()
    yield Row(
        what=f"report of {n:,} runs x {tasks['task'].nunique()} tasks",
        ours=f"{ours:.1f} s",
        peer="60 s, the aim",
        ratio=60 / ours,
        note="one call, figures in three formats",
    )


def made_up_sweep() -> tuple[pd.DataFrame, pd.DataFrame]:
    """2 algorithms x 2 mixtures x 10 models x 5 data sizes x 5 seeds, 12 tasks with exponents of their own."""
    rng = np.random.default_rng(0)
    sizes, images = np.geomspace(1e5, 3e8, 10), np.geomspace(1e3, 1e6, 5).round()
    grid = list(itertools.product(("mae", "dinov2"), ("all", "ct_only"), range(10), range(5), range(5)))
    names = [f"task{t:02d}" for t in range(12)]
    exponents = rng.uniform(0.02, 0.2, 12)
    rows = [
        {
            "run": f"{i:012x}",
            "status": "done",
            "model": f"vit_{m}",
            "algorithm": algorithm,
            "mixture": mixture,
            "n_images": images[d],
            "seed": seed,
            "n_params": sizes[m].round(),
            "images_seen": 1e6,
            "train_flops": 6 * sizes[m] * 1e6 * 64,
            "task": task,
            "modality": "ct",
            "probe": "linear",
            "auc": 1
            - 0.25 * (sizes[m] / 1e5) ** -b * (images[d] / 1e3) ** -0.08 * np.exp(0.02 * rng.standard_normal())
            - 0.01,
            "auc_se": 0.005,
        }
        for i, (algorithm, mixture, m, d, seed) in enumerate(grid)
        for task, b in zip(names, exponents, strict=True)
    ]
    tasks = pd.DataFrame({"task": names, "samples": rng.integers(500, 1e5, 12), "classes": rng.integers(2, 14, 12)})
    return pd.DataFrame(rows), tasks


BENCHMARKS: tuple[Benchmark, ...] = (
    huber_fit_and_bootstrap,
    one_input_laws,
    learning_curves,
    report_of_a_thousand_runs,
)
