"""Which count of a model is its size in laws: planted axes, the way back, words, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis import report
from analysis.observations import load
from analysis.page.blocks import Fold, Line, Numbers, Section, Words
from analysis.sections import comparing, frontiers
from analysis.sections.frontiers import splits
from analysis.sections.naming import in_words_of
from analysis.sizes import ENCODER, SIZES, sized
from analysis.study import study
from analysis.tables.problems import InputError
from scaling.records import COLUMNS

Sweep = Callable[..., pd.DataFrame]
SHRINKS = 0.587
"""Power of the encoder's parameters by which MAE with the paper's decoder grows from ViT-Ti to ViT-L."""


def with_sizes(rows: pd.DataFrame) -> pd.DataFrame:
    return rows.assign(paper_axis=2 * rows["n_params"] ** SHRINKS, flops_per_image=6 * 64 * rows["n_params"])


def test_every_size_is_a_column_of_the_table() -> None:
    assert set(SIZES) <= set(COLUMNS)


def test_on_an_axis_that_grows_slower_exponents_are_as_much_larger(sweep: Sweep, tasks: pd.DataFrame) -> None:
    rows = with_sizes(sweep(broken=False))
    by = {size: study(rows, tasks, size=size) for size in ("n_params", "paper_axis")}
    along = {size: of.benefits[of.benefits["axis"] == "n_params"] for size, of in by.items()}
    for column in ("exponent", "exponent_low", "exponent_high", "slope_log_auc"):
        np.testing.assert_allclose(along["paper_axis"][column], along["n_params"][column] / SHRINKS, rtol=1e-6)
    laws = {size: [c.uncertainty.parameters()["b"].value for c in of.along["n_params"]] for size, of in by.items()}
    np.testing.assert_allclose(laws["paper_axis"], np.array(laws["n_params"]) / SHRINKS, rtol=1e-5)


def test_what_is_not_along_model_size_does_not_change(sweep: Sweep, tasks: pd.DataFrame) -> None:
    rows = with_sizes(sweep())
    by = [study(rows, tasks, size=size).benefits for size in ("n_params", "paper_axis")]
    for axis in ("n_images", "train_flops"):
        one, other = (found[found["axis"] == axis].reset_index(drop=True) for found in by)
        pd.testing.assert_frame_equal(one, other)


def test_two_exchanges_give_the_table_back(sweep: Sweep) -> None:
    rows = load(with_sizes(sweep()))
    size = SIZES["paper_axis"]
    changed = sized(rows, size)
    assert (changed["n_params"] == rows["paper_axis"]).all()
    pd.testing.assert_frame_equal(size.exchanged(changed), rows)


def test_the_default_changes_nothing(sweep: Sweep) -> None:
    rows = load(sweep())
    assert sized(rows, ENCODER) is rows


def test_the_reference_studys_own_table_gives_what_it_gave(shared: Path) -> None:
    """Its parameters are on the paper's axis: as n_params, or as paper_axis beside an encoder's."""
    folder = shared / "reference" / "biovfm"
    rows = load(folder / "auc.csv", mapping="task=dataset,auc=auc_adjusted,n_params=params_millions*1e6")
    tasks = pd.DataFrame({"task": []})
    plain = study(rows, tasks)
    printed = pd.read_csv(folder / "slopes.csv").dropna().query("dataset != 'mean'")
    printed = printed.set_index(["dataset", "algorithm"])["printed_slope"]
    found = plain.headline.set_index(["task", "algorithm"])["slope_log_auc"]
    assert len(printed) == 24
    np.testing.assert_allclose(found[printed.index], printed, atol=5.01e-5)  # printed with four digits
    both = rows.assign(paper_axis=rows["n_params"], n_params=rows["n_params"] - 25.7e6)
    pd.testing.assert_frame_equal(study(both, tasks, size="paper_axis").benefits, plain.benefits)
    on_encoders = study(both, tasks).headline.set_index(["task", "algorithm"])["slope_log_auc"]
    ratio = found[printed.index] / on_encoders[printed.index]
    assert ratio[printed > 0.01].between(1.3, 1.8).all()  # 1.70 for a power law, which these curves are only nearly


def test_the_best_split_of_a_budget_is_the_same_model_on_either_axis(tasks: pd.DataFrame) -> None:
    """C = 384 N D is, of P = 2 N^0.587, C = 384 (P / 2)^(1 / 0.587) D: P_opt = 2 N_opt^0.587."""
    n, d = (grid.ravel() for grid in np.meshgrid(np.geomspace(1e6, 1e8, 6), np.geomspace(1e4, 1e6, 6)))
    error = 60 * n**-0.4 + 4 * d**-0.3 + 0.05
    rows = pd.DataFrame({"n_params": n, "n_images": d, "images_seen": d, "train_flops": 384 * n * d, "error": error})
    best = {}
    for size in ("n_params", "paper_axis", "flops_per_image"):
        (split,) = splits(study(with_sizes(rows), tasks, size=size))
        assert split.answer is not None
        assert split.answer.warnings == ()
        best[size] = split.answer["chinchilla"].optima[0].n_params.value
    assert best["paper_axis"] == pytest.approx(2 * best["n_params"] ** SHRINKS, rel=1e-3)
    assert best["flops_per_image"] == pytest.approx(384 * best["n_params"], rel=1e-3)


def test_where_flops_follow_no_power_of_the_size_the_report_warns(tasks: pd.DataFrame) -> None:
    n, d = (grid.ravel() for grid in np.meshgrid(np.geomspace(5e6, 3e8, 6), np.geomspace(1e4, 1e6, 6)))
    error = 60 * n**-0.4 + 4 * d**-0.3 + 0.05
    rows = pd.DataFrame({"n_params": n, "n_images": d, "images_seen": d, "train_flops": 384 * n * d, "error": error})
    found = splits(study(rows.assign(paper_axis=n + 25.7e6), tasks, size="paper_axis"))
    assert [text for text in frontiers.warnings(found) if text.startswith("FLOPs depart from k N^")]


# --- the report -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def few(whole_sweep: pd.DataFrame) -> pd.DataFrame:
    """Of the sweep one series and two tasks."""
    rows = whole_sweep.query("algorithm == 'mae' and mixture == 'all' and task in ('chest', 'organ')")
    return with_sizes(rows.reset_index(drop=True))


@pytest.fixture(scope="module")
def written(few: pd.DataFrame, all_tasks: pd.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    report.write(few, all_tasks, folder, title="made up", size="paper_axis")
    return folder


def test_the_report_says_first_what_sizes_are(written: Path) -> None:
    text = (written / "report.md").read_text()
    assert SIZES["paper_axis"].sentence in text.split("## ")[1]
    assert SIZES["paper_axis"].axis in (written / "figures" / "error_n_params.svg").read_text().replace("&#39;", "'")


def test_the_observations_keep_their_own_columns(written: Path, few: pd.DataFrame) -> None:
    kept = pd.read_csv(written / "observations.csv")
    np.testing.assert_array_equal(kept["n_params"], few["n_params"])
    np.testing.assert_allclose(kept["paper_axis"], 2 * few["n_params"] ** SHRINKS)


def test_tables_name_the_column_that_was_chosen(written: Path, few: pd.DataFrame) -> None:
    cells, ahead = (pd.read_csv(written / f"{name}.csv") for name in ("cells", "forecasts"))
    largest = 2 * few["n_params"].max() ** SHRINKS
    assert "n_params" not in cells
    assert cells["paper_axis"].max() == pytest.approx(largest)
    assert "n_params" not in ahead
    assert ahead.loc[ahead["ten times"] == "parameters of the paper's MAE", "paper_axis"].max() == pytest.approx(
        10 * largest
    )
    assert set(pd.read_csv(written / "benefits.csv")["axis"]) == {"paper_axis", "n_images", "train_flops"}


def test_algorithms_whose_sizes_differ_are_not_compared_along_them(sweep: Sweep, tasks: pd.DataFrame) -> None:
    rows = sweep(broken=False, mixtures=("all",))
    rows["n_params_total"] = rows["n_params"] * np.where(rows["algorithm"] == "mae", 1.3, 1.1)

    def said(size: str) -> list[str]:
        of = study(rows, tasks, size=size)
        section = comparing.section(of, comparing.contests(of.means))
        return [str(line) for block in section.blocks if isinstance(block, Words) for line in block.lines]

    assert said("n_params") == []
    (words,) = said("n_params_total")
    assert words.startswith("No algorithms are compared along model size: none share 3 sizes")


def test_names_are_whole_words_and_nothing_else_changes() -> None:
    rows = pd.DataFrame({"n_params": [1.0], "n_params_low": [0.5], "n_params_total": [2.0], "axis": ["n_params"]})
    line = Line(text="n_params is 3, see law_n_params and n_params_total", see=("law_n_params",))
    section = Section(title="t", blocks=[Fold(title="f", blocks=[Words(lines=[line]), _numbers(rows)])])
    (fold,) = in_words_of(SIZES["paper_axis"], section).blocks
    assert isinstance(fold, Fold)
    words, numbers = fold.blocks
    assert isinstance(words, Words)
    assert words.lines == [
        Line(text="paper_axis is 3, see law_n_params and n_params_total", see=("law_n_params",)),
    ]
    assert isinstance(numbers, Numbers)
    assert list(numbers.rows) == ["paper_axis", "paper_axis_low", "n_params_total", "axis"]
    assert numbers.rows["axis"].tolist() == ["paper_axis"]
    assert in_words_of(ENCODER, section) is section


def _numbers(rows: pd.DataFrame) -> Numbers:
    return Numbers(name="law_n_params", caption="of n_params", rows=rows)


# --- what is refused ------------------------------------------------------------------------------------------------


def test_an_unknown_size_is_refused_with_what_is_near(sweep: Sweep, tasks: pd.DataFrame) -> None:
    with pytest.raises(InputError, match="--size: unknown model size 'paper_axes'; did you mean 'paper_axis'"):
        study(sweep(), tasks, size="paper_axes")


def test_a_table_without_the_column_is_refused_once(sweep: Sweep, tasks: pd.DataFrame) -> None:
    rows = sweep(baselines=True).drop(columns="paper_axis")
    with pytest.raises(InputError, match="paper_axis is missing or not above 0 in") as caught:
        study(rows, tasks, size="paper_axis")
    assert len(caught.value.problems) == 1


def test_only_runs_that_would_be_fitted_or_predicted_need_a_size(sweep: Sweep, tasks: pd.DataFrame) -> None:
    rows = with_sizes(sweep(broken=True, baselines=True))
    lost = rows["status"] != "done"
    rows.loc[lost | (rows["algorithm"] == "pixels"), "paper_axis"] = np.nan
    study(rows, tasks, size="paper_axis")
    run = rows.loc[~lost & (rows["algorithm"] == "mae"), "run"].iloc[0]
    rows.loc[rows["run"] == run, "paper_axis"] = 0.0
    with pytest.raises(InputError, match=rf"in 1 of \d+ runs \({run}\)"):
        study(rows, tasks, size="paper_axis")
