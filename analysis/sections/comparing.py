"""Which algorithm, which mixture: what they share of one law, and who wins at ten times the largest run."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd

from analysis.compare import Duel, Sharing, duel, sharing
from analysis.laws import LAWS
from analysis.page.blocks import Block, Numbers, Section, Words
from analysis.points import Points, points
from analysis.study import Study

TIMES = 10.0
"""How far beyond the largest run the winner is asked for."""
SETS = {
    ("algorithm", "n_params"): ["mixture", "n_images"],
    ("algorithm", "n_images"): ["mixture", "model"],
    ("mixture", "n_params"): ["algorithm", "n_images"],
    ("mixture", "n_images"): ["algorithm", "model"],
}
"""(what is compared, axis) -> what is held."""
FEWEST = 3
"""Common sizes without which there is nothing to compare."""


@dataclass(frozen=True, kw_only=True)
class Contest:
    """Series that differ in one category and in the axis, all else held."""

    category: str
    """algorithm or mixture."""
    axis: str
    held: dict[str, str]
    names: tuple[str, ...]
    points: Points
    """x: axis, category counted from 1."""
    n_sizes: int
    """That all have."""
    duels: list[Duel]
    sharing: list[Sharing]

    @property
    def where(self) -> str:
        return ", ".join(f"{value} images" if name == "n_images" else value for name, value in self.held.items())


def contests(means: pd.DataFrame) -> list[Contest]:
    """Of each kind the one with the most common sizes, then the most series, then the largest held size.

    Results have no say in the choice.
    """
    found = []
    for (category, axis), held in SETS.items():
        ranked = sorted(_candidates(means, category, axis, held), key=lambda c: c[0])
        if ranked:
            _, names, values, mine, common = ranked[0]
            found.append(_contest(category, axis, dict(zip(held, values, strict=True)), names, mine, common))
    return found


Candidate = tuple[tuple[float, float, float], tuple[str, ...], tuple[object, ...], pd.DataFrame, list[float]]


def _candidates(means: pd.DataFrame, category: str, axis: str, held: list[str]) -> Iterator[Candidate]:
    placed = means[np.isfinite(means[axis]) & (means[axis] > 0) & (means["error"] > 0)]
    for values, mine in placed.groupby(held, dropna=False):
        names = tuple(sorted(map(str, mine[category].unique())))
        sizes = [set(mine.loc[mine[category] == name, axis]) for name in names]
        common = sorted(set.intersection(*sizes))
        if len(names) > 1 and len(common) >= FEWEST:
            size = float(mine["n_params" if axis == "n_images" else "n_images"].fillna(0).max())
            yield (-len(common), -len(names), -size), names, values, mine, common


def _contest(
    category: str, axis: str, held: dict[str, object], names: tuple[str, ...], mine: pd.DataFrame, common: list[float]
) -> Contest:
    mine = mine[mine[axis].isin(common)]
    group = mine[category].astype(str).map({name: i + 1.0 for i, name in enumerate(names)})
    given = points(np.column_stack([mine[axis].to_numpy(float), group]), mine["error"].to_numpy(float))
    series = {name: given.chosen(given.x[:, 1] == i + 1) for i, name in enumerate(names)}
    at = TIMES * max(common)
    return Contest(
        category=category,
        axis=axis,
        held={name: _text(value) for name, value in held.items() if value == value},
        names=names,
        points=given,
        n_sizes=len(common),
        duels=[duel(one, other, series[one], series[other], at) for one, other in itertools.combinations(names, 2)],
        sharing=sharing(LAWS["power"], names, given),
    )


def _text(value: object) -> str:
    return f"{value:,.0f}" if isinstance(value, float) else str(value)


def section(study: Study, found: list[Contest]) -> Section:
    title = "Which algorithm, which mixture"
    if not found:
        why = f"No two algorithms or mixtures have {FEWEST} sizes in common with all else held: nothing to compare."
        return Section(title=title, blocks=[Words(lines=[why])])
    duels = (
        f"Error of the first over error of the second at {TIMES:.0f} times the largest common size, with its 95 % "
        "interval; p_first is the probability that the first has the lower error there. Paired by size: the tasks and "
        "test images that both share cancel. It supposes that the ratio goes on as a power law."
    )
    shared = (
        "May all share one parameter of error = a x^-b? F test against one for each: of the exponent with a "
        "of each its own, of a with one exponent for all; p is exact for this law, q is p after Holm. A small q says "
        "that the categories differ in it; a large one that the data do not show a difference."
    )
    blocks: list[Block] = [
        *([Words(lines=lines)] if (lines := list(_without(study, found))) else []),
        Numbers(name="duels", caption=duels, rows=duel_table(found)),
        Numbers(name="shared_parameters", caption=shared, rows=sharing_table(found)),
    ]
    return Section(title=title, blocks=blocks)


def _without(study: Study, found: list[Contest]) -> Iterator[str]:
    """Why there is no comparison along a size that algorithms or mixtures do not share, such as all that they train."""
    there = {(contest.category, contest.axis) for contest in found}
    for category in ("algorithm", "mixture"):
        if (category, "n_params") not in there and study.means[category].nunique() > 1:
            yield f"No {category}s are compared along model size: none share {FEWEST} sizes with all else held."


def duel_table(found: list[Contest]) -> pd.DataFrame:
    rows = [
        {"axis": contest.axis, "held": contest.where, **asdict(duel)} for contest in found for duel in contest.duels
    ]
    table = pd.DataFrame(rows).rename(columns={"x": "at", "low": "ratio_low", "high": "ratio_high"})
    return table[
        ["axis", "held", "first", "second", "at", "ratio", "ratio_low", "ratio_high", "p_first", "n_sizes", "status"]
    ]


def sharing_table(found: list[Contest]) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {
                "compared": contest.category,
                "axis": contest.axis,
                "held": contest.where,
                "categories": ", ".join(contest.names),
                **asdict(test),
            }
            for contest in found
            for test in contest.sharing
        ]
    )


def sentences(found: list[Contest], category: str, unit: str = "parameters") -> list[str]:
    """Who of a category wins, and whether exponents differ; `unit` of model sizes."""
    said = []
    for contest in found:
        if contest.category != category:
            continue
        axis = {"n_params": unit, "n_images": "images"}[contest.axis]
        for one in contest.duels:
            if one.status:
                continue
            first, p = (one.first, one.p_first) if one.p_first >= 0.5 else (one.second, 1 - one.p_first)
            second = one.second if first == one.first else one.first
            ratio, low, high = one.ratio, one.low, one.high
            if first != one.first:
                ratio, low, high = 1 / ratio, 1 / high, 1 / low
            sure = f"{p:.0%}" if p < 0.995 else "over 99 %"
            said.append(
                f"At {TIMES:.0f} times the most {axis} ({contest.where}) {first} has a lower error than {second} with "
                f"a probability of {sure}: {ratio:.2f} [{low:.2f}, {high:.2f}] of it, if the ratio goes on as a power "
                "law."
            )
        exponent = next((test for test in contest.sharing if test.parameter == "b" and np.isfinite(test.q)), None)
        if exponent is not None and len(contest.names) > 1:
            differ = "differ" if exponent.q < 0.05 else "are not shown to differ"
            said.append(
                f"Exponents along {axis} of {', '.join(contest.names)} {differ} (F test, q = {exponent.q:.2g})."
            )
    return said
