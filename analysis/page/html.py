"""Blocks as one HTML file that needs no other and asks nobody for anything.

Its policy (CSP) lets a browser run the one script and the one style sheet of `page.js` and `page.css`, and load
nothing; words of users are escaped by the template.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable
from importlib.resources import files
from pathlib import Path

import jinja2
from markupsafe import Markup

from analysis.page.blocks import (
    SEVERITIES,
    Block,
    Cell,
    Fold,
    Head,
    Line,
    Listing,
    Note,
    Numbers,
    Picture,
    Section,
    Severity,
    Words,
    cells,
    every,
    shown,
    slug,
)
from analysis.page.inline import has_hover_values, inlined, width
from analysis.page.markdown import markdown

MOST_ROWS = 1000
"""Of a table in the page; more make a browser slow."""
LONG = 40
"""Characters of a cell above which it wraps."""
SMALLEST = 0.72
"""A figure is made no narrower than this part of its own width (its letters would be too small to read); on a phone it
is moved sideways in its frame."""


def html(
    title: str,
    subtitle: str,
    notes: Iterable[str | Note],
    sections: list[Section],
    *,
    downloads: tuple[str, ...] = ("csv",),
) -> str:
    """One self-contained page. `downloads`: endings of the files (csv, tex) that lie beside it for each table."""
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    style, script = _source("page.css"), _source("page.js")
    targets = _targets(sections)
    return environment.from_string(_source("page.html")).render(
        title=title,
        subtitle=subtitle,
        notes=[Note(text=note) if isinstance(note, str) else note for note in notes],
        sections=list(zip(_anchors(sections), sections, strict=True)),
        anchors=targets,
        seen=_seen(targets),
        downloads=downloads,
        style=Markup(style),
        script=Markup(script),
        policy=_policy(style, script),
        kind=kind,
        severities=SEVERITIES,
        cells=cells,
        drawing=_drawing,
        most_rows=MOST_ROWS,
        long=LONG,
    )


def kind(block: Block) -> str:
    return type(block).__name__


def _source(name: str) -> str:
    return files("analysis.page").joinpath(name).read_text(encoding="utf-8")


def _policy(style: str, script: str) -> str:
    """Figures and cells may carry style attributes; no element but ours may style or run."""
    css, js = (base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (style, script))
    return (
        f"default-src 'none'; img-src data:; script-src 'sha256-{js}'; style-src 'unsafe-inline'; "
        f"style-src-elem 'sha256-{css}'; style-src-attr 'unsafe-inline'; base-uri 'none'; form-action 'none'"
    )


def _anchors(sections: list[Section]) -> list[str]:
    """Distinct, however alike the titles."""
    return [f"section-{i}-{slug(section.title)}" for i, section in enumerate(sections)]


def _targets(sections: list[Section]) -> dict[tuple[str, str], str]:
    """(kind of block, name) -> its address in the page, for tables and pictures; both may have one name."""
    named = [block for section in sections for block in every(section.blocks) if isinstance(block, Numbers | Picture)]
    return {(kind(block), block.name): f"{kind(block).lower()}-{i}-{slug(block.name)}" for i, block in enumerate(named)}


def _seen(targets: dict[tuple[str, str], str]) -> dict[str, str]:
    """Name -> address, of the table where a picture has the same name."""
    return {name: address for (kind, name), address in sorted(targets.items(), reverse=True)}


def _drawing(picture: Picture, anchor: str) -> Markup:
    """The figure itself, as an image or, with hover values, as a part of the page."""
    natural = width(picture.path)
    fit = f' style="min-width: {natural * SMALLEST:.0f}px; max-width: {natural * 1.3:.0f}px"' if natural else ""
    if has_hover_values(picture.path):
        svg = inlined(picture.path, anchor, picture.caption)
        return Markup(svg.replace("<svg", f"<svg{fit}", 1))
    return Markup('<img src="{}" alt="{}"{}>').format(embedded(picture.path), picture.caption, Markup(fit))


def embedded(path: Path) -> str:
    """A data URI, so that the page needs no other file."""
    kind = "svg+xml" if path.suffix == ".svg" else "png"
    return f"data:image/{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"


__all__ = [
    "Block",
    "Cell",
    "Fold",
    "Head",
    "Line",
    "Listing",
    "Note",
    "Numbers",
    "Picture",
    "Section",
    "Severity",
    "Words",
    "embedded",
    "html",
    "markdown",
    "shown",
]
