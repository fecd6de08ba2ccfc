"""In what the runs of a curve differ beside its axis - drop path, prototypes, learning rate: its law mixes both."""

from __future__ import annotations

import pandas as pd

from analysis.figures.error import Curve

AXES = {"n_params": "model size", "n_images": "data size"}
"""Curves along compute are those along model size."""
SAME = 1e-6
"""Relative difference below which two learning rates are one."""


def differing(rows: pd.DataFrame, curve: Curve) -> list[str]:
    """Names of settings that the curve's fitted runs do not share, from `settings`, `recipe` and `peak_lr` of `rows`.

    A setting that some runs do not name differs from those that do. The learning rate is counted once.
    """
    of_run = rows.drop_duplicates("run").set_index("run")
    mine = of_run.loc[curve.runs.loc[~curve.runs["held_out"], "run"].unique()]
    given = [_named(text) for text in mine["settings"]]
    names = {name for one in given for name in one if len({other.get(name) for other in given}) > 1}
    if mine["recipe"].nunique() > 1:
        names.add("recipe")
    rates = mine["peak_lr"].dropna()
    if not any(name.startswith("lr.") for name in names) and rates.max() > (1 + SAME) * rates.min():
        names.add("peak_lr")
    return sorted(names)


def _named(text: str) -> dict[str, str]:
    """`drop_path=0.1;prototypes=64` by name."""
    pairs = (part.partition("=") for part in text.split(";") if part.strip())
    return {name.strip(): value.strip() for name, _, value in pairs}


def sentences(rows: pd.DataFrame, along: dict[str, list[Curve]]) -> list[str]:
    """One per axis and algorithm with such curves; `rows` fitted, curves by axis."""
    said = []
    for axis, words in AXES.items():
        found: dict[str, set[str]] = {}
        for curve in along[axis]:
            if names := differing(rows, curve):
                found.setdefault(curve.fixed["algorithm"], set()).update(names)
        for algorithm, mixed in sorted(found.items()):
            differ, their = ("differs", "its") if len(mixed) == 1 else ("differ", "their")
            said.append(
                f"Along {words} {_listed(sorted(mixed))} {differ} too ({algorithm}): the law mixes {their} effect with "
                f"that of {words}."
            )
    return said


def _listed(names: list[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
