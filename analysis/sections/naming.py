"""A finished section in the words of the model size that was chosen: tables and sentences name its column."""

from __future__ import annotations

import re
from dataclasses import replace

import pandas as pd

from analysis.page.blocks import Block, Fold, Line, Note, Numbers, Picture, Section, Words
from analysis.sizes import ENCODER, Size

NAME = re.compile(r"\bn_params(?=$|_low\b|_high\b|\W)")
"""Not in names of files and tables, such as law_n_params, nor in other columns, such as n_params_total."""


def in_words_of(size: Size, section: Section) -> Section:
    return section if size == ENCODER else replace(section, blocks=[_block(size, block) for block in section.blocks])


def _block(size: Size, block: Block) -> Block:
    if isinstance(block, Fold):
        return replace(block, blocks=[_block(size, inner) for inner in block.blocks])
    if isinstance(block, Words):
        return replace(block, lines=[_line(size, line) for line in block.lines])
    if isinstance(block, Note):
        return replace(block, text=_text(size, block.text))
    if isinstance(block, Picture):
        return replace(block, caption=_text(size, block.caption))
    if isinstance(block, Numbers):
        return replace(block, caption=_text(size, block.caption), rows=_rows(size, block.rows))
    return block


def _line(size: Size, line: str | Line) -> str | Line:
    return _text(size, line) if isinstance(line, str) else replace(line, text=_text(size, line.text))


def _rows(size: Size, rows: pd.DataFrame) -> pd.DataFrame:
    named = rows.rename(columns=lambda column: _text(size, str(column)))
    texts = named.select_dtypes(include=["object", "string"]).columns
    return named.assign(
        **{c: named[c].map(lambda cell: _text(size, cell) if isinstance(cell, str) else cell) for c in texts}
    )


def _text(size: Size, text: str) -> str:
    return NAME.sub(size.column, text)
