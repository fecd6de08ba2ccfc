"""Figures of correlations: intervals, influence and the pairs themselves, of tables of any shape."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.correlate import correlate
from analysis.figures import correlation, pairs
from analysis.figures.style import save


def tables(n_tasks: int = 9, algorithms: tuple[str, ...] = ("dinov2", "mae")) -> tuple[pd.DataFrame, pd.DataFrame]:
    rng = np.random.default_rng(0)
    tasks = pd.DataFrame({"task": [f"t{i}" for i in range(n_tasks)], "samples": 10 ** rng.uniform(2, 5, n_tasks)})
    tasks = tasks.assign(classes=rng.integers(2, 9, n_tasks), entropy=rng.standard_normal(n_tasks), flat=1.0)
    benefits = pd.concat(
        [
            pd.DataFrame({"task": tasks["task"], "algorithm": a, "slope": rng.standard_normal(n_tasks)})
            for a in algorithms
        ]
    ).reset_index(drop=True)
    half = rng.uniform(0.1, 5, len(benefits))
    return benefits.assign(slope_low=benefits["slope"] - half, slope_high=benefits["slope"] + half), tasks


def test_intervals_are_drawn_for_every_pair_with_an_answer_the_strongest_feature_on_top(tmp_path: Path) -> None:
    benefits, tasks = tables()
    found = correlate(benefits, tasks, column="slope")
    rows = correlation.interval_table(found)
    assert len(rows) == 2 * 3  # the feature that is the same for all tasks has none
    strongest = found.loc[found["pearson"].abs().idxmax(), "feature"]
    assert rows["feature"].iloc[-1] == strongest
    figure = correlation.draw_intervals(rows)
    assert [axes.get_title() for axes in figure.axes] == ["dinov2", "mae"]
    for axes, algorithm in zip(figure.axes, ("dinov2", "mae"), strict=True):
        mine = rows[rows["series"] == algorithm]
        drawn = {round(float(line.get_xdata()[0]), 9) for line in axes.lines if line.get_marker() == "o"}
        assert drawn == set(mine["pearson"].round(9))
        ends = [tuple(line.get_xdata()) for line in axes.lines if len(line.get_xdata()) == 2]
        assert {*zip(mine["without_low"], mine["without_high"], strict=True)} <= set(ends)
        assert axes.get_xlabel()
    save(figure, tmp_path, "intervals")


def test_the_strongest_pairs_are_drawn_with_every_task_and_the_one_that_matters_most_named(tmp_path: Path) -> None:
    benefits, tasks = tables()
    found = correlate(benefits, tasks, column="slope")
    rows = pairs.table(found, benefits, tasks, column="slope", most=4)
    best = found.sort_values("p").iloc[0]
    first = rows[(rows["feature"] == best["feature"]) & (rows["series"] == best["algorithm"])]
    assert rows.index[0] == first.index[0]
    assert len(rows) == 4 * 9
    expected = benefits[benefits["algorithm"] == best["algorithm"]].merge(tasks, on="task")
    np.testing.assert_array_equal(first["x"], expected[best["feature"]])
    np.testing.assert_array_equal(first[["y", "low", "high"]], expected[["slope", "slope_low", "slope_high"]])
    figure = pairs.draw(rows, ylabel="slope")
    axes = figure.axes[0]
    assert [text.get_text() for text in axes.texts] == [best["influential"]]
    assert f"r = {best['pearson']:+.2f}" in axes.get_title()
    assert axes.get_xlabel() == best["feature"]
    save(figure, tmp_path, "pairs")


def test_benefits_without_intervals_are_hollow_points() -> None:
    benefits, tasks = tables()
    bare = benefits.drop(columns=["slope_low", "slope_high"])
    axes = pairs.draw(
        pairs.table(correlate(bare, tasks, column="slope"), bare, tasks, column="slope"), ylabel="y"
    ).axes[0]
    hollow = [line for line in axes.lines if line.get_markerfacecolor() == "white"]
    assert [len(line.get_xdata()) for line in hollow] == [9]


@pytest.mark.parametrize("algorithms", [(), ("a",), tuple("abcde")])
def test_any_number_of_series_is_drawn_with_and_without_names(algorithms: tuple[str, ...], tmp_path: Path) -> None:
    benefits, tasks = tables(6, algorithms or ("a",))
    by = ("algorithm",) if algorithms else ()
    found = correlate(benefits, tasks, column="slope", by=by)
    assert correlation.table(found).shape == (4, max(1, len(algorithms)))
    rows = pairs.table(found, benefits, tasks, column="slope", by=by)
    for name, figure in (
        ("grid", correlation.draw(found)),
        ("intervals", correlation.draw_intervals(correlation.interval_table(found))),
        ("pairs", pairs.draw(rows, ylabel="slope")),
    ):
        save(figure, tmp_path, name)


def test_where_nothing_has_an_answer_there_is_nothing_to_draw() -> None:
    benefits, tasks = tables(3)
    found = correlate(benefits, tasks, column="slope")
    assert correlation.interval_table(found).empty
    assert pairs.table(found, benefits, tasks, column="slope").empty


def test_any_name_can_be_written_on_the_figures(tmp_path: Path) -> None:
    names = ["$x_{1", "<b>bold</b>", "a very long name of a task " * 4, "%s", "naïve\nlines", ""]
    benefits, tasks = tables(6)
    renamed = dict(zip(tasks["task"], names, strict=True))
    benefits = benefits.replace({"task": renamed, "algorithm": {"mae": names[2], "dinov2": names[0]}})
    tasks = tasks.replace({"task": renamed}).rename(columns={"entropy": names[2], "classes": names[1]})
    found = correlate(benefits, tasks, column="slope")
    save(correlation.draw(found), tmp_path, "grid")
    save(correlation.draw_intervals(correlation.interval_table(found)), tmp_path, "intervals")
    save(pairs.draw(pairs.table(found, benefits, tasks, column="slope"), ylabel=names[0]), tmp_path, "pairs")
    assert len(list(tmp_path.iterdir())) == 9
