"""Cells of anybody's table as numbers: what is missing, and what is no number at all."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
from numpy.typing import NDArray

MISSING = frozenset({"", "na", "n/a", "nan", "null", "none", "-", "<na>", "."})
"""In lower case; what people and programs write where there is no number."""
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?|[+-]?inf(inity)?", re.IGNORECASE)


def as_number(text: str) -> float | None:
    """None where it is none. Python's own `1_000` and `nan` are no numbers here."""
    return float(text) if NUMBER.fullmatch(text.strip()) else None


def numbers(cells: pd.Series) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """(n,) numbers, NaN where missing or none, and which cells hold something that is no number. True is 1."""
    if pd.api.types.is_numeric_dtype(cells.dtype) or pd.api.types.is_bool_dtype(cells.dtype):
        return cells.to_numpy(np.float64, na_value=np.nan), np.zeros(len(cells), bool)
    found = np.full(len(cells), np.nan)
    strange = np.zeros(len(cells), bool)
    for i, cell in enumerate(cells):
        if isinstance(cell, str):
            number = as_number(cell)
            strange[i] = number is None and cell.strip().lower() not in MISSING
        elif cell is None or cell is pd.NA or (isinstance(cell, float) and np.isnan(cell)):
            continue
        else:
            try:
                number = float(cell)  # Decimal and the numbers of NumPy inside a column of objects
            except (TypeError, ValueError):
                strange[i], number = True, None
        if number is not None:
            found[i] = number
    return found, strange
