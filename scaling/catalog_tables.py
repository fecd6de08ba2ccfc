"""The catalog for a terminal: its tables, and what can be set of one name. Imports rich."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from scaling.catalog import ALGORITHMS, MODELS, PROBES, READERS, SOURCES, Entry
from scaling.errors import Problem, SpecError, unknown
from scaling.explaining import Explained, Section, sections
from scaling.importing.conversion import RULES
from scaling.recipes import RECIPES

ENTRIES: Mapping[str, Mapping[str, Entry]] = MappingProxyType(
    {"algorithms": ALGORITHMS, "sources": SOURCES, "readers": READERS, "probes": PROBES}
)
"""Tables whose names have options."""


def catalog_tables(wanted: str | None) -> Iterator[Table]:
    if wanted in (None, "models"):
        table = Table("model", "width", "depth", "heads", "source", title="models", title_justify="left")
        for name, rung in MODELS.items():
            table.add_row(name, str(rung.width), str(rung.depth), str(rung.heads), rung.origin)
        yield table
    for title, entries in ENTRIES.items():
        if wanted in (None, title):
            table = Table("name", "what it is", "options", title=title, title_justify="left")
            for name, entry in entries.items():
                table.add_row(name, entry.about, ", ".join(entry.options.model_fields))
            yield table
    if wanted in (None, "modalities"):
        table = Table("modality", "0 and 255", "channels", "source", title="modalities", title_justify="left")
        for name, rule in RULES.items():
            table.add_row(name, str(rule.window), str(rule.channels), rule.origin)
        yield table
    if wanted in (None, "recipes"):
        table = Table("recipe", "what it is", "source", title="recipes", title_justify="left")
        for name, named in RECIPES.items():
            table.add_row(name, named.about, named.source)
        yield table


def options_of(table: str, name: str) -> Iterator[RenderableType]:
    """What can be set of one name. Raises SpecError for a name that the table does not have, and for a table whose
    names have no options."""
    if table not in ENTRIES:
        what = f"has no options to show of '{name}'; leave it out, or ask of {', '.join(ENTRIES)}"
        raise SpecError([Problem(where=f"catalog {table}", what=what)])
    if name not in ENTRIES[table]:
        what = unknown(table.removesuffix("s"), name, ENTRIES[table])
        raise SpecError([Problem(where=f"catalog {table}", what=what)])
    entry = ENTRIES[table][name]
    yield Text(f"{name}: {entry.about}", style="bold")
    yield from _listing(sections(entry.options))


WIDEST_DEFAULT = 16
"""Columns; a longer default is wrapped."""


def _listing(found: list[Section]) -> Iterator[RenderableType]:
    """What each class says of itself, then a table of its options; the tables' columns stand below each other."""
    options = [option for section in found for option in section.options]
    name = max((len(option.name) for option in options), default=0)
    default = min(WIDEST_DEFAULT, max((len(option.default) for option in options), default=0))
    for section in found:
        yield Text(f"\n{section.about}", style="italic")
        if section.options:
            table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold", show_header=section is found[0])
            table.add_column("option", width=name, no_wrap=True)
            table.add_column("default", width=default)
            table.add_column("what it takes, what it means")
            for option in section.options:
                table.add_row(Text(option.name), Text(option.default), _explanation(option))
            yield table


def _explanation(option: Explained) -> Text:
    """The meaning stands below the values: a column of its own would be a word wide on narrow terminals."""
    return Text.assemble(option.takes, (f"\n{option.meaning}" if option.meaning else "", "dim"))
