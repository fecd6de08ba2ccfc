"""`scaling report --observations`: anybody's table becomes a report, or all that is wrong is said at once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from scaling.cli import main
from scaling.errors import SpecError
from scaling.records import COLUMNS
from scaling.tabular import Question, Rules, task_table, write

Say = Callable[..., list[str]]


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Two algorithms at four sizes on three tasks, in somebody's own words."""
    rows = [
        {"Set": task, "algo": algo, "Size, M": n, "AUC": round(1 - 0.3 * harder * n**-0.15, 6)}
        for algo, harder in (("a", 1.0), ("b<i>", 1.1))
        for n in (5, 20, 80, 320)
        for task, harder in (("x", harder), ("y & z", 0.8 * harder), ("w", 0.5 * harder))
    ]
    path = tmp_path / "theirs.csv"
    pd.DataFrame(rows).to_csv(path, index=False)
    return path


MAP = 'task=Set,algorithm=algo,n_params="Size, M"*1e6,auc=AUC'


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Say:
    """The problems that a command is refused for."""

    def run(*arguments: Any) -> list[str]:
        assert main(["report", *map(str, arguments)]) == 2
        head, *problems = capsys.readouterr().err.splitlines()
        assert head.endswith("nothing was written:")
        return [problem.strip() for problem in problems]

    return run


def test_a_table_without_a_sweep_becomes_a_report(
    table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "report"
    command = ["report", "--observations", str(table), "--map", MAP, "--out", str(out), "--title", "Theirs <b>"]
    assert main([*command, "--holdout", "algo == 'b<i>' and Set == w", "--exclude", "`Size, M` < 6 and Set == x"]) == 0
    assert capsys.readouterr().out == f"report: {out / 'report.html'}\n"
    page = (out / "report.html").read_text()
    assert "Theirs &lt;b&gt;" in page
    assert "<b>" not in page.replace("<b></b>", "")
    assert "SHA-256" in page
    assert "left out by hand: `Size, M` &lt; 6 and Set == x" in page
    rows = pd.read_csv(out / "observations.csv", keep_default_na=False)
    assert rows["excluded"].value_counts().to_dict() == {
        "": 18,
        "held out: predicted, not fitted": 4,
        "named by --exclude": 2,
    }


def test_everything_wrong_with_both_tables_is_said_at_once_and_nothing_is_written(
    table: Path, tmp_path: Path, refused: Say
) -> None:
    tasks = tmp_path / "tasks.csv"
    tasks.write_text("name,samples\nx,1\nx,2\n")
    out = tmp_path / "out"
    named = ("--observations", table, "--tasks", tasks, "--out", out)
    assert refused(*named, "--map", "task=Sets,n_parms=AUC", "--map-tasks", "task=nme", "--outlier", "-1") == [
        "--map: unknown name 'n_parms'; did you mean 'n_params'? known: " + KNOWN,
        "--outlier: -1 is no positive number of median absolute deviations",
        "--map: task: unknown column 'Sets'; did you mean 'Set'? known: Set, algo, Size, M, AUC",
        "--map-tasks: task: unknown column 'nme'; did you mean 'name'? known: name, samples",
    ]
    assert refused(*named, "--map", MAP) == [
        f"{tasks}: no column task; map one with --map-tasks task=COLUMN; the table has name, samples"
    ]
    assert refused(*named, "--map", MAP, "--map-tasks", "task=name") == [
        f"{tasks}: several rows of task x; give each task once"
    ]
    assert not out.exists()


KNOWN = ", ".join([*COLUMNS, "trunk", "error"])


def test_percentages_and_missing_files_are_named(table: Path, tmp_path: Path, refused: Say) -> None:
    percent = tmp_path / "percent.csv"
    read = pd.read_csv(table)
    read.assign(AUC=100 * read["AUC"]).to_csv(percent, index=False)
    (problem,) = refused("--observations", percent, "--map", MAP)
    assert problem.startswith("observations: auc outside 0-1 (")
    assert problem.endswith("; give shares, not percentages")
    (problem,) = refused("--observations", tmp_path / "theris.csv", "--map", MAP)
    assert problem.startswith(f"{tmp_path / 'theris.csv'}: no such file; did you mean '{table}'?")


def test_a_table_of_which_no_row_can_be_fitted_is_refused(table: Path, refused: Say) -> None:
    assert refused("--observations", table, "--map", MAP, "--exclude", "AUC > 0") == [
        f"{table}: no row is left to fit: named by --exclude (24)"
    ]


def test_a_folder_that_is_a_file_is_refused(table: Path, refused: Say) -> None:
    assert refused("--observations", table, "--map", MAP, "--out", table) == [
        f"--out: {table}: is a file; give a folder"
    ]


def test_a_benefit_that_is_none_is_refused_before_anything_is_written(
    table: Path, tmp_path: Path, refused: Say
) -> None:
    out = tmp_path / "out"
    (problem,) = refused("--observations", table, "--map", MAP, "--benefit", "slop", "--out", out)
    assert problem.startswith("benefit: unknown definition 'slop'; known: ")
    assert not out.exists()


def test_a_size_that_is_none_or_that_runs_lack_is_refused_before_anything_is_written(
    table: Path, tmp_path: Path, refused: Say
) -> None:
    out = tmp_path / "out"
    named = ("--observations", table, "--map", MAP, "--out", out)
    (problem,) = refused(*named, "--size", "paper")
    assert problem.startswith("--size: unknown model size 'paper'; did you mean 'paper_axis'? known: n_params, ")
    (problem,) = refused(*named, "--size", "paper_axis")
    assert problem.startswith("--size: paper_axis is missing or not above 0 in ")
    assert not out.exists()


def test_a_sweep_and_a_table_are_two_questions(table: Path, refused: Say) -> None:
    assert refused() == ["report: of what? give a sweep, or --observations FILE"]
    assert refused("tiny", "--observations", table) == [
        "--observations: is a table instead of a sweep, but 'tiny' is given too; give one of them"
    ]
    assert refused("tiny", "--map", "a=b", "--no-data") == [
        "--map: is for a table; give --observations FILE too",
        "--no-data: is for a table; give --observations FILE too",
    ]


def test_columns_of_numbers_are_numbers_in_the_table_of_tasks_and_others_stay_text(tmp_path: Path) -> None:
    path = tmp_path / "tasks.csv"
    path.write_text("dataset,task,n,share\n1,multi-class,10,\n2,binary,20,0.5\n")
    found = task_table(path, "task=dataset,samples=n*2")
    assert list(found) == ["share", "task", "samples"]
    assert found["task"].tolist() == ["1", "2"]
    assert found["samples"].tolist() == [20, 40]
    assert np.isnan(found["share"].iloc[0])
    assert task_table(None, None).empty


@pytest.mark.slow
def test_the_reference_study_comes_out_with_its_slopes_and_correlations(shared: Path, tmp_path: Path) -> None:
    study = shared / "reference" / "biovfm"
    question = Question(
        observations=study / "auc.csv",
        mapping="task=dataset,n_params=params_millions*1e6",
        tasks=study / "features.csv",
        mapping_of_tasks="task=dataset,samples=num_samples,classes=num_classes",
        benefit="slope_log_auc",
        keep_observations=False,
    )
    page = write(question, tmp_path / "report")
    assert not (page.parent / "observations.csv").exists()
    benefits = pd.read_csv(page.parent / "benefits.csv").set_index(["task", "algorithm"])["slope_log_auc"]
    printed = pd.read_csv(study / "slopes.csv").set_index(["dataset", "algorithm"])["printed_slope"]
    printed = printed.sort_index().drop(index="mean")
    assert len(printed) == 24
    for key, slope in printed.items():
        assert benefits[key] == pytest.approx(slope, abs=2e-4)
    found = pd.read_csv(page.parent / "correlations.csv").set_index(["feature", "algorithm"])["pearson"]
    for (feature, algorithm), r in {("samples", "dinov2"): 0.51, ("samples", "mae"): 0.33}.items():
        assert found[feature, algorithm] == pytest.approx(r, abs=0.01)
    for (feature, algorithm), r in {("classes", "dinov2"): 0.05, ("classes", "mae"): -0.24}.items():
        assert found[feature, algorithm] == pytest.approx(r, abs=0.01)


def test_rules_are_part_of_the_question(table: Path, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="--under-trained: 2 is no share between 0 and 1"):
        write(Question(observations=table, mapping=MAP, rules=Rules(under_trained=2)), tmp_path / "out")


def test_trajectories_beside_a_table_are_shown_and_those_that_are_none_refused(
    table: Path, tmp_path: Path, refused: Say
) -> None:
    path, out = tmp_path / "along.csv", tmp_path / "report"
    rows = [
        {"run": algorithm, "algorithm": algorithm, "images_seen": 100 * i, "task": "x", "auc": 0.6 + slope * i}
        for algorithm, slope in (("a", 0.03), ("b<i>", 0.0))
        for i in range(1, 11)
    ]
    pd.DataFrame(rows).to_csv(path, index=False)
    command = ["--observations", table, "--map", MAP, "--out", out, "--trajectories", path]
    assert main(["report", *map(str, command)]) == 0
    page = (out / "report.html").read_text()
    assert "Along training" in page
    assert "b&lt;i&gt;: 1 of 1 series" in page
    pd.DataFrame(rows).drop(columns="images_seen").to_csv(path, index=False)
    assert refused(*command) == [f"{path}: no column images_seen"]
