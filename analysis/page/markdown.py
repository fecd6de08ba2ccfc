"""Blocks as Markdown, in which words of users stay words."""

from __future__ import annotations

import re
from collections.abc import Iterable

from analysis.page.blocks import SEVERITIES, Block, Fold, Line, Listing, Note, Numbers, Picture, Section, Words, cells

SPECIAL = re.compile(r"[\\`*~$|<]|(?<!\w)_|_(?!\w)|\](?=[(\[:])|&(?=#?\w+;)")
"""What CommonMark, or GitHub's dialect of it, would read as more than a character. Others stand as they are, so that
the text can be read as it is."""
OPENING = re.compile(r"^(?:\d+(?=[.)](?:\s|$))|(?=>|#{1,6}(?:\s|$)|[+-](?:\s|$)|[=-]+$))")
"""Before what makes a heading, a quotation or a list of a line: where a backslash goes."""


FEW = 6
"""Runs that a sentence names; more are counted, and named in its table."""


def escaped(text: str) -> str:
    """One line that shows `text` and nothing else."""
    line = SPECIAL.sub(r"\\\g<0>", " ".join(text.split()))
    return OPENING.sub(r"\g<0>\\", line)


def markdown(title: str, subtitle: str, notes: Iterable[str | Note], sections: list[Section]) -> str:
    parts = [f"# {escaped(title)}", escaped(subtitle), *(_note(note) for note in notes)]
    for section in sections:
        parts.append(f"## {escaped(section.title)}")
        parts += [_block(block) for block in section.blocks]
    return "\n\n".join(part for part in parts if part) + "\n"


def _note(note: str | Note) -> str:
    note = Note(text=note) if isinstance(note, str) else note
    return f"> **{SEVERITIES[note.severity]}:** {escaped(note.text)}"


def _block(block: Block) -> str:
    match block:
        case Words():
            lines = [_line(line) for line in block.lines]
            return "\n".join(f"- {line}" for line in lines) if block.bullets else "\n\n".join(lines)
        case Note():
            return _note(block)
        case Picture():
            caption = escaped(block.caption)
            return f"![{caption}](figures/{block.name}.png)\n\n*{caption}*"
        case Listing():
            fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", block.text)), default=0))
            return f"{fence}{block.language}\n{block.text.rstrip()}\n{fence}"
        case Numbers():
            return _table(block)
        case Fold():
            return "\n\n".join([f"**{escaped(block.title)}**", *(_block(inner) for inner in block.blocks)])


def _line(line: str | Line) -> str:
    if isinstance(line, str):
        return escaped(line)
    runs = f"runs {escaped(' '.join(line.runs))}" if len(line.runs) <= FEW else f"{len(line.runs)} runs"
    source = [*(escaped(name) for name in line.see), *([runs] if line.runs else [])]
    return f"{escaped(line.text)} ({'; '.join(source)})" if source else escaped(line.text)


def _table(block: Numbers) -> str:
    def row(texts: Iterable[str]) -> str:
        return f"| {' | '.join(texts)} |"

    heads, rows = cells(block)
    lines = [
        row(escaped(head.name) for head in heads),
        row("---:" if head.numeric else "---" for head in heads),
        *(row(escaped(cell.text) for cell in cells_of) for cells_of in rows[: block.most]),
    ]
    return "\n".join([f"*{escaped(block.caption + block.cut)}*", "", *lines])
