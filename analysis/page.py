"""A report as blocks - words, tables, figures - and how blocks become one HTML file or Markdown."""

from __future__ import annotations

import base64
import math
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path

import jinja2
import pandas as pd


@dataclass(frozen=True, kw_only=True)
class Words:
    lines: list[str]
    bullets: bool = False


@dataclass(frozen=True, kw_only=True)
class Numbers:
    """A table, shown with three digits; the CSV beside the report has them all."""

    name: str
    caption: str
    rows: pd.DataFrame
    most: int = 60
    """Rows shown; the CSV has all."""

    @property
    def cut(self) -> str:
        """What the caption adds when not all rows are shown."""
        n = len(self.rows)
        return f" The first {self.most} of {n} rows; all are in {self.name}.csv." if n > self.most else ""


@dataclass(frozen=True, kw_only=True)
class Picture:
    name: str
    """File name under figures/, without ending; a PNG of it lies there."""
    caption: str
    path: Path
    """SVG or PNG to embed."""


@dataclass(frozen=True, kw_only=True)
class Listing:
    """Text shown as it is."""

    text: str


Block = Words | Numbers | Picture | Listing


@dataclass(frozen=True, kw_only=True)
class Section:
    title: str
    blocks: list[Block] = field(default_factory=list)

    @property
    def anchor(self) -> str:
        return "".join(c if c.isalnum() else "-" for c in self.title.lower())


def shown(value: object) -> str:
    """A cell for people: three significant digits, thousands separated, nothing for a missing number."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, float):
        if value.is_integer() and abs(value) < 1e10:
            return f"{int(value):,}"
        return f"{value:,.0f}" if 1e4 <= abs(value) < 1e7 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def embedded(path: Path) -> str:
    """A data URI, so that the page needs no other file."""
    kind = "svg+xml" if path.suffix == ".svg" else "png"
    return f"data:image/{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"


def html(title: str, subtitle: str, notes: list[str], sections: list[Section]) -> str:
    """One self-contained page; everything that came from users is escaped."""
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    environment.filters |= {"shown": shown, "embedded": embedded, "kind": lambda block: type(block).__name__}
    template = environment.from_string(files("analysis").joinpath("page.html").read_text(encoding="utf-8"))
    return template.render(title=title, subtitle=subtitle, notes=notes, sections=sections)


def markdown(title: str, subtitle: str, notes: list[str], sections: list[Section]) -> str:
    parts = [f"# {title}", subtitle, *(f"> {note}" for note in notes)]
    for section in sections:
        parts.append(f"## {section.title}")
        parts += [_markdown(block) for block in section.blocks]
    return "\n\n".join(part for part in parts if part) + "\n"


def _markdown(block: Block) -> str:
    match block:
        case Words():
            return "\n".join(f"- {line}" for line in block.lines) if block.bullets else "\n\n".join(block.lines)
        case Picture():
            return f"![{block.caption}](figures/{block.name}.png)\n\n*{block.caption}*"
        case Listing():
            return f"```yaml\n{block.text.rstrip()}\n```"
        case Numbers():
            return _markdown_table(block)


def _markdown_table(block: Numbers) -> str:
    def row(cells: list[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"

    head = [row([str(c) for c in block.rows.columns]), row(["---"] * len(block.rows.columns))]
    body = [row([shown(cell) for cell in cells]) for cells in block.rows.head(block.most).itertuples(index=False)]
    return "\n".join([f"*{block.caption}{block.cut}*", "", *head, *body])
