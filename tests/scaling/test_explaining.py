"""Options are explained as their classes have them: values, defaults, meanings, each once."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import pytest
from pydantic import Field

from scaling.catalog import Entry
from scaling.catalog_tables import ENTRIES
from scaling.explaining import Explained, sections, takes
from scaling.options import BY_TYPE, Fraction, Options, Other, Positive, Text

EVERY = [pytest.param(entry, id=f"{table}-{name}") for table, of in ENTRIES.items() for name, entry in of.items()]


class Cut(Options):
    """How images are cut."""

    side: int = Field(gt=0)
    """Pixels."""
    places: list[Literal["left", "right"]] = []


class Base(Options):
    """What all take."""

    path: str
    """Where the
    images are."""
    share: Fraction = 0.5
    """Of the images."""


class Planted(Base):
    kind: Literal["planted"]
    share: Fraction = 0.25
    cut: Cut | None = None
    cuts: dict[str, Cut] = {}
    """Of some labels."""
    either: Cut | Base | None = None


def explained(kind: type[Options]) -> dict[str, Explained]:
    return {option.name: option for section in sections(kind) for option in section.options}


@pytest.mark.parametrize(
    ("annotation", "words"),
    [
        (str, "text"),
        (bool, "true | false"),
        (Literal["a", "b"] | None, "a | b | null"),
        (Literal[1, 3], "1 | 3"),
        (Positive | None, "number > 0 | null"),
        (Fraction, "number 0 to 1"),
        (Annotated[float, Field(ge=0, lt=0.5)], "number >= 0 and < 0.5"),
        (Annotated[float, Field(ge=0, le=0)], "0"),
        (Literal["first"] | Annotated[int, Field(gt=0)], "first | integer > 0"),
        (tuple[float, float], "[number, number]"),
        (list[str], "[text, ...]"),
        (tuple[int, ...], "[integer, ...]"),
        (dict[str, list[int]], "{NAME: [integer, ...]}"),
        (Annotated[Annotated[str, Text] | Annotated[dict[str, str], Other], BY_TYPE], "text | {NAME: text}"),
        (Cut | Base | None, "{...} | null"),
    ],
)
def test_what_an_option_takes_is_said_as_a_yaml_has_it(annotation: Any, words: str) -> None:
    assert takes(annotation) == words


def test_limits_beside_the_default_hold_for_the_numbers_of_a_choice() -> None:
    class Limited(Options):
        n: int | None = Field(default=None, gt=0, le=8)

    assert explained(Limited)["n"].takes == "integer > 0 and <= 8 | null"


def test_a_meaning_is_the_docstring_under_the_field_in_one_line() -> None:
    expected = Explained(name="path", takes="text", default="required", meaning="Where the images are.")
    assert explained(Planted)["path"] == expected


def test_a_class_that_changes_a_default_shows_it_as_its_own_and_keeps_the_meaning() -> None:
    base, own = sections(Planted)
    assert (base.about, [option.name for option in base.options]) == ("What all take.", ["path"])
    assert own.options[0] == Explained(name="share", takes="number 0 to 1", default="0.25", meaning="Of the images.")


def test_options_inside_another_stand_below_it_with_the_place_of_their_keys() -> None:
    names = list(explained(Planted))
    assert names[2:] == ["cut", "cut.side", "cut.places", "cuts", "cuts.NAME.side", "cuts.NAME.places", "either"]
    assert explained(Planted)["cuts.NAME.side"].meaning == "Pixels."


def test_an_option_without_a_meaning_has_that_of_the_one_class_it_takes() -> None:
    found = explained(Planted)
    assert (found["cut"].meaning, found["cuts"].meaning, found["either"].meaning) == (
        "How images are cut.",
        "Of some labels.",
        "",
    )


def test_what_chose_the_class_is_no_option_of_it() -> None:
    assert "kind" not in explained(Planted)


def test_a_default_is_written_as_a_yaml_has_it() -> None:
    class Defaulted(Options):
        nothing: str | None = None
        yes: bool = True
        large: int = 268_435_456
        share: float = 5 / 300
        pair: tuple[float, float] = (0.2, 1.0)
        empty: dict[str, str] = {}
        cut: Cut = Cut(side=1)

    written = [option.default for option in explained(Defaulted).values() if "." not in option.name]
    assert written == ["null", "true", "268435456", "0.01667", "[0.2, 1]", "{}", "{side: 1}"]


@pytest.mark.parametrize("entry", EVERY)
def test_every_option_of_the_catalog_is_explained_once(entry: Entry) -> None:
    names = [option.name for section in sections(entry.options) for option in section.options]
    assert len(names) == len(set(names))
    left_out = entry.options.model_fields.keys() - {name.split(".")[0] for name in names}
    assert left_out <= {"reader", "source"}


@pytest.mark.parametrize("entry", EVERY)
def test_every_class_of_the_catalog_says_what_its_options_are_for(entry: Entry) -> None:
    assert all(section.about for section in sections(entry.options))


@pytest.mark.parametrize("entry", EVERY)
def test_every_option_of_the_catalog_says_what_it_means(entry: Entry) -> None:
    assert [option.name for option in explained(entry.options).values() if not option.meaning] == []
