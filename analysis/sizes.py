"""What "model size" means: which count of a model takes n_params' place in laws, and in which words a report says so.

Sections and laws speak of n_params alone. The column chosen trades places with it, so that nothing is lost and the way
back is the same.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.observations import NAMED, Exclusion
from analysis.tables.problems import InputError, unknown


@dataclass(frozen=True, kw_only=True)
class Size:
    column: str
    unit: str
    """What a number of it is a number of."""
    axis: str
    """Label of a figure's axis."""
    sentence: str = ""
    """What to know before reading; empty for the default."""

    def exchanged(self, rows: pd.DataFrame) -> pd.DataFrame:
        """With the column as n_params and n_params as the column; done twice, as before."""
        return rows.rename(columns={"n_params": self.column, self.column: "n_params"})


ENCODER = Size(column="n_params", unit="parameters", axis="encoder parameters")
SIZES = {
    size.column: size
    for size in (
        ENCODER,
        Size(
            column="n_params_total",
            unit="trainable parameters",
            axis="trainable parameters with decoder or heads",
            sentence="Model sizes are trainable parameters with decoder or heads (n_params_total).",
        ),
        Size(
            column="n_params_non_embedding",
            unit="parameters without embeddings",
            axis="encoder parameters without embeddings",
            sentence="Model sizes are the encoder's parameters without patch projection and class token "
            "(n_params_non_embedding).",
        ),
        Size(
            column="paper_axis",
            unit="parameters of the paper's MAE",
            axis="parameters of MAE with the paper's decoder",
            sentence="Model sizes are trainable parameters of MAE with the paper's decoder at 224/16 and 3 channels, "
            "whatever the algorithm (paper_axis). Its decoder is as large for every encoder, so exponents along this "
            "axis are larger than along the encoder's parameters.",
        ),
        Size(
            column="flops_per_image",
            unit="FLOPs per image",
            axis="training FLOPs per image",
            sentence="Model sizes are floating-point operations of training per image (flops_per_image).",
        ),
    )
}
"""Columns that can stand for a model's size, with the words for them."""


def size_named(column: str) -> Size:
    """Raises InputError for a column that is no size of a model."""
    if column not in SIZES:
        raise InputError(f"--size: {unknown('model size', column, SIZES)}")
    return SIZES[column]


def sized(rows: pd.DataFrame, size: Size) -> pd.DataFrame:
    """Checked rows with `size` as n_params. Raises InputError where a row that is fitted or held out has none."""
    if size == ENCODER:
        return rows
    wanted = rows["excluded"].isin([Exclusion.KEPT.value, Exclusion.HELD_OUT.value])
    given = rows[size.column]
    without = wanted & ~(np.isfinite(given) & (given > 0))
    if without.any():
        runs, n_runs = list(dict.fromkeys(map(str, rows.loc[without, "run"]))), rows.loc[wanted, "run"].nunique()
        named = ", ".join(runs[:NAMED])
        more = f" and {n} more" if (n := len(runs) - NAMED) > 0 else ""
        raise InputError(
            f"--size: {size.column} is missing or not above 0 in {len(runs)} of {n_runs} runs ({named}{more}); "
            "fill the column, leave these runs out, or take another size"
        )
    return size.exchanged(rows)
