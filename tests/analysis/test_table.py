"""Anybody's table: what can be read, which rows a user's words choose, and that every row has one fate."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.tables.expression import parse
from analysis.tables.problems import InputError
from analysis.tables.reading import read
from analysis.tables.sheet import groups, sheet
from analysis.tables.table import Question, open_table

ROWS = pd.DataFrame(
    {
        "Training": ["1", "0", "1.0", None],
        "Model Size": ["1e9", "2", "3", "-"],
        "Model": ["6 Enc, 6 Dec", "b", "c or d", None],
        "loss": [1.0, 2.0, np.nan, 4.0],
    }
)


def chosen(text: str) -> list[int]:
    return np.flatnonzero(parse(text, ROWS.columns, where="--train").choose(ROWS)).tolist()


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("Training==1", [0, 2]),
        ("Training = 1", [0, 2]),
        ("Training == True", [0, 2]),
        ("Training!=1", [1]),  # a missing cell satisfies no comparison
        ("Model Size>=3", [0, 2]),
        ("`Model Size` >= 3 and loss<2", [0]),
        ("Model == '6 Enc, 6 Dec'", [0]),
        ('Model in (b, "c or d")', [1, 2]),
        ("Model in [b,b]", [1]),
        ("Model == b or (Training==1, loss<1.5)", [0, 1]),
        ("loss == ''", [2]),
        ("loss != ''", [0, 1, 3]),
        ("loss>3 | Training==0 & loss>1", [1, 3]),
        ("Training==1 and(loss<2 or(loss>9))", [0]),
    ],
)
def test_words_choose_rows(text: str, rows: list[int]) -> None:
    assert chosen(text) == rows


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("__import__('os').system('true')", "no comparison can be read"),
        ("loss>=1; import os", "wants a number, not '1; import os'"),
        ("los>=3", "unknown column 'los'; did you mean 'loss'?"),
        ("loss>", "a value is missing"),
        ("(loss>3", "a bracket is not closed"),
        ("loss>3)", "nothing can be made of ')'"),
        ("loss>3 and", "a comparison is missing at the end"),
        ("Model=='x", "a quote is not closed"),
        ("Model in b", "column 'Model' is compared with nothing"),
        ("", "a comparison is missing"),
        ("(" * 3000 + "loss>1", "more than 50 brackets"),
    ],
)
def test_words_that_make_no_sense_are_refused_and_never_run(text: str, said: str) -> None:
    with pytest.raises(InputError) as error:
        chosen(text)
    assert said in str(error.value)
    assert str(error.value).startswith("--train: ")


def test_a_text_file_is_read_as_it_stands(tmp_path: Path) -> None:
    text = '\ufeffid, "a, b",x\n007,"p, q",1e3\n,NA, 2 \n\n'
    (tmp_path / "t.csv").write_text(text, encoding="utf-8")
    with gzip.open(tmp_path / "t.csv.gz", "wt", encoding="utf-8") as file:
        file.write(text)
    for name in ("t.csv", "t.csv.gz"):
        table = read(tmp_path / name)
        assert table.to_dict("list") == {"id": ["007", None], "a, b": ["p, q", "NA"], "x": ["1e3", "2"]}


def test_other_separators_and_parquet_are_read(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("a;b c\n1;2\n")
    (tmp_path / "t.tsv").write_text("a\tb c\n1\t2\n")
    pd.DataFrame({"a": [1], "b c": [2]}).to_parquet(tmp_path / "t.parquet")
    for name in ("t.csv", "t.tsv", "t.parquet"):
        assert list(read(tmp_path / name).columns) == ["a", "b c"]
        assert float(read(tmp_path / name)["b c"].iloc[0]) == 2


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "empty; the first line names the columns"),
        (b"a,b\n", "no rows below the header"),
        (b"a,b,a\n1,2,3\n", "several columns are called 'a'"),
        (b"a,b\n1,2\n1,2,3\n4\n", "the header has 2 cells, line 3 has 3, line 4 has 1"),
        (b"\xff\xfea,b\n", "no text in UTF-8"),
    ],
)
def test_what_is_no_table_is_said(content: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(content)
    with pytest.raises(InputError, match=said):
        read(tmp_path / "t.csv")


def test_a_file_that_is_not_there_names_its_neighbour(tmp_path: Path) -> None:
    (tmp_path / "runs.csv").write_text("a\n1\n")
    with pytest.raises(InputError, match=r"no such file; did you mean '.*runs\.csv'"):
        read(tmp_path / "run.csv")
    (tmp_path / "bad.parquet").write_bytes(b"nonsense")
    with pytest.raises(InputError, match="cannot be read"):
        read(tmp_path / "bad.parquet")


TABLE = """N (M),C,Loss,part,kind
1,6e15,3,1,a
2,1.2e16,2.5,1,a
4,2.4e16,0,1,a
8,,2,1,b
16,-1,2,1,b
32,inf,1.5,0,b
64,6e17,1.2,0,
128,6e17,oops,0,a
"""


@pytest.fixture
def question(tmp_path: Path) -> Question:
    path = tmp_path / "t.csv"
    path.write_text(TABLE)
    return Question(path=path, mapping="N=N (M)*1e6,C=C,loss=Loss", exclude="Loss==oops", train="part==1")


def test_every_row_has_one_fate_and_the_counts_add_up(question: Question) -> None:
    table = open_table(question)
    numbers = sheet(table, ("n_params", "n_images"), relative=True, law="chinchilla")
    (group,) = groups(table, numbers)
    assert group.fitted_rows == (1, 2)
    assert group.held_out_rows == (7,)
    fates = {(fate.reason, fate.what): fate.rows for fate in group.excluded}
    assert fates == {
        ("excluded", "Loss==oops"): (8,),
        ("not positive", "Loss"): (3,),
        ("missing", "n_images"): (4,),
        ("not positive", "n_images"): (5,),
        ("not finite", "n_images"): (6,),
    }
    assert group.total == 8


def test_data_sizes_follow_from_flops_and_units_from_the_map(question: Question) -> None:
    table = open_table(question)
    numbers = sheet(table, ("n_params", "n_images"), relative=True, law="chinchilla")
    np.testing.assert_allclose(numbers.x[:2], [[1e6, 1e9], [2e6, 1e9]])
    assert "n_images is not mapped: D = C / (6 N), C = C" in numbers.notes


def test_images_seen_stand_for_unique_ones_where_nothing_else_is_mapped(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("N,S,loss\n1e6,2e6,3\n")
    table = open_table(Question(path=path, mapping="N=N,images_seen=S,loss=loss"))
    numbers = sheet(table, ("n_params", "n_images"), relative=True, law="chinchilla")
    np.testing.assert_array_equal(numbers.x, [[1e6, 2e6]])
    assert any("images_seen stands for it" in note for note in numbers.notes)


def test_a_missing_value_makes_a_group_of_its_own(question: Question) -> None:
    table = open_table(Question(path=question.path, mapping="x=N (M),loss=Loss", exclude="Loss==oops", by=("kind",)))
    found = groups(table, sheet(table, ("x",), relative=True, law="power"))
    assert [group.key for group in found] == [{"kind": "a"}, {"kind": "b"}, {"kind": None}]
    assert sum(group.total for group in found) == 8


def test_cells_without_a_number_are_named_by_row(question: Question) -> None:
    table = open_table(Question(path=question.path, mapping="x=N (M),loss=Loss"))
    with pytest.raises(InputError, match=r"column 'Loss': no number in row 8 \('oops'\); leave a missing value empty"):
        sheet(table, ("x",), relative=True, law="power")


def test_all_problems_of_a_question_are_said_at_once(question: Question) -> None:
    asked = Question(
        path=question.path,
        mapping="n_parms=N (M),loss=Los",
        x="zz",
        by=("kid",),
        train="part=",
        exclude="lss>1",
        weights="w",
        se="s",
        cluster="trunk",
    )
    with pytest.raises(InputError) as error:
        open_table(asked)
    text = "\n".join(error.value.problems)
    for said in (
        "unknown name 'n_parms'; did you mean 'n_params'?",
        "unknown column 'Los'; did you mean 'Loss'?",
        "--x: unknown column 'zz'",
        "--by: unknown column 'kid'; did you mean 'kind'?",
        "--train: a value is missing",
        "--exclude: unknown column 'lss'",
        "--weights: unknown column 'w'",
        "--se: unknown column 's'",
        "both set the weights",
        "--cluster: unknown column 'trunk'",
    ):
        assert said in text
    assert all(problem.startswith(str(question.path)) for problem in error.value.problems)


def test_nothing_left_is_a_problem_of_the_words(question: Question) -> None:
    with pytest.raises(InputError, match="nothing is left to fit: of 8 rows --exclude 'N \\(M\\)>0' takes 8"):
        open_table(Question(path=question.path, mapping="x=N (M),loss=Loss", exclude="N (M)>0"))


def test_a_column_called_like_a_target_is_taken_for_it(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("y,x,LOSS\n1,2,3\n")
    table = open_table(Question(path=path, x="x"))
    assert table.target == "loss"
    assert "column 'LOSS' is taken as the loss" in table.notes
    path.write_text("loss,error,x\n1,2,3\n")
    with pytest.raises(InputError, match="several columns could be it: 'loss', 'error'"):
        open_table(Question(path=path, x="x"))


def test_shares_are_fitted_as_errors_and_percentages_get_a_note(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("x,auc\n1,0.75\n2,85\n")
    table = open_table(Question(path=path, mapping="x=x,auc=auc"))
    numbers = sheet(table, ("x",), relative=True, law="power")
    assert numbers.y[0] == 0.25
    assert any("fitted as the error 1 - auc" in note for note in numbers.notes)
    assert any("give shares, not percentages" in note for note in numbers.notes)


def test_standard_errors_weigh_rows_and_their_unit_does_not_matter(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("x,y,s,w\n1,4,0.4,1\n2,2,0.4,3\n")
    for relative, expected in ((True, [1.6, 0.4]), (False, [1.0, 1.0])):
        table = open_table(Question(path=path, x="x", mapping="y=y", se="s"))
        (group,) = groups(table, sheet(table, ("x",), relative=relative, law="power"))
        np.testing.assert_allclose(group.fitted.weights, expected)
    table = open_table(Question(path=path, x="x", mapping="y=y", weights="w*7"))
    (group,) = groups(table, sheet(table, ("x",), relative=True, law="power"))
    np.testing.assert_allclose(group.fitted.weights, [0.5, 1.5])


@pytest.mark.parametrize(("how", "n"), [("cell", 2), ("row", 3), ("trunk", 1)])
def test_what_shares_luck_is_asked_for(how: str, n: int, tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("x,y,trunk\n1,4,a\n1,5,a\n2,2,a\n")
    table = open_table(Question(path=path, x="x", mapping="y=y", cluster=how))
    (group,) = groups(table, sheet(table, ("x",), relative=True, law="power"))
    assert len(np.unique(group.fitted.clusters)) == n
