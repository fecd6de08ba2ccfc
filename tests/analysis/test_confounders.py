"""What a report says where runs of a curve differ in more than its axis."""

from __future__ import annotations

from collections.abc import Callable

import pandas as pd
import pytest

from analysis.confounders import sentences
from analysis.figures.error import curves
from analysis.observations import held_out, kept, load, mean_over_tasks

Sweep = Callable[..., pd.DataFrame]
DROP_PATH = {"vit_s": "drop_path=0;prototypes=64", "vit_m": "drop_path=0;prototypes=64", "vit_l": "drop_path=0.1"}


def said(rows: pd.DataFrame) -> list[str]:
    checked = load(rows)
    fitted, held = kept(checked), held_out(checked)
    means = mean_over_tasks(fitted).assign(held_out=False)
    if len(held):
        means = pd.concat([means, mean_over_tasks(held).assign(held_out=True)])
    return sentences(fitted, {axis: curves(means, axis) for axis in ("n_params", "n_images", "train_flops")})


def test_settings_that_go_with_the_model_are_named_along_model_size_alone(sweep: Sweep) -> None:
    rows = sweep(broken=False)
    mine = rows["algorithm"] == "dinov2"
    rows["settings"] = rows["model"].map(DROP_PATH).where(mine, "")
    (words,) = said(rows)
    assert words.startswith("Along model size drop_path and prototypes differ too (dinov2): the law mixes their effect")


def test_a_setting_that_goes_with_the_data_is_named_along_data_size_alone(sweep: Sweep) -> None:
    rows = sweep(broken=False)
    rows["settings"] = "warmup=" + rows["n_images"].astype(str)
    assert said(rows) == [
        f"Along data size warmup differs too ({algorithm}): the law mixes its effect with that of data size."
        for algorithm in ("dinov2", "mae")
    ]


def test_settings_that_a_curve_shares_are_no_confounder(sweep: Sweep) -> None:
    rows = sweep(broken=False)
    rows["settings"] = "drop_path=" + rows["mixture"].map({"all": "0", "ct_only": "0.1"})
    assert said(rows) == []


def test_runs_held_out_are_in_no_law(sweep: Sweep) -> None:
    rows = sweep(broken=False)
    rows["holdout"] = rows["model"] == "vit_l"
    rows["settings"] = rows["model"].map({"vit_s": "a=1", "vit_m": "a=1", "vit_l": "a=2"})
    assert said(rows) == []


@pytest.mark.parametrize(("settings", "named"), [("", "peak_lr"), ("lr.base=", "lr.base")])
def test_a_learning_rate_that_differs_is_named_once(sweep: Sweep, settings: str, named: str) -> None:
    rows = sweep(broken=False, algorithms=("mae",), mixtures=("all",))
    rows["peak_lr"] = 1e-3 * rows["n_params"] ** -0.1
    rows["settings"] = settings + rows["model"] if settings else ""
    assert said(rows) == [
        f"Along model size {named} differs too (mae): the law mixes its effect with that of model size."
    ]


def test_learning_rates_that_differ_by_rounding_are_one(sweep: Sweep) -> None:
    rows = sweep(broken=False)
    rows["peak_lr"] = 1e-3 * (1 + 1e-12 * rows["n_params"] / 3e7)
    assert said(rows) == []


def test_a_recipe_that_differs_is_named_where_its_options_are_not_known(sweep: Sweep) -> None:
    rows = sweep(broken=False, algorithms=("dinov2",), mixtures=("all",))
    rows["recipe"] = rows["model"].map({"vit_s": "dinov2/short", "vit_m": "dinov2/short", "vit_l": "dinov2/long"})
    assert said(rows) == [
        "Along model size recipe differs too (dinov2): the law mixes its effect with that of model size."
    ]


def test_a_table_that_says_nothing_of_settings_has_no_confounders(sweep: Sweep) -> None:
    rows = sweep(broken=False).drop(columns=["settings", "recipe", "peak_lr"])
    assert said(rows) == []
