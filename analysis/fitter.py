"""Which law a series of runs can tell, along which sizes, fitted when first wanted; or why it can tell none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from analysis.laws import ALIASES, LAWS
from analysis.laws.law import Law
from analysis.points import Points, points
from analysis.select import Candidate, Selection, select
from analysis.tables.problems import unknown

AUTO = "auto"
AXES = ("n_params", "n_images")
WORDS = {"n_params": "model size", "n_images": "data size", "train_flops": "compute"}
BOTH = ("chinchilla", "chinchilla_tied")
"""Laws of both sizes: the second ties the exponents and asks less of the design."""
SAME = 0.01
"""Relative difference below which two sizes are one."""


class Unknowable(Exception):
    """The data do not say; the message is the reason and the way out."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    axes: tuple[str, ...]
    """Inputs of the law, in its order."""
    rows: pd.DataFrame
    """Fitted."""
    selection: Selection
    """Of one law if it was asked for by name."""
    because: str
    """Of the axes."""

    @property
    def best(self) -> Candidate:
        """What the selection prefers; may be without a usable fit."""
        return self.selection.winner or self.selection.candidates[0]

    @property
    def why(self) -> str:
        """In words that a reader can check."""
        return f"{self.because}; {_preferred(self.selection)}"


def law_named(name: str) -> Law:
    """Raises ValueError for a name that is none, or a law that takes other inputs than sizes."""
    known = [AUTO, *(law.name for law in LAWS.values() if set(law.inputs) <= {"x", *AXES} and law.name != "sigmoid")]
    found = LAWS.get(ALIASES.get(name, name))
    if found is None or found.name not in known:
        raise ValueError(unknown("law", name, known))
    return found


def sizes_of(rows: pd.DataFrame, axis: str) -> list[float]:
    return sorted(map(float, rows[axis].dropna().unique()))


class Fitter:
    """Laws through the runs of a series, each fitted when first wanted and once."""

    def __init__(self, rows: pd.DataFrame, wanted: Law | None) -> None:
        self.rows, self.wanted = rows, wanted
        self.sizes = {axis: sizes_of(rows, axis) for axis in AXES}
        self.varied = [axis for axis in AXES if len(self.sizes[axis]) > 1]
        self.lines: dict[tuple[str, float | None], Choice] = {}

    def choose(self, at: dict[str, float], asked: dict[str, float | None]) -> Choice:
        """Raises Unknowable."""
        for axis in AXES:
            if asked[axis] is not None and not self.sizes[axis]:
                raise Unknowable(f"the table has no {axis}, so nothing is known along the {WORDS[axis]}")
        if not self.varied:
            raise Unknowable("all runs have the same sizes; run others to learn what size does")
        takes_both = self.wanted is not None and len(self.wanted.inputs) == 2
        if self.wanted is not None and takes_both and len(self.varied) < 2:
            fixed = next(axis for axis in AXES if axis not in self.varied)
            raise Unknowable(f"{self.wanted.name} needs model and data sizes that vary, and {self._fixed(fixed)}")
        if len(self.varied) == 2 and (self.wanted is None or takes_both):
            best, refusals = self.surface
            if best is not None:
                return best
            if takes_both:
                raise Unknowable(refusals[0])
            return self._along_one(at, list(refusals))
        return self._along_one(at, [])

    @cached_property
    def surface(self) -> tuple[Choice | None, list[str]]:
        """Laws of both sizes, None if none is usable; and what is wrong with those that are not."""
        laws = [self.wanted] if self.wanted else [LAWS[name] for name in BOTH]
        design = f"{len(self.sizes['n_params'])} model sizes x {len(self.sizes['n_images'])} data sizes"
        selection = select(_points(self.rows, AXES), laws)
        by_name = {c.law.name: c.fit for c in selection.candidates}
        reasons = {law.name: by_name[law.name].reason for law in laws if not by_name[law.name].status.usable}
        refusals = [f"{name}: {reason}" for name, reason in reasons.items()]
        if selection.winner is None:
            return None, refusals
        because = f"both sizes vary ({design})" + (f", not {refusals[0]}" if refusals else "")
        return Choice(axes=AXES, rows=self.rows, selection=selection, because=because), refusals

    def _along_one(self, at: dict[str, float], refusals: list[str]) -> Choice:
        """A law along one axis through the runs that have the other as asked."""
        both = len(self.varied) == 2
        for axis in self.varied:
            (other,) = (a for a in AXES if a != axis)
            there = self.sizes[other]
            near = [size for size in there if abs(np.log(at[other] / size)) < SAME]
            if there and not near:
                refusals.append(_never_run(other, at[other], there))
                continue
            mine = self.rows[self.rows[other] == near[0]] if near else self.rows
            if (n := len(sizes_of(mine, axis))) < 3:
                where = f" at {other} {near[0]:,.0f}" if near else ""
                refusals.append(f"{n} {WORDS[axis]}{'s' * (n != 1)}{where}: a law needs three")
                continue
            key = (axis, near[0] if near else None)
            if key not in self.lines:
                selection = select(_points(mine, (axis,)), [self.wanted] if self.wanted else None)
                fixed = f", {other} being {near[0]:,.0f}" if near else ""
                no_surface = f", no law of both sizes ({refusals[0]})" if both and refusals else ""
                because = f"the {WORDS[axis]} varies{fixed}{no_surface}"
                self.lines[key] = Choice(axes=(axis,), rows=mine, selection=selection, because=because)
            return self.lines[key]
        raise Unknowable("; ".join(dict.fromkeys(refusals)))

    def choices(self) -> list[Choice]:
        """Everything fitted so far."""
        both = [self.surface[0]] if "surface" in self.__dict__ and self.surface[0] is not None else []
        return [*both, *self.lines.values()]

    def _fixed(self, axis: str) -> str:
        sizes = self.sizes[axis]
        return f"all runs have {axis} {sizes[0]:,.0f}" if sizes else f"the table has no {axis}"


def _preferred(found: Selection) -> str:
    """How the law was chosen."""
    if len(found.candidates) == 1:
        return f"{found.candidates[0].law.name} was asked for"
    if found.winner is None:
        return found.reason
    if found.reason:
        return f"{found.winner.law.name}: {found.reason}"
    winner, *others = found.good
    rounds = f"{len(found.cuts)} round{'s' * (len(found.cuts) != 1)}"
    said = f"{winner.law.name} foretold the larger sizes best from the smaller (RMSLE {winner.score:.2g} in {rounds})"
    if others:
        names = ", ".join(f"{c.law.name} {c.score:.2g}" for c in others)
        said += f"; nearly as well, so counted too: {names}"
    return said


def _never_run(axis: str, asked: float, sizes: Sequence[float]) -> str:
    """Why another size than those in the data cannot be asked for."""
    if len(sizes) == 1:
        return (
            f"{axis} {asked:,.0f} was asked for and is {sizes[0]:,.0f} in all runs, so what it does is unknown; "
            f"ask for {sizes[0]:,.0f}, or run other {WORDS[axis]}s"
        )
    return f"no run has {axis} {asked:,.0f}; there are {', '.join(f'{size:,.0f}' for size in sizes)}"


def _points(rows: pd.DataFrame, axes: Sequence[str]) -> Points:
    """A point a run. Runs of one trunk share luck, and so do runs of equal sizes."""
    x = rows[list(axes)].to_numpy(float)
    cut = rows.groupby("trunk")["run"].transform("nunique").gt(1).any()
    trunks = pd.factorize(rows["trunk"])[0] if cut else None
    return points(x, rows["error"].to_numpy(float), clusters=trunks)
