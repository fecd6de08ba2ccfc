"""One law over the categories of a column, for `fit --across`: what is shared, the tests of it, and who beats whom."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np

from analysis.commands.documents import Document, number
from analysis.compare import Choice, duel, patterns, sharing
from analysis.laws.law import Law
from analysis.points import Points
from analysis.tables.problems import unknown

BEYOND = 10.0
"""Times the largest common size at which two categories are compared unless the user says where."""
MOST_TRIED = 5
"""Parameters of a law up to which every pattern of sharing is tried; fewer than 2^p."""


@dataclass(frozen=True, kw_only=True)
class Across:
    """What a user says of the categories."""

    column: str = ""
    shared: tuple[str, ...] = ()
    separate: tuple[str, ...] = ()
    """Of the law's parameters; neither: the data choose."""
    at: float | None = None
    """Size of the duels."""

    @property
    def problems(self) -> list[str]:
        """Whatever the table."""
        found = []
        if not self.column and (self.shared or self.separate or self.at is not None):
            found.append("--shared, --separate, --at: of which categories? name their column with --across")
        if self.shared and self.separate:
            found.append("--shared, --separate: one says the other; give one of them")
        if self.at is not None and not 0 < self.at < np.inf:
            found.append(f"--at: {self.at:g} is no size; a positive number")
        return found

    def problems_with(self, law: Law) -> list[str]:
        return [
            f"{option}: {unknown(f'parameter of the law {law.name}', name, law.names)}"
            for option, names in (("--shared", self.shared), ("--separate", self.separate))
            for name in names
            if name not in law.names
        ]

    def separated(self, base: Law, found: list[Choice]) -> tuple[str, ...]:
        """Parameters of each category its own: as asked, else as the best pattern has it; all where none was fitted."""
        if self.separate:
            return tuple(name for name in base.names if name in self.separate)
        if self.shared:
            return tuple(name for name in base.names if name not in self.shared)
        return found[0].separate if found else base.names


def tried(base: Law, names: tuple[str, ...], given: Points, ask: Across) -> list[Choice]:
    """The patterns of sharing, the best first; none where the user says which, or where there are too many."""
    if ask.shared or ask.separate or len(base.names) > MOST_TRIED or len(names) < 2:
        return []
    return patterns(base, names, given)


def document(
    base: Law, names: tuple[str, ...], given: Points, ask: Across, found: list[Choice], *, level: float
) -> Document:
    """Of one group of rows; `given.x` has the category last."""
    separate = ask.separated(base, found)
    tests = sharing(base, names, given) if len(names) > 1 else []
    duels, why = _duels(base, names, given, ask, level)
    return {
        "column": ask.column,
        "categories": list(names),
        "separate": list(separate),
        "shared": [name for name in base.names if name not in separate],
        "chosen_by": _chosen_by(base, names, ask, found),
        "patterns": [_pattern(base, one, found[0].aicc) for one in found],
        "sharing": [
            {
                "parameter": one.parameter,
                "f": number(one.f),
                "saved": one.saved,
                "free": one.free,
                "p": number(one.p),
                "q": number(one.q),
                "status": "not_tested" if np.isnan(one.p) else "approximate" if one.status else "tested",
                "reason": one.status,
            }
            for one in tests
        ],
        "duels": duels,
        "duels_reason": why,
    }


def _chosen_by(base: Law, names: tuple[str, ...], ask: Across, found: list[Choice]) -> str:
    if ask.shared or ask.separate:
        return "asked for"
    if len(names) < 2:
        return "one category alone shares nothing"
    if len(base.names) > MOST_TRIED:
        return (
            f"nothing is shared: {len(base.names)} parameters have too many patterns to try; say --shared or --separate"
        )
    if not found:
        return "no pattern could be fitted"
    if np.isnan(found[0].aicc):
        return "too few cells for AICc: the pattern of fewest parameters"
    return "the least AICc of squares of logarithms of cell means"


def doubts(ask: Across, found: list[Choice], base: Law) -> list[str]:
    """What intervals of a pattern that the data chose do not say (results/coverage.md)."""
    separate = ask.separated(base, found)
    shared = ", ".join(name for name in base.names if name not in separate)
    if not found or not shared or ask.shared or ask.separate:
        return []
    said = f"that {shared} are shared was chosen by AICc, and intervals do not contain this choice"
    close = "where parameters differ by about what the data can tell, they hold the truth too rarely"
    return [f"{said}: {close}; --separate {','.join(base.names)} gives each its own"]


def _pattern(base: Law, one: Choice, best: float) -> Document:
    return {
        "separate": list(one.separate),
        "shared": [name for name in base.names if name not in one.separate],
        "n_parameters": len(one.fit.law.parameters),
        "aicc": number(one.aicc),
        "above_best": number(one.aicc - best),
        "status": one.fit.status.key,
    }


def _duels(
    base: Law, names: tuple[str, ...], given: Points, ask: Across, level: float
) -> tuple[list[dict[str, Any]], str]:
    if len(base.inputs) > 1:
        return [], f"the law {base.name} has several inputs: duels are for series along one"
    series = [given.chosen(given.x[:, -1] == i + 1) for i in range(len(names))]
    found = []
    for (i, one), (j, other) in itertools.combinations(enumerate(series), 2):
        common = np.intersect1d(one.x[:, 0], other.x[:, 0])
        x = ask.at if ask.at is not None else BEYOND * float(common.max()) if len(common) else np.nan
        answer = duel(names[i], names[j], one, other, x, level=level)
        found.append(
            {
                "first": answer.first,
                "second": answer.second,
                "x": number(x),
                "times_largest_common": number(answer.times_beyond),
                "ratio": number(answer.ratio),
                "low": number(answer.low),
                "high": number(answer.high),
                "p_first": number(answer.p_first),
                "common_sizes": answer.n_sizes,
                "status": "not_answered" if np.isnan(answer.p_first) else "answered",
                "reason": answer.status,
            }
        )
    return found, ""
