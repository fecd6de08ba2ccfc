"""Other people's names are read as they mean them, and what cannot be read is said with the form."""

from __future__ import annotations

import pandas as pd
import pytest

from analysis.tables.mapping import FORM, Source, apply, parse_mapping
from analysis.tables.problems import InputError


@pytest.mark.parametrize(
    ("text", "column", "factor"),
    [
        ("x=dataset", "dataset", 1.0),
        (" x = Model Size ", "Model Size", 1.0),
        ("x=millions*1e6", "millions", 1e6),
        ("x=percent / 100", "percent", 0.01),
        ("x=kilo*1e3/4*2", "kilo", 500.0),
        ('x="Size, M"*1e6', "Size, M", 1e6),
        ("x='it''s'", "it's", 1.0),
        ("x=`a\"b'c`", "a\"b'c", 1.0),
        ("x=loss (nats)", "loss (nats)", 1.0),
        ("x=tokens/image", "tokens/image", 1.0),
        ("x=tokens/image/1e3", "tokens/image", 1e-3),
        ('x="a*2"', "a*2", 1.0),
        ("x=a=b", "a=b", 1.0),
        ("x=its'", "its'", 1.0),
        ("x=größe", "größe", 1.0),
    ],
)
def test_a_pair_is_a_name_a_column_and_a_unit(text: str, column: str, factor: float) -> None:
    assert parse_mapping(text) == {"x": Source(column=column, factor=pytest.approx(factor, rel=1e-15))}


def test_pairs_are_joined_by_commas_outside_quotes() -> None:
    found = parse_mapping('task=dataset, n_params="a, b"*1e6 ,auc=c')
    assert {name: str(source) for name, source in found.items()} == {
        "task": "dataset",
        "n_params": "a, b * 1e+06",
        "auc": "c",
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "--map: is empty; the form is " + FORM),
        ("task", "--map: '=' is missing in 'task'; the form is " + FORM),
        ("=a", "--map: the name before '=' is missing in '=a'; the form is " + FORM),
        ("x= ", "--map: the column after '=' is missing in 'x='; the form is " + FORM),
        ("x=`a", "--map: a quote is not closed in 'x=`a'; the form is " + FORM),
        ("x='a' b", "--map: nothing can be made of 'b' after the quoted name in \"x='a' b\"; the form is " + FORM),
        ("x='a'*b", "--map: 'b' is no number in \"x='a'*b\"; the form is " + FORM),
        ("x=a*0", "--map: a factor of 0 makes no unit in 'x=a*0'; the form is " + FORM),
        ("x=a*inf", "--map: a factor of inf makes no unit in 'x=a*inf'; the form is " + FORM),
        ("x=a,x=b*2", "--map: x is given twice, as a and as b * 2; give it once"),
    ],
)
def test_what_cannot_be_read_is_shown_with_the_form(text: str, message: str) -> None:
    with pytest.raises(InputError) as error:
        parse_mapping(text)
    assert error.value.problems == (message,)


def test_all_that_cannot_be_read_is_said_at_once_under_the_options_name() -> None:
    with pytest.raises(InputError) as error:
        parse_mapping("a,b=", where="--map-tasks")
    assert [problem.split(" in ")[0] for problem in error.value.problems] == [
        "--map-tasks: '=' is missing",
        "--map-tasks: the column after '=' is missing",
    ]


def test_names_may_be_swapped_and_replaced_and_one_column_may_serve_twice() -> None:
    table = pd.DataFrame({"a": [1, 2], "b": ["3", None], "task": ["x", "y"], "set": ["u", "v"]})
    swapped = apply(table, parse_mapping("a=b*2,b=a"))
    assert swapped["b"].tolist() == [1, 2]
    assert swapped["a"].iloc[0] == 6.0
    assert pd.isna(swapped["a"].iloc[1])
    assert list(table) == ["a", "b", "task", "set"]
    renamed = apply(table, parse_mapping("task=set,name=set"))
    assert list(renamed) == ["a", "b", "task", "name"]
    assert renamed["task"].tolist() == renamed["name"].tolist() == ["u", "v"]


def test_columns_that_are_not_there_are_all_named() -> None:
    with pytest.raises(InputError) as error:
        apply(pd.DataFrame({"size": [1]}), parse_mapping("x=sise,y=z"))
    assert error.value.problems == (
        "--map: x: unknown column 'sise'; did you mean 'size'? known: size",
        "--map: y: unknown column 'z'; known: size",
    )
