"""Figures of laws: they show what their tables say, state what has no interval, and no two texts overlap."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

from analysis.figures import candidates, frontier, holdout, isoflop, residuals, surface
from analysis.figures.style import few_decades, panels, plain_log, power, save, shortened, ticks_at
from analysis.fit import Fit, fit
from analysis.laws import LAWS
from analysis.laws.chinchilla import CHINCHILLA
from analysis.optima.frontier import frontier as frontier_of
from analysis.points import points

NAMES = ["mae / all / vit_l", "$x_{1", "<script>", "a very long name " * 10, "任务\nzwei"]


def overlaps(figure: Figure) -> list[tuple[str, str]]:
    """Pairs of texts whose boxes share more than a pixel."""
    FigureCanvasAgg(figure).draw()
    boxes = []
    for text in figure.findobj(Text):
        if text.get_visible() and text.get_text().strip():
            box = text.get_window_extent()
            if box.width > 0 and figure.bbox.expanded(1.5, 1.5).overlaps(box) and _drawn(text, figure):
                boxes.append((text.get_text(), box))
    return [
        (a, b)
        for i, (a, p) in enumerate(boxes)
        for b, q in boxes[i + 1 :]
        if min(p.x1, q.x1) - max(p.x0, q.x0) > 1 and min(p.y1, q.y1) - max(p.y0, q.y0) > 1
    ]


def _drawn(text: Text, figure: Figure) -> bool:
    """Labels of ticks outside an axis exist and are not drawn."""
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            labels = [tick.label1 for tick in axis.get_major_ticks()] + [tick.label2 for tick in axis.get_major_ticks()]
            if text in labels:
                low, high = sorted(axis.get_view_interval())
                at = text.get_position()[0 if axis is axes.xaxis else 1]
                return bool(low <= at <= high)
    return True


def legend_of(figure: Figure) -> list[str]:
    return [text.get_text() for legend in figure.legends for text in legend.get_texts()]


def predictions(n: int) -> pd.DataFrame:
    """Of n runs: the second has no interval, the third lies outside of its."""
    measured = np.geomspace(0.1, 0.3, n)
    rows = pd.DataFrame(
        {
            "name": [NAMES[i % len(NAMES)] for i in range(n)],
            "predicted": measured * 1.01,
            "low": measured * 0.9,
            "high": measured * 1.1,
            "measured": measured,
            "times_beyond": np.linspace(1, 12, n),
        }
    )
    rows.loc[1:1, ["low", "high"]] = np.nan
    for column in ("predicted", "low"):
        rows.loc[2:2, column] = measured[2:3] * 1.05
    return rows


def test_held_out_runs_are_judged_by_their_own_interval() -> None:
    rows = holdout.table(predictions(5).sample(frac=1, random_state=1))
    assert list(rows["times_beyond"]) == sorted(rows["times_beyond"])
    assert list(rows["inside"]) == [True, None, False, True, True]
    assert rows["off"].to_numpy() == pytest.approx([0.01, 0.01, 0.05, 0.01, 0.01])
    found = holdout.score(rows)
    assert (found["n"], found["n_intervals"], found["n_inside"]) == (5, 4, 3)
    assert found["rmsle"] == pytest.approx(np.sqrt((4 * np.log(1.01) ** 2 + np.log(1.05) ** 2) / 5))


@pytest.mark.filterwarnings("ignore:Glyph")  # `save` ignores it, drawing for the boxes of texts does not
@pytest.mark.parametrize("n", [1, 2, 5, 24, 60])
def test_any_number_of_held_out_runs_is_drawn_with_their_intervals(tmp_path: Path, n: int) -> None:
    figure = holdout.draw(holdout.table(predictions(n)), label="error, 1 - AUC")
    axes = figure.axes[0]
    assert "error, 1 - AUC" in axes.get_xlabel()
    n_intervals = n - (n > 1)
    assert axes.get_title().startswith(f"{n_intervals - (n > 2)} of {n_intervals} inside")
    assert ("predicted, no interval" in legend_of(figure)) is (n > 1)
    assert overlaps(figure) == []
    save(figure, tmp_path, "holdout")


def test_held_out_runs_without_any_number_are_drawn(tmp_path: Path) -> None:
    rows = predictions(3).assign(predicted=np.nan, low=np.nan, high=np.nan, measured=np.nan)
    figure = holdout.draw(holdout.table(rows), label="error")
    assert figure.axes[0].get_title() == "3 held-out runs, no intervals"
    save(figure, tmp_path, "none")


def test_candidates_stand_by_their_score_and_the_others_say_why_they_have_none(tmp_path: Path) -> None:
    rows = pd.DataFrame(
        {
            "law": ["power", "m3", "m4", "broken1"],
            "score": [0.3, 0.1, np.nan, 0.2],
            "chosen": [False, True, False, False],
            "reason": ["", "", "too few sizes", ""],
        }
    )
    drawn = candidates.table(rows)
    assert list(drawn["law"]) == ["m3", "broken1", "power", "m4"]
    steps = pd.DataFrame({"law": ["m3", "m3", "power"], "score": [0.05, 0.15, 0.3]})
    figure = candidates.draw(drawn, steps=steps, label="RMSLE")
    assert [text.get_text() for text in figure.axes[0].texts] == [" no score: too few sizes"]
    filled = [
        line for line in figure.axes[0].lines if line.get_marker() == "o" and line.get_markerfacecolor() != "white"
    ]
    assert [line.get_xdata()[0] for line in filled] == [0.1]
    assert overlaps(figure) == []
    assert "(spread over steps not shown)" in legend_of(candidates.draw(drawn, label="RMSLE"))
    save(candidates.draw(drawn.assign(score=np.nan, chosen=False), label="RMSLE"), tmp_path, "none")


def design(noise: float = 0.003) -> pd.DataFrame:
    """Runs of five budgets of a planted surface."""
    rng = np.random.default_rng(0)
    flops = np.repeat(np.geomspace(1e18, 1e21, 5), 7)
    n_params = np.tile(np.geomspace(0.2, 5, 7), 5) * 0.1 * np.sqrt(flops / 6)
    runs = pd.DataFrame({"n_params": n_params, "n_images": flops / 6 / n_params, "flops": flops})
    y = 1.8 + 480 / runs["n_params"] ** 0.35 + 2100 / runs["n_images"] ** 0.37
    return runs.assign(y=y * np.exp(noise * rng.standard_normal(len(runs))))


@pytest.fixture(scope="module")
def runs() -> pd.DataFrame:
    return design()


@pytest.fixture(scope="module")
def law(runs: pd.DataFrame) -> Fit:
    return fit(CHINCHILLA, points(runs[["n_params", "n_images"]].to_numpy(), runs["y"].to_numpy()))


def asked(runs: pd.DataFrame, budgets: list[float]) -> frontier.Frontier:
    columns = (runs[name].to_numpy() for name in ("n_params", "n_images", "y"))
    return frontier_of(*columns, flops=runs["flops"].to_numpy(), budgets=budgets, n_bootstrap=100)


def test_the_frontier_shows_every_approach_and_what_its_table_says(runs: pd.DataFrame, tmp_path: Path) -> None:
    found = asked(runs, [1e19, 1e20, 1e21, 1e22])
    rows, slopes = frontier.table(found), frontier.exponents(found)
    assert list(dict.fromkeys(rows["approach"])) == ["1: envelope", "2: parabola", "2: cubic", "3: chinchilla"]
    assert rows.groupby("approach").size().eq(4).all()
    for approach in found.approaches:
        mine = rows[rows["approach"] == frontier.label(approach.name, approach.number)]
        assert list(mine["n_images_high"]) == [optimum.n_images.high for optimum in approach.optima]
    figure = frontier.draw(rows, runs, slopes)
    labels = [(axes.get_xlabel(), axes.get_ylabel()) for axes in figure.axes]
    assert labels == [
        ("compute, training FLOPs", "optimal model size, parameters"),
        ("compute, training FLOPs", "optimal data size, images seen"),
        ("a of N_opt ~ C^a, no unit", ""),
    ]
    assert "beyond the costliest run" in legend_of(figure)
    assert overlaps(figure) == []
    _, svg = save(figure, tmp_path, "frontier")
    assert svg.read_text().count('class="tip"') == 2 * 4 * 4 + 4


@pytest.mark.parametrize("kept_rows", [3, 7])
def test_approaches_without_an_answer_say_so_on_the_frontier(
    runs: pd.DataFrame, tmp_path: Path, kept_rows: int
) -> None:
    few = runs.head(kept_rows)
    found = asked(few, [1e19])
    rows, slopes = frontier.table(found), frontier.exponents(found)
    figure = frontier.draw(rows, few, slopes)
    silent = [approach for approach in found.approaches if not approach.answered]
    assert silent
    for approach in silent:
        assert f"{approach.number}: {approach.name}: {approach.status.key.replace('_', ' ')}" in legend_of(figure)
    assert len(figure.axes[2].texts) == len(silent)
    assert overlaps(figure) == []
    save(figure, tmp_path, "few")


def test_isoflop_curves_have_their_minima_or_are_dotted(runs: pd.DataFrame, tmp_path: Path) -> None:
    cut = runs.drop(index=[4, 5, 6])  # of the first budget the small models alone
    minima = asked(cut, [])["parabola"].minima
    rows = isoflop.table(minima)
    assert rows["n_params"].isna().sum() == 1
    found = rows.dropna(subset="n_params")
    assert ((found["n_params_low"] < found["n_params"]) & (found["n_params"] < found["n_params_high"])).all()
    figure = isoflop.draw(minima, cut["n_params"].to_numpy(), cut["y"].to_numpy(), ylabel="loss")
    axes = figure.axes[0]
    assert sum(line.get_linestyle() == ":" for line in axes.lines) == 1
    stars = [line for line in axes.lines if line.get_marker() == "*"]
    assert [line.get_xdata()[0] for line in stars] == list(found["n_params"])
    assert legend_of(figure)[-2:] == ["minimum with its 95 % interval", "no minimum inside the runs"]
    assert overlaps(figure) == []
    save(figure, tmp_path, "isoflop")
    save(isoflop.draw((), np.empty(0), np.empty(0), ylabel="loss"), tmp_path, "nothing")


def test_the_surface_has_its_runs_and_says_that_it_has_no_interval(
    runs: pd.DataFrame, law: Fit, tmp_path: Path
) -> None:
    line = pd.DataFrame({"n_params": [1e8, 1e9], "n_images": [1e10, 1e11]})
    with_held_out = runs.assign(held_out=runs["flops"] > 9e20)
    figure = surface.draw(law, with_held_out, line, label="loss")
    assert legend_of(figure) == ["runs (law without interval)", "held out", "best use of compute"]
    assert [axes.get_ylabel() for axes in figure.axes] == ["data size, images", "loss"]
    assert overlaps(figure) == []
    save(figure, tmp_path, "surface")
    rows = surface.table(runs, law)
    assert rows["fitted"].to_numpy() == pytest.approx(law.predict(runs[["n_params", "n_images"]].to_numpy()))
    failed = fit(CHINCHILLA, points(runs[["n_params", "n_images"]].to_numpy()[:3], runs["y"].to_numpy()[:3]))
    assert surface.table(runs, failed)["fitted"].isna().all()
    with pytest.raises(ValueError, match="no surface to draw: 3 distinct sizes"):
        surface.draw(failed, runs, label="loss")


def test_residuals_are_logarithms_of_measured_over_fitted(law: Fit, tmp_path: Path) -> None:
    rows = residuals.table(law)
    assert list(rows.columns) == ["n_params", "n_images", "y", "fitted", "weight", "residual"]
    assert rows["residual"].to_numpy() == pytest.approx(-law.residuals)
    figure = residuals.draw(rows.assign(weight=[0.0, *[1.0] * (len(rows) - 1)]), label="loss")
    assert "not fitted" in legend_of(figure)
    bounds = [line.get_ydata()[0] for line in figure.axes[0].lines if line.get_linestyle() == "--"]
    scatter = float(np.sqrt((rows["residual"][1:] ** 2).mean()))
    assert bounds == pytest.approx([100 * np.expm1(-2 * scatter), 100 * np.expm1(2 * scatter)])
    assert overlaps(figure) == []
    save(figure, tmp_path, "residuals")


def test_a_failed_fit_has_no_residuals() -> None:
    assert residuals.table(fit(LAWS["power"], points(np.ones(3), np.ones(3)))).empty


@pytest.mark.parametrize("ends", [(1, 2), (0.998, 0.9991), (1e-9, 1e9), (0.2, 0.41), (3e17, 4e21), (1, 1.0000001)])
def test_ticks_of_any_range_are_few_and_distinct(ends: tuple[float, float]) -> None:
    for set_ticks in (plain_log, few_decades):
        figure, grid = panels(1, 1)
        grid[0][0].set_xscale("log")
        grid[0][0].set_xlim(*ends)
        set_ticks(grid[0][0].xaxis)
        FigureCanvasAgg(figure).draw()
        low, high = ends
        labels = [text.get_text() for text in grid[0][0].get_xticklabels() if low <= text.get_position()[0] <= high]
        assert 1 <= len(labels) <= 7
        assert len(set(labels)) == len(labels)


def test_labels_of_sizes_too_near_to_be_read_apart_are_left_out() -> None:
    figure, grid = panels(1, 1)
    axes = grid[0][0]
    axes.set_xscale("log")
    axes.set_xlim(2.5e7, 1.2e9)
    ticks_at(axes.xaxis, [31.2e6, 47.4e6, 112e6, 113e6, 329e6])
    assert list(axes.get_xticks()) == [31.2e6, 112e6, 329e6]
    assert overlaps(figure) == []


def test_words_of_a_label_are_short() -> None:
    assert shortened("short name") == "short name"
    assert len(shortened("x" * 1000)) == 36
    assert shortened("a\nb") == "a b"
    assert [power(value) for value in (1e18, 5.62e18, 3e-4)] == ["1e18", "5.6e18", "3e-04"]
