"""The tuning figure and its tables: what was tried, what is best and how sure, what the grid takes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analysis.figures.style import save
from analysis.figures.tuning import choices, draw, table, trials
from analysis.report import write
from scaling.records import TUNING_COLUMNS

SIZES = {"vit_atto": 5e4, "vit_femto": 1.1e5, "vit_pico": 3e5}
SLOPE, INTERCEPT = -0.5, np.log(2e-3) + 0.5 * np.log(5e4)


def made_up(**changes: Any) -> pd.DataFrame:
    """Five trials at two anchors of two algorithms, one stopped and one diverged at each; the rule's line for three
    sizes."""
    rows: list[dict[str, Any]] = []
    for algorithm in ("mae", "dinov2"):
        for model in ("vit_atto", "vit_pico"):
            for i, lr in enumerate([1e-4, 5e-4, 1e-3, 2e-3, 1e-2]):
                status = ("done", "stopped", "done", "done", "diverged")[i]
                loss = (0.9, 1.2, 0.7, 0.6, None)[i]
                rows.append(
                    {
                        "kind": "trial",
                        "algorithm": algorithm,
                        "model": model,
                        "n_params": SIZES[model],
                        "lr": lr,
                        "status": status,
                        "run": f"{algorithm}{model}{i}",
                        "loss": loss,
                        "score": loss if status == "done" else None,
                        "best": i == 3,
                    }
                )
        for model, n in SIZES.items():
            how = "between anchors" if model == "vit_femto" else "tried"
            lr = np.exp(INTERCEPT + SLOPE * np.log(n))
            law = {"slope": SLOPE, "slope_low": -0.9, "slope_high": -0.1, "intercept": INTERCEPT}
            rows.append(
                {
                    "kind": "choice",
                    "algorithm": algorithm,
                    "model": model,
                    "n_params": n,
                    "lr": lr,
                    "status": how,
                    **law,
                }
            )
    return pd.DataFrame(rows, columns=list(TUNING_COLUMNS)).assign(**changes)


def test_the_table_has_the_best_of_each_anchor_its_runner_up_and_its_neighbours() -> None:
    rows = table(made_up())
    assert list(rows["model"]) == ["vit_atto", "vit_pico"] * 2
    first = rows.iloc[0]
    assert (first["lr"], first["score"], first["runner_up_lr"], first["runner_up_score"]) == (2e-3, 0.6, 1e-3, 0.7)
    assert (first["lr_below"], first["lr_above"]) == (1e-3, 1e-2)  # a trial that diverged bounds it too
    assert (first["done"], first["stopped"], first["diverged"], first["failed"]) == (3, 1, 1, 0)


def test_every_trial_and_every_choice_is_in_its_table() -> None:
    assert len(trials(made_up())) == 20
    assert list(choices(made_up())["how"]) == ["tried", "between anchors", "tried"] * 2


def test_every_panel_has_a_title_and_labels(tmp_path: Path) -> None:
    figure = draw(made_up(), ylabel="pretraining loss")
    assert len(figure.axes) == 4
    for axes in figure.axes:
        assert axes.get_title()
        assert axes.get_xlabel() in ("learning rate (base)", "encoder parameters")
        assert axes.get_ylabel() in ("pretraining loss", "chosen learning rate (base)")
    assert all(path.stat().st_size for path in save(figure, tmp_path, "tuning"))


def test_the_line_that_is_drawn_is_the_rules() -> None:
    right = draw(made_up(), ylabel="loss").axes[1]
    assert right.get_title() == "dinov2: lr ~ N^-0.5 (-0.9 to -0.1)"
    longest = max(right.lines, key=lambda line: len(line.get_xdata()))
    x, y = (np.asarray(values, float) for values in longest.get_data())
    np.testing.assert_allclose(y, np.exp(INTERCEPT) * x**SLOPE)


@pytest.mark.parametrize(
    "change",
    [
        lambda rows: rows.assign(slope=np.nan, intercept=np.nan),  # the nearest anchor's value has no line
        lambda rows: rows[(rows["kind"] == "choice") | (rows["best"] == True)],  # noqa: E712 - one trial an anchor
        lambda rows: rows.assign(loss=-rows["loss"].astype(float), score=-rows["score"].astype(float)),
        lambda rows: rows.assign(score=0.5, loss=0.5),  # no spread at all
        lambda rows: rows[rows["model"] == "vit_atto"],
        lambda rows: rows.assign(weight_decay=0.05),
    ],
    ids=["no line", "one trial", "negative losses", "equal losses", "one size", "with weight decay"],
)
def test_whatever_a_stage_leaves_is_drawn(tmp_path: Path, change: Callable[[pd.DataFrame], pd.DataFrame]) -> None:
    rows = change(made_up())
    assert len(table(rows))
    save(draw(rows, ylabel="loss"), tmp_path, "tuning")


def small(sweep: Callable[..., pd.DataFrame]) -> pd.DataFrame:
    return sweep(algorithms=("mae",), mixtures=("all",), images=(1000,), tasks=("skin", "organ"), broken=False)


def test_a_report_shows_the_tuning_and_says_what_trials_were_judged_by(
    tmp_path: Path, sweep: Callable[..., pd.DataFrame], tasks: pd.DataFrame
) -> None:
    page = write(small(sweep), tasks, tmp_path, title="x", tuning=made_up()).with_name("report.md").read_text()
    assert "## Tuning" in page
    assert "figures/tuning.png" in page
    assert "Best finished trial of each anchor by pretraining loss" in page
    assert len(pd.read_csv(tmp_path / "tuning_trials.csv")) == 20
    probed = made_up(score=lambda rows: rows["score"].astype(float) / 3)
    page = write(small(sweep), tasks, tmp_path, title="x", tuning=probed).with_name("report.md").read_text()
    assert "by validation error, 1 - AUC" in page


def test_a_report_without_tuning_has_no_such_section(
    tmp_path: Path, sweep: Callable[..., pd.DataFrame], tasks: pd.DataFrame
) -> None:
    assert "Tuning" not in write(small(sweep), tasks, tmp_path, title="x").with_name("report.md").read_text()
