"""A report from a made-up sweep: complete, self-contained, escaped, and equal to what is computed directly."""

from __future__ import annotations

import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.benefit import benefits
from analysis.observations import kept, load
from analysis.report import write
from scaling.records import COLUMNS

Sweep = Callable[..., pd.DataFrame]
EVIL = "</title><script>alert(1)</script>"
PICTURES = [
    "benefit",
    "candidates",
    "correlation",
    "correlation_intervals",
    "correlation_pairs",
    "error_n_images",
    "error_n_params",
    "error_train_flops",
    "tasks",
]
TABLES = [
    "benefit_headline",
    "benefits",
    "candidates",
    "cells",
    "correlations",
    "correlations_main",
    "duels",
    "failures",
    "forecasts",
    "law_n_images",
    "law_n_params",
    "law_train_flops",
    "observations",
    "provenance",
    "read_outs",
    "references",
    "rows",
    "shared_parameters",
    "tasks",
    "without_result",
]


def write_whole(observations: pd.DataFrame | Path, tasks: pd.DataFrame, out: Path) -> Path:
    """A report with all that a report may have, in words that want to run in a browser."""
    gallery = out.parent / "examples.png"
    gallery.write_bytes(b"\x89PNG\r\n\x1a\n")
    return write(
        observations,
        tasks,
        out,
        title=EVIL,
        question=f"Does it scale? {EVIL}",
        provenance={"commit": "abc <b>"},
        failures=pd.DataFrame({"run": ["000000000034"], "error": ["out of memory <i>"], "log": ["runs/x/log.txt"]}),
        synthetic=True,
        spec_text=f"name: {EVIL}",
        gallery=gallery,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, whole_sweep: pd.DataFrame, all_tasks: pd.DataFrame) -> Path:
    """The report of the whole made-up sweep, written once."""
    return write_whole(whole_sweep, all_tasks, tmp_path_factory.mktemp("whole") / "report").parent


class Addresses(HTMLParser):
    """Collects every attribute that a browser would fetch, and the names of all elements."""

    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.elements: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.add(tag)
        self.fetched += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "data", "poster")]


def parsed(page: str) -> Addresses:
    found = Addresses()
    found.feed(page)
    return found


def test_the_page_asks_nobody_for_anything(folder: Path) -> None:
    page = (folder / "report.html").read_text()
    fetched = parsed(page).fetched
    assert len(fetched) > 10
    assert all(address.startswith(("data:", "#")) or re.fullmatch(r"[\w./-]+", address) for address in fetched)
    assert not re.search(r"@import|url\((?!#)", page)
    assert not re.search(r"""(src|href)\s*=\s*["']?\s*https?:""", page)


def test_what_users_write_is_shown_and_not_run(folder: Path) -> None:
    page = (folder / "report.html").read_text()
    assert page.count("<script") == 1  # the page's own
    assert page.count("&lt;/title&gt;&lt;script&gt;alert(1)&lt;/script&gt;") == 4  # title twice, question, sweep
    assert "<b>here</b>" not in page
    assert "it failed &lt;b&gt;here&lt;/b&gt;" in page
    assert "out of memory &lt;i&gt;" in page


def test_every_figure_is_there_in_three_formats(folder: Path) -> None:
    assert sorted(path.name for path in (folder / "figures").iterdir()) == sorted(
        ["gallery.png", *(f"{name}.{kind}" for name in PICTURES for kind in ("png", "svg", "pdf"))]
    )
    page = (folder / "report.html").read_text()
    assert page.count("<img ") + page.count("<svg ") == len(PICTURES) + 1


def test_every_table_is_there_as_csv_and_nothing_half_written(folder: Path) -> None:
    assert sorted(path.name for path in folder.glob("*.csv")) == sorted(f"{name}.csv" for name in TABLES)
    assert sorted(path.stem for path in folder.glob("*.tex")) == [name for name in TABLES if name != "observations"]
    assert not list(folder.rglob(".*"))


def test_every_picture_of_the_markdown_exists(folder: Path) -> None:
    links = re.findall(r"!\[[^\]]*\]\(([^)]*)\)", (folder / "report.md").read_text())
    assert len(links) == len(PICTURES) + 1
    assert all((folder / link).exists() for link in links)


def test_rows_in_are_rows_kept_plus_rows_excluded(folder: Path, whole_sweep: pd.DataFrame) -> None:
    counts = pd.read_csv(folder / "rows.csv").set_index("rows")["number"]
    assert counts.sum() == len(whole_sweep) == len(pd.read_csv(folder / "observations.csv"))
    assert counts["excluded: the run failed"] == counts["excluded: the run diverged"] == 1


def test_cells_tell_unique_images_and_epochs_where_a_mixture_repeats(
    folder: Path, sweep: Sweep, tasks: pd.DataFrame, tmp_path: Path
) -> None:
    told = {"n_images_asked", "epochs"}
    assert not told & set(pd.read_csv(folder / "cells.csv"))  # a table that knows nothing of them
    rows = small(sweep)
    trained = rows["n_images"] > 0
    rows["n_images_asked"] = rows["n_images"] * np.where(trained & (rows["model"] == rows["model"].iloc[0]), 3, 1)
    rows["epochs"] = np.where(trained, "ct=2;mr=6.5", "")
    write(rows, tasks, tmp_path / "report", title="repeats")
    cells = pd.read_csv(tmp_path / "report" / "cells.csv", keep_default_na=False)
    assert (cells["n_images_asked"] > cells["n_images"]).any()
    assert set(cells.loc[cells["n_images"] > 0, "epochs"]) == {"ct=2;mr=6.5"}
    assert "n_images are unique; where more were asked for" in (tmp_path / "report" / "report.md").read_text()


def test_numbers_in_tables_are_those_computed_directly(folder: Path, whole_sweep: pd.DataFrame) -> None:
    written = pd.read_csv(folder / "benefits.csv", dtype={"at": str})
    # Fifteen to seventeen digits are written; reading may lose the last.
    pd.testing.assert_frame_equal(written, benefits(kept(load(whole_sweep))), rtol=1e-14)


def test_an_exponent_of_the_table_is_the_slope_of_the_logarithms(folder: Path, whole_sweep: pd.DataFrame) -> None:
    law = pd.read_csv(folder / "law_n_params.csv")
    mine = law[(law["algorithm"] == "mae") & (law["mixture"] == "all") & (law["n_images"] == 4000)].iloc[0]
    rows = kept(load(whole_sweep))
    cell = rows[(rows["algorithm"] == "mae") & (rows["mixture"] == "all") & (rows["n_images"] == 4000)]
    means = cell.groupby("n_params")["error"].mean()
    slope, _ = np.polyfit(np.log(means.index), np.log(means), 1)
    assert mine["exponent"] == pytest.approx(-slope, rel=1e-9)


def test_runs_that_failed_or_diverged_appear_with_their_reasons(folder: Path) -> None:
    lost = pd.read_csv(folder / "without_result.csv", dtype={"run": str})
    assert lost[["run", "status"]].to_numpy().tolist() == [["000000000034", "failed"], ["000000000035", "diverged"]]
    for name in ("report.html", "report.md"):
        text = (folder / name).read_text()
        assert "000000000034" in text
        assert "000000000035" in text
        assert "runs/x/log.txt" in text


def test_synthetic_images_are_announced_and_real_ones_are_not(
    folder: Path, tmp_path: Path, sweep: Sweep, tasks: pd.DataFrame
) -> None:
    notice = "All images are synthetic. Nothing here says anything about patients"
    assert notice in (folder / "report.html").read_text()
    assert notice in (folder / "report.md").read_text()
    assert notice not in write(small(sweep), tasks, tmp_path, title="real").read_text()


@pytest.mark.slow
def test_a_report_from_the_written_tables_is_the_same_again(folder: Path, tmp_path: Path) -> None:
    page = write_whole(folder / "observations.csv", pd.read_csv(folder / "tasks.csv"), tmp_path / "again")
    for path in folder.rglob("*"):
        if path.is_file():
            assert path.read_bytes() == (page.parent / path.relative_to(folder)).read_bytes(), path.name


def test_tables_that_are_none_raise_one_error_and_leave_nothing_written(
    sweep: Sweep, tasks: pd.DataFrame, tmp_path: Path
) -> None:
    out = tmp_path / "report"
    with pytest.raises(ValueError) as error:
        write(sweep().drop(columns=["auc"]), tasks.rename(columns={"task": "name"}), out, title="x", benefit="slope")
    assert "observations: no column auc, nor error; the table has run, status" in str(error.value)
    assert "benefit: unknown definition 'slope'; known: exponent, floor_exponent, slope_log_auc, gain" in str(
        error.value
    )
    assert "tasks: no column task; the table has name, modality" in str(error.value)
    assert not out.exists()


def test_a_task_that_comes_twice_is_no_task_table(sweep: Sweep, tasks: pd.DataFrame, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="tasks: several rows of skin; give each task once"):
        write(sweep(), pd.concat([tasks, tasks[tasks["task"] == "skin"]]), tmp_path / "x", title="x")


def small(sweep: Sweep, **changes: object) -> pd.DataFrame:
    """One algorithm, one mixture, one data size, two tasks: the cheapest sweep with a law."""
    few = {"algorithms": ("mae",), "mixtures": ("all",), "images": (1000,), "tasks": ("skin", "organ"), "broken": False}
    return sweep(**few | changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"models": ("vit_s",)},
        {"models": ("vit_s", "vit_m")},
        {"tasks": ("skin",)},
        {"baselines": False},
        {"seeds": (0, 1, 2)},
        {"models": ("vit_s",), "tasks": ("skin",), "baselines": False},
        {"models": ("vit_s", "vit_m"), "broken": True},
    ],
    ids=str,
)
def test_whatever_is_missing_the_report_is_written_and_prints_no_nan(
    sweep: Sweep, tasks: pd.DataFrame, tmp_path: Path, changes: dict[str, object]
) -> None:
    page = write(small(sweep, **changes), tasks, tmp_path, title="x")
    text = (page.parent / "report.md").read_text()
    assert not re.search(r"\b(nan|inf)\b", text)
    for title in ("In short", "Error against model size", "Benefit per task", "Failures", "Provenance"):
        assert f"## {title}" in text


@pytest.mark.parametrize("auc", [1.0, 0.0, np.nan])
def test_perfect_hopeless_and_missing_areas_are_reported(
    sweep: Sweep, tasks: pd.DataFrame, tmp_path: Path, auc: float
) -> None:
    table = small(sweep)
    table.loc[(table["task"] == "skin") & (table["model"] == "vit_l"), "auc"] = auc
    page = write(table, tasks, tmp_path, title="x")
    text = (page.parent / "report.md").read_text()
    assert not re.search(r"\b(nan|inf)\b", text)
    assert "skin" in text
    kinds = pd.read_csv(tmp_path / "rows.csv")["number"]
    assert kinds.sum() == len(table)


@pytest.mark.parametrize("kept_rows", ["none", "failed", "baselines"])
def test_a_sweep_without_a_single_result_is_reported(
    sweep: Sweep, tasks: pd.DataFrame, tmp_path: Path, kept_rows: str
) -> None:
    table = sweep()
    choice = {
        "none": pd.Series(False, index=table.index),
        "failed": table["status"] != "done",
        "baselines": table["algorithm"].isin(["random", "pixels"]),
    }
    page = write(table[choice[kept_rows]], tasks, tmp_path, title="x")
    assert "No run has a result that could be compared." in page.read_text()


def test_an_empty_task_table_is_no_mistake_and_is_said(sweep: Sweep, tmp_path: Path) -> None:
    page = write(small(sweep), pd.DataFrame(), tmp_path, title="x")
    assert "Without features, as the task table has no row of them: organ, skin." in page.read_text()


def test_sizes_tasks_and_areas_are_enough(sweep: Sweep, tasks: pd.DataFrame, tmp_path: Path) -> None:
    needed = ["n_params", "task", "auc", "algorithm", "probe"]
    page = write(small(sweep)[needed], tasks, tmp_path, title="x")
    assert "3 of 3 runs have no train_flops and are in no curve here." in page.read_text()
    assert not re.search(r"\b(nan|inf)\b", (tmp_path / "report.md").read_text())


def test_a_table_longer_than_its_page_says_where_the_rest_is(folder: Path) -> None:
    n = len(pd.read_csv(folder / "benefits.csv"))
    words = f"The first 20 of {n} rows; all are in benefits.csv."
    assert words in (folder / "report.html").read_text()
    assert words in (folder / "report.md").read_text()


def test_the_observations_written_have_every_column_that_the_records_name(folder: Path) -> None:
    assert list(pd.read_csv(folder / "observations.csv").columns) == [*COLUMNS, "trunk", "error", "excluded"]


def test_figures_and_tables_of_an_earlier_report_do_not_stay(sweep: Sweep, tasks: pd.DataFrame, tmp_path: Path) -> None:
    write(small(sweep), tasks, tmp_path, title="first")
    before = {path.relative_to(tmp_path) for path in tmp_path.rglob("*")}
    for old in ("figures/task_gone.png", "gone.csv", "gone.tex"):
        (tmp_path / old).write_bytes(b"old")
    write(small(sweep), tasks, tmp_path, title="again")
    assert {path.relative_to(tmp_path) for path in tmp_path.rglob("*")} == before
    (tmp_path / "mine.csv").write_bytes(b"not of a report")
    assert "<title>" in (tmp_path / "figures" / "error_n_params.svg").read_text()
    write(small(sweep), tasks, tmp_path, title="again", keep_observations=False)
    assert {path.relative_to(tmp_path) for path in tmp_path.rglob("*")} - before == {Path("mine.csv")}
    assert not (tmp_path / "observations.csv").exists()
    assert "<title>" not in (tmp_path / "figures" / "error_n_params.svg").read_text()  # no value to hover for
