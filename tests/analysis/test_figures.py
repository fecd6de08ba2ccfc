"""Figures show what their tables say, with units, and draw whatever a sweep may leave of itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.benefit import DEFINITIONS, benefits, headline
from analysis.correlate import correlate
from analysis.figures import benefit as benefit_figure
from analysis.figures import correlation as correlation_figure
from analysis.figures.error import AXIS_LABELS, FIXED, Panel, References, curves, draw, draw_panels, table, unplaced
from analysis.figures.style import file_name, panels, quantity, save
from analysis.observations import kept, load, mean_over_tasks

Sweep = Callable[..., pd.DataFrame]
NO_REFERENCES = References(random=pd.DataFrame(columns=["n_params", "model", "error"]), pixels=np.nan)
PANELS = {"n_params": "n_images", "n_images": "model", "train_flops": "n_images"}


def means_of(table: pd.DataFrame) -> pd.DataFrame:
    return mean_over_tasks(kept(load(table)))


@pytest.mark.parametrize("axis", FIXED)
def test_every_series_with_two_sizes_is_a_curve_and_every_run_is_on_it(sweep: Sweep, axis: str) -> None:
    means = means_of(sweep(broken=False, seeds=(0, 1)))
    found = curves(means, axis)
    assert len(found) == 2 * 2 * 3
    assert sorted(run for curve in found for run in curve.runs["run"]) == sorted(means["run"])
    assert table(found)["runs"].str.split().map(len).sum() == len(means)


def test_sizes_that_differ_by_rounding_are_no_curve(sweep: Sweep) -> None:
    means = means_of(sweep())
    alike = means.assign(train_flops=1e15 * np.where(means["model"] == "vit_l", 1.05, 1.0))
    assert curves(alike, "train_flops") == []
    assert len(curves(alike, "n_params")) == 12


def test_the_table_has_the_exponent_or_why_there_is_none(sweep: Sweep) -> None:
    rows = table(curves(means_of(sweep()), "n_params"))
    short = rows["n_sizes"] < 3
    assert short.any()
    assert rows.loc[short, "exponent"].isna().all()
    assert rows.loc[short, "status"].str.contains("one more is needed").all()
    assert rows.loc[~short, ["exponent", "exponent_low", "exponent_high"]].notna().all(axis=None)
    assert set(rows["n_images"]) == {1_000, 4_000, 16_000}


def test_runs_that_have_no_place_on_an_axis_are_counted(sweep: Sweep) -> None:
    observed = sweep(broken=False)
    lost = observed["run"] == observed["run"].iloc[0]
    means = means_of(observed.assign(train_flops=observed["train_flops"].mask(lost)))
    assert unplaced(means, "train_flops") == 1
    assert sum(len(curve.runs) for curve in curves(means, "train_flops")) == len(means) - 1


@pytest.mark.parametrize("axis", FIXED)
def test_every_panel_has_a_title_and_labels_with_units(sweep: Sweep, axis: str) -> None:
    figure = draw(curves(means_of(sweep()), axis), NO_REFERENCES, panel_by=PANELS[axis], ylabel="error, 1 - AUC")
    for i, axes in enumerate(axes for axes in figure.axes if axes.get_visible()):
        assert axes.get_xlabel() == AXIS_LABELS[axis]
        assert axes.get_title()
        assert axes.get_ylabel() == ("error, 1 - AUC" if i == 0 else "")


def legend_of(figure: object) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]  # type: ignore[attr-defined]


def test_the_legend_names_what_is_drawn_and_nothing_else(sweep: Sweep) -> None:
    random = pd.DataFrame({"n_params": [2e6, 8e6], "model": ["vit_s", "vit_m"], "error": [0.3, 0.29]})
    means = means_of(sweep(broken=False, mixtures=("all",)))
    along_size = draw(curves(means, "n_params"), References(random=random, pixels=0.4), panel_by="n_images", ylabel="y")
    assert legend_of(along_size) == ["dinov2", "mae", "beyond the runs fitted", "encoder at initialisation", "pixels"]
    # An untrained encoder has no compute to stand at.
    along_compute = draw(
        curves(means, "train_flops"), References(random=random, pixels=np.nan), panel_by="n_images", ylabel="y"
    )
    assert legend_of(along_compute) == ["dinov2", "mae", "beyond the runs fitted"]


def test_held_out_runs_are_drawn_hollow_and_change_no_law(sweep: Sweep) -> None:
    means = means_of(sweep(broken=False, mixtures=("all",), images=(1000,), algorithms=("mae",), seeds=(0, 1)))
    largest = means["n_params"] == means["n_params"].max()
    extra = means[largest].assign(n_params=1.2e8, error=9.0, held_out=True)
    with_extra = pd.concat([means.assign(held_out=False), extra])
    (plain,), (more,) = curves(means, "n_params"), curves(with_extra, "n_params")
    assert plain.fit.parameters == more.fit.parameters
    assert table([more])["n_held_out"].item() == len(extra)
    figure = draw([more], NO_REFERENCES, panel_by="n_images", ylabel="y")
    hollow = [line for line in figure.axes[0].lines if line.get_markerfacecolor() == "white"]
    assert [x for line in hollow for x in line.get_xdata()] == [1.2e8] * len(extra)
    assert "held out: not fitted" in legend_of(figure)


def test_a_law_goes_on_beyond_its_runs_in_dashes_with_its_band(sweep: Sweep) -> None:
    (curve,) = curves(means_of(sweep(broken=False, mixtures=("all",), images=(1000,), algorithms=("mae",))), "n_params")
    axes = draw([curve], NO_REFERENCES, panel_by="n_images", ylabel="y", beyond=4.0).axes[0]
    last = curve.runs["x"].max()
    dashed = [line for line in axes.lines if line.is_dashed() and len(line.get_xdata()) > 2]
    assert len(dashed) == 1
    x = np.asarray(dashed[0].get_xdata())
    assert x[[0, -1]] == pytest.approx([last, 4 * last])
    bands = [band.get_paths()[0].get_extents() for band in axes.collections if len(band.get_paths()[0].vertices) > 20]
    assert max(band.x1 for band in bands) == pytest.approx(4 * last)
    low, high = curve.uncertainty.curve(x[-1:])[1:]
    assert min(band.y0 for band in bands) <= low[0] * 1.0001
    assert high[0] > low[0]


def test_tasks_stand_in_panels_of_their_own_scale(sweep: Sweep, tmp_path: Path) -> None:
    rows = kept(load(sweep(broken=False, mixtures=("all",), images=(1000,))))
    rows = rows.assign(error_se=rows["auc_se"])
    parts = [
        Panel(title=f"{task} {'x' * 99}", curves=curves(mine, "n_params"), references=NO_REFERENCES)
        for task, mine in rows.groupby("task")
    ]
    figure = draw_panels(parts, ylabel="error, 1 - AUC", one_scale=False)
    shown = [axes for axes in figure.axes if axes.get_visible()]
    assert [axes.get_title()[:5] for axes in shown] == [part.title[:5] for part in parts]
    assert len({axes.get_ylim() for axes in shown}) == len(parts) == 5
    assert legend_of(figure) == ["dinov2", "mae", "beyond the runs fitted"]
    save(figure, tmp_path, "tasks")


def test_points_say_what_they_are_in_the_svg_alone(sweep: Sweep, tmp_path: Path) -> None:
    means = means_of(sweep(broken=False, mixtures=("all",), images=(1000,)))
    figure = draw(curves(means, "n_params"), NO_REFERENCES, panel_by="n_images", ylabel="y")
    _, svg = save(figure, tmp_path, "hover")
    text = svg.read_text()
    for run in means["run"]:
        assert text.count(f"run {run}") == 1
    assert text.count('class="tip"') == len(means)
    assert 'xlink:href="tip:' not in text
    assert b"tip:" not in (tmp_path / "hover.pdf").read_bytes()


def test_runs_without_error_are_counted_on_the_figure_as_logarithms_have_no_place_for_them(sweep: Sweep) -> None:
    observed = sweep(broken=False, tasks=("skin",), algorithms=("mae",), mixtures=("all",), images=(1000,))
    observed.loc[(observed["model"] == "vit_l") & (observed["algorithm"] == "mae"), "auc"] = 1.0
    figure = draw(curves(means_of(observed), "n_params"), NO_REFERENCES, panel_by="n_images", ylabel="y")
    assert figure.axes[0].get_title() == "pretrained on 1,000 images\n(1 of 3 runs without error: not drawn)"


@pytest.mark.parametrize("error", [0.0, 0.1, 1.0])
def test_sweeps_whose_errors_are_all_the_same_are_drawn(sweep: Sweep, tmp_path: Path, error: float) -> None:
    means = means_of(sweep(broken=False).assign(auc=1 - error))
    for path in save(draw(curves(means, "n_params"), NO_REFERENCES, panel_by="n_images", ylabel="y"), tmp_path, "same"):
        assert path.stat().st_size > 1000


def benefit_rows(sweep: Sweep) -> pd.DataFrame:
    return benefit_figure.table(headline(benefits(kept(load(sweep())))))


def test_the_benefit_figure_orders_tasks_by_their_exponent(sweep: Sweep, exponents: dict[str, float]) -> None:
    drawn = list(dict.fromkeys(benefit_rows(sweep)["task"]))
    assert drawn == sorted(exponents, key=exponents.__getitem__)


@pytest.mark.parametrize("column", DEFINITIONS)
def test_the_benefit_figure_draws_any_definition(sweep: Sweep, column: str) -> None:
    rows = benefit_figure.table(headline(benefits(kept(load(sweep())))), column=column)
    axes = benefit_figure.draw(rows, xlabel=DEFINITIONS[column], column=column).axes[0]
    markers = [line.get_xdata()[0] for line in axes.lines if line.get_marker() in ("o", "s")]
    np.testing.assert_allclose(sorted(markers), sorted(rows[column].dropna()))
    assert len(axes.texts) == rows[column].isna().sum()
    assert axes.get_xlabel() == DEFINITIONS[column]


def test_the_benefit_figure_says_where_there_is_no_law_no_interval_or_no_end(sweep: Sweep, tmp_path: Path) -> None:
    rows = benefit_rows(sweep)
    rows.loc[0, ["exponent", "exponent_low", "exponent_high"]] = np.nan
    rows.loc[1, ["exponent_low", "exponent_high"]] = np.nan
    rows.loc[2, ["exponent_low", "exponent_high"]] = [-50.0, 50.0]
    figure = benefit_figure.draw(rows, xlabel="exponent")
    axes = figure.axes[0]
    assert [text.get_text().strip() for text in axes.texts] == [f"{rows.loc[0, 'algorithm']}: no number"]
    assert sum(line.get_markerfacecolor() == "white" for line in axes.lines) == 1
    assert {"<", ">"} <= {line.get_marker() for line in axes.lines}
    assert axes.get_xlim()[1] < 5
    save(figure, tmp_path, "benefit")


def test_the_correlation_figure_frames_what_survives_and_names_what_has_no_answer(
    sweep: Sweep, tasks: pd.DataFrame
) -> None:
    tasks = tasks.drop(columns="classes")
    correlations = correlate(
        headline(benefits(kept(load(sweep())))), tasks, features=["samples", "classes", "imbalance"]
    )
    correlations.loc[correlations["feature"] == "samples", "q"] = 0.01
    axes = correlation_figure.draw(correlations).axes[0]
    words = [text.get_text() for text in axes.texts]
    assert len(words) == len(correlations)
    assert words.count("no answer") == 2
    assert len(axes.patches) == 2
    drawn = correlation_figure.table(correlations)
    assert drawn.loc["classes"].isna().all()
    assert drawn.loc["samples"].notna().all()


def test_the_same_figure_gives_the_same_file(sweep: Sweep, tmp_path: Path) -> None:
    rows = benefit_rows(sweep)
    for name in ("one", "two"):
        save(benefit_figure.draw(rows, xlabel="exponent"), tmp_path, name)
    for kind in ("png", "svg", "pdf"):
        assert (tmp_path / f"one.{kind}").read_bytes() == (tmp_path / f"two.{kind}").read_bytes()


def test_a_pdf_carries_its_fonts_as_truetype(tmp_path: Path) -> None:
    figure, grid = panels(1, 1)
    grid[0][0].set_title("Text")
    save(figure, tmp_path, "fonts")
    text = (tmp_path / "fonts.pdf").read_bytes()
    assert b"/FontFile2" in text
    assert b"/Subtype /Type3" not in text


@pytest.mark.parametrize("name", ["$x_{1", "a/b", "../up", "<script>", "naïve task", "%"])
def test_any_name_of_a_task_can_be_written_on_a_figure_and_into_a_file(sweep: Sweep, tmp_path: Path, name: str) -> None:
    rows = benefit_rows(sweep).replace({"task": {"skin": name}})
    for path in save(benefit_figure.draw(rows, xlabel=name), tmp_path, name):
        assert path.parent == tmp_path
        assert path.exists()


def test_names_stay_distinct_as_names_of_files() -> None:
    assert file_name("pneumonia_mnist-2") == "pneumonia_mnist-2"
    assert file_name("a/b") != file_name("a b")


@pytest.mark.parametrize(
    ("value", "words"),
    [(12, "12"), (1500, "1.5k"), (49_000, "49k"), (60_000, "0.06M"), (21e6, "21M"), (1.2e15, "1.2P")],
)
def test_quantities_have_three_digits_and_a_prefix(value: float, words: str) -> None:
    assert quantity(value) == words
