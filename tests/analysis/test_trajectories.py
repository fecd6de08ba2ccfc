"""Planted paths: one rises, one is flat, two change their order; what is said of them and how a report shows it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analysis.figures.trajectories import draw, table
from analysis.report import write
from analysis.sections.trajectories import judged, sentences
from analysis.tables.problems import InputError
from analysis.trajectories import FLAT, ends, order, pairs, paths, trajectories
from scaling.records import TRAJECTORY_COLUMNS

Course = Callable[[np.ndarray], np.ndarray]
POINTS = np.arange(1, 11) / 10
BUDGET = 10_000
NOISE = 0.002


def risen(progress: np.ndarray) -> np.ndarray:
    """By 0.04 a quarter, to the end."""
    return 0.6 + 0.16 * progress


def flat(progress: np.ndarray) -> np.ndarray:
    """From half the budget on."""
    return 0.6 + 0.24 * np.minimum(progress, 0.5)


def planted(
    *,
    of: Mapping[str, Course] | None = None,
    models: tuple[str, ...] = ("vit_s", "vit_m"),
    seeds: tuple[int, ...] = (0, 1),
    tasks: tuple[str, ...] = ("chest", "skin"),
    noise: float = NOISE,
    losses: bool = True,
) -> pd.DataFrame:
    """By algorithm a path; a model's is higher by 0.02 than that of the one before, a task's by 0.1."""
    rng = np.random.default_rng(0)

    def rows() -> Iterator[dict[str, Any]]:
        for algorithm, path in (of or {"rising": risen, "settled": flat}).items():
            for i, model in enumerate(models):
                for seed in seeds:
                    common = {
                        "run": f"{algorithm}-{model}-{seed}",
                        "model": model,
                        "algorithm": algorithm,
                        "mixture": "all",
                        "n_images": 1000,
                        "seed": seed,
                        "n_params": 1e6 * 4**i,
                    }
                    for progress in POINTS:
                        at = {"images_seen": BUDGET * progress, "progress": progress}
                        if losses:
                            yield {**common, **at, "task": "", "loss": 1 / (1 + progress)}
                        for j, task in enumerate(tasks):
                            auc = path(progress) + 0.02 * i + 0.1 * j + noise * rng.standard_normal()
                            yield {**common, **at, "task": task, "auc": auc}

    return pd.DataFrame(rows(), columns=list(TRAJECTORY_COLUMNS))


def judged_ends(rows: pd.DataFrame) -> pd.DataFrame:
    return ends(paths(trajectories(rows)))


def test_a_path_that_rises_is_called_rising_and_one_that_does_not_flat() -> None:
    found = judged_ends(planted()).set_index("algorithm")
    assert set(found.loc["rising", "verdict"]) == {"still rising"}
    assert set(found.loc["settled", "verdict"]) == {"flat"}
    assert ((found.loc["rising", "last_quarter"] - 0.04).abs() < 3 * found.loc["rising", "last_quarter_se"]).all()


def test_without_noise_the_numbers_are_those_of_the_paths() -> None:
    found = judged_ends(planted(noise=0)).set_index(["algorithm", "model"])
    rising = found.loc[("rising", "vit_m")]
    expected = [risen(share) + 0.02 + 0.05 for share in (0.25, 0.5, 0.75, 1)]  # of the two tasks' mean
    assert rising[["auc_25", "auc_50", "auc_75", "auc_100"]].tolist() == pytest.approx(expected)
    assert rising["last_quarter"] == pytest.approx(0.04)
    assert found.loc[("settled", "vit_s"), "last_quarter"] == pytest.approx(0)


def test_a_path_that_falls_is_called_falling() -> None:
    found = judged_ends(planted(of={"overtrained": lambda progress: 0.8 - 0.1 * progress}))
    assert set(found["verdict"]) == {"falling"}


@pytest.mark.parametrize(
    ("seeds", "tasks"), [((0, 1), ("chest", "skin")), ((0,), ("chest",))], ids=["seeds and tasks", "one path a series"]
)
def test_a_flat_path_with_noise_is_outside_its_interval_one_time_in_twenty(
    seeds: tuple[int, ...], tasks: tuple[str, ...]
) -> None:
    """400 algorithms, each with a scatter of its own that its two series share: 5 % of 800 is 40, +- 4 times 7."""
    of = {f"settled {i}": flat for i in range(400)}
    found = judged_ends(planted(of=of, seeds=seeds, tasks=tasks, noise=0.01, losses=False))
    outside = (found["last_quarter_low"] > 0) | (found["last_quarter_high"] < 0)
    assert len(outside) == 800
    assert 12 <= outside.sum() <= 68


def test_noise_that_hides_a_rise_is_not_called_flat() -> None:
    found = judged_ends(planted(of={"settled": flat}, noise=0.05))
    assert set(found["verdict"]) == {"not told from flat"}
    assert (found["last_quarter_high"] > FLAT).all()


def test_too_few_read_outs_are_said_to_be_too_few() -> None:
    rows = planted()
    found = judged_ends(rows[rows["progress"] == 1])
    assert set(found["verdict"]) == {"of too few read-outs to tell"}
    assert found["auc_25"].isna().all()
    assert found["auc_100"].notna().all()


def test_one_that_starts_late_is_overtaken_and_the_order_says_so() -> None:
    early, late = lambda p: 0.7 + 0 * p, lambda p: 0.6 + 0.15 * p  # ahead by 0.025 at half, behind by 0.05 at the end
    of = paths(trajectories(planted(of={"early": early, "late": late})))
    assert order(of)["algorithm"].tolist() == ["late", "early"]
    assert order(of).sort_values("half")["algorithm"].tolist() == ["late", "early"]
    found = pairs(of)
    assert found[["first", "second", "changed"]].drop_duplicates().to_numpy().tolist() == [["late", "early", "sure"]]
    assert found["ahead_at_half"].to_numpy() == pytest.approx(-0.025, abs=3 * NOISE)
    assert found["ahead_at_end"].to_numpy() == pytest.approx(0.05, abs=3 * NOISE)


def test_an_order_that_holds_is_said_to_hold() -> None:
    of = paths(trajectories(planted(of={"better": lambda p: risen(p) + 0.1, "worse": risen})))
    assert set(pairs(of)["changed"]) == {"no"}
    assert set(pairs(of)["first"]) == {"better"}


def test_a_turn_that_noise_would_make_is_not_called_sure() -> None:
    found = pairs(paths(trajectories(planted(of={"a": risen, "b": risen}, noise=0.02))))
    assert not (found["changed"] == "sure").any()


def test_runs_that_did_not_come_to_their_end_are_counted_and_not_judged() -> None:
    rows = planted()
    cut = (rows["run"] == "rising-vit_s-0") & (rows["progress"] > 0.6)
    found = trajectories(rows[~cut])
    assert "rising-vit_s-0" not in set(found.aucs["run"]) | set(found.losses["run"])
    assert found.left_out == {"under way, or ended before its budget": 1}
    assert found.rows["run"].nunique() == rows["run"].nunique()


def test_means_are_over_the_tasks_that_all_runs_were_followed_on() -> None:
    rows = planted()
    found = trajectories(rows[~((rows["run"] == "rising-vit_s-0") & (rows["task"] == "skin"))])
    assert found.tasks == ("chest",)
    assert found.aucs["run"].nunique() == rows["run"].nunique()


def test_a_table_of_anybody_needs_no_more_than_runs_images_and_values(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    rows = planted(seeds=(0,))
    rows[["run", "algorithm", "model", "images_seen", "task", "auc"]].dropna().to_csv(path, index=False)
    mine, whole = (judged_ends(table).sort_values(["algorithm", "model"]) for table in (trajectories(path).rows, rows))
    assert mine["last_quarter"].tolist() == pytest.approx(whole["last_quarter"].tolist())
    assert mine["verdict"].tolist() == whole["verdict"].tolist()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"run": None}, "no column run"),
        ({"auc": None, "loss": None}, "no column auc, nor loss"),
        ({"auc": 55.0}, r"auc outside 0-1 \(55 to 55\)"),
        ({"images_seen": "many"}, r"no number in images_seen \(row 1: 'many'\)"),
    ],
)
def test_what_is_no_table_of_trajectories_is_refused_with_what_is_wrong(change: dict[str, Any], message: str) -> None:
    rows = planted()
    gone = [name for name, value in change.items() if value is None]
    wrong = rows.drop(columns=gone).assign(**{k: v for k, v in change.items() if v is not None})
    with pytest.raises(InputError, match=message):
        trajectories(wrong)


def test_the_figure_has_a_panel_an_algorithm_and_a_line_a_model_and_a_seed() -> None:
    drawn = table(trajectories(planted()), "error")
    assert (drawn["error"] > 0).all()
    figure = draw(drawn, ylabel="error")
    assert [axes.get_title().split("\n")[0] for axes in figure.axes] == ["rising", "settled"]
    lines = [np.asarray(line.get_xdata()).tolist() for line in figure.axes[0].lines]
    assert sum(len(x) == len(POINTS) for x in lines) == 2 * (2 + 1)  # of each model two seeds and their mean
    assert [x for x in lines if len(x) == 1] == [[BUDGET], [BUDGET]]  # the marks of the ends


def test_the_figure_shows_the_largest_data_set_only() -> None:
    rows = pd.concat([planted(), planted().assign(n_images=500, run=lambda t: t["run"] + "-small")])
    drawn = table(trajectories(rows), "error")
    assert set(drawn["n_images"]) == {1000}


def test_the_opening_speaks_of_paths_only_where_one_still_rises() -> None:
    (said,) = sentences(judged(planted()))
    assert said.startswith("2 of 4 series still gained online AUC in the last quarter of their budget (rising vit_")
    assert said.endswith("their end points understate them. Chance alone calls 0.1 rising.")
    assert sentences(judged(planted(of={"settled": flat}))) == []
    assert sentences(None) == []


EVIL = "<script>alert(1)</script>"


@pytest.fixture(scope="module")
def small_sweep(whole_sweep: pd.DataFrame) -> pd.DataFrame:
    """What a report takes seconds for."""
    kept = whole_sweep["task"].isin(["chest", "skin"]) & (whole_sweep["mixture"] == "all")
    return whole_sweep[kept & (whole_sweep["n_images"] == 1000) & (whole_sweep["model"] == "vit_s")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, small_sweep: pd.DataFrame, all_tasks: pd.DataFrame) -> Path:
    rows = planted(of={f"mae{EVIL}": risen, "dinov2": flat}, tasks=("chest", f"skin{EVIL}"))
    out = tmp_path_factory.mktemp("along") / "report"
    return write(small_sweep, all_tasks, out, title="along", trajectories=rows).parent


def test_the_report_shows_the_paths_and_keeps_their_table(folder: Path) -> None:
    page = (folder / "report.html").read_text()
    assert "Along training" in page
    assert "2 of 2 series still rising (" in page
    assert "dinov2: 2 of 2 series flat." in page
    assert "The order differs." in page  # level at half, not at the end
    for kind in ("png", "svg", "pdf"):
        assert (folder / "figures" / f"trajectories.{kind}").stat().st_size > 1000
        assert (folder / "figures" / f"trajectories_loss.{kind}").stat().st_size > 1000
    assert len(pd.read_csv(folder / "trajectory_ends.csv")) == 4
    assert list(pd.read_csv(folder / "trajectories.csv")) == list(TRAJECTORY_COLUMNS)


def test_names_of_users_are_shown_and_not_run_and_nothing_is_fetched(folder: Path) -> None:
    page = (folder / "report.html").read_text()
    assert page.count("<script") == 1  # the page's own
    assert "mae&lt;script&gt;" in page
    assert not re.search(r"""(src|href)\s*=\s*["']?\s*https?:""", page)
    assert not re.search(r"@import|url\((?!#)", page)


def test_a_report_without_paths_has_no_section_and_none_of_an_earlier_ones_files(
    folder: Path, small_sweep: pd.DataFrame, all_tasks: pd.DataFrame
) -> None:
    page = write(small_sweep, all_tasks, folder, title="along").read_text()
    assert "Along training" not in page
    assert not list(folder.rglob("trajector*"))


def test_a_loss_without_read_outs_is_shown_and_said_to_be_all(
    tmp_path: Path, small_sweep: pd.DataFrame, all_tasks: pd.DataFrame
) -> None:
    rows = planted()
    page = write(small_sweep, all_tasks, tmp_path, title="x", trajectories=rows[rows["task"] == ""]).read_text()
    assert "No online read-out was made" in page
    assert (tmp_path / "figures" / "trajectories_loss.png").exists()
    assert not (tmp_path / "trajectory_ends.csv").exists()
