"""How a budget is best split between model and data, by three approaches, for each algorithm and mixture."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.figures import frontier as figure
from analysis.figures import isoflop as isoflop_figure
from analysis.figures import surface as surface_figure
from analysis.optima.allocation import Frontier
from analysis.optima.frontier import frontier
from analysis.page.blocks import Block, Fold, Note, Numbers, Picture, Section, Words
from analysis.points import Vector
from analysis.sections.drawing import Pen
from analysis.study import Study
from analysis.uncertainty import Estimate

TIMES = (1.0, 10.0)
"""Budgets asked about, in FLOPs of the costliest run."""
DRAWN = 8
"""Budgets of a figure, from the cheapest run's to ten times the costliest's."""
MOST_DRAWN = 4
"""Series with figures; tables have all."""


@dataclass(frozen=True, kw_only=True)
class Split:
    algorithm: str
    mixture: str
    runs: pd.DataFrame
    """Columns n_params, n_images (seen), flops, y."""
    answer: Frontier | None
    reason: str
    """Why there is none."""


def splits(study: Study) -> list[Split]:
    """D is the images seen, as FLOPs grow with them; where all runs see each image as often, that is data size too."""
    seen = study.fitted.drop_duplicates("run").set_index("run")["images_seen"]
    means = study.means.assign(images_seen=study.means["run"].map(seen))
    found = []
    for (algorithm, mixture), mine in means.groupby(["algorithm", "mixture"]):
        usable = mine[["n_params", "images_seen", "train_flops", "error"]].gt(0).all(axis=1)
        rows, why = mine[usable], ""
        if len(rows) < 4:
            why = f"{len(rows)} runs have a size, images seen, FLOPs and an error above 0"
        elif rows["images_seen"].nunique() == 1:
            why = "every run saw the same number of images, so a budget has one model size alone"
        answer = None
        if not why:
            flops = rows["train_flops"].to_numpy(float)
            answer = frontier(
                rows["n_params"].to_numpy(float),
                rows["images_seen"].to_numpy(float),
                rows["error"].to_numpy(float),
                flops=flops,
                budgets=_budgets(flops),
                n_bootstrap=500,
            )
        runs = rows.rename(columns={"train_flops": "flops", "error": "y"}).drop(columns="n_images")
        runs = runs.rename(columns={"images_seen": "n_images"})[["n_params", "n_images", "flops", "y"]]
        found.append(Split(algorithm=str(algorithm), mixture=str(mixture), runs=runs, answer=answer, reason=why))
    return found


def _budgets(flops: Vector) -> list[float]:
    """Those of the table, then those of the figure."""
    asked = [times * float(flops.max()) for times in TIMES]
    return [*asked, *np.geomspace(flops.min(), asked[-1], DRAWN)[:-1]]


def section(found: list[Split], pen: Pen, label: str, unit: str = "parameters") -> Section:
    """`label` of errors, `unit` of model sizes."""
    title = "Best use of a budget"
    table, doubts = optimum_table(found), warnings(found)
    caption = (
        "N_opt ~ C^a and D_opt ~ C^b by three approaches (Hoffmann et al. 2022): 1 the runs that no cheaper one "
        "equals, 2 the minimum of each budget's runs, 3 a law of N and D. D counts images seen. Where they disagree, "
        "the data do not settle it."
    )
    blocks: list[Block] = [Note(text=text, severity="warning") for text in doubts]
    if len(table):
        blocks.append(Numbers(name="frontier", caption=caption, rows=table))
        answered = [split for split in found if split.answer and any(a.answered for a in split.answer.approaches)]
        for split in answered[:MOST_DRAWN]:
            blocks.append(
                Fold(
                    title=f"Figures of {split.algorithm} / {split.mixture}",
                    blocks=list(_figures(split, pen, label, unit)),
                )
            )
    else:
        why = sorted({f"{s.algorithm} / {s.mixture}: {s.reason}" for s in found if s.reason})
        blocks.append(Words(lines=["No series can tell how to split a budget:", *why]))
    return Section(title=title, blocks=blocks)


def _figures(split: Split, pen: Pen, label: str, unit: str) -> Iterator[Picture]:
    assert split.answer is not None
    name = f"{split.algorithm}_{split.mixture}"
    rows = figure.table(split.answer)
    if rows["flops"].notna().any():
        caption = (
            f"{split.algorithm} / {split.mixture}: optimal model and data size against compute, and the exponents."
        )
        drawn = figure.draw(rows, split.runs, figure.exponents(split.answer), unit=unit)
        yield pen.picture(f"frontier_{name}", caption, drawn)
    parabola = split.answer["parabola"]
    if parabola.minima:
        caption = f"{split.algorithm} / {split.mixture}: error against model size at equal compute, with parabolas."
        drawn = isoflop_figure.draw(
            parabola.minima,
            split.runs["n_params"].to_numpy(float),
            split.runs["y"].to_numpy(float),
            ylabel=label,
            unit=unit,
        )
        yield pen.picture(f"isoflop_{name}", caption, drawn)
    law = split.answer.approaches[-1]
    if law.answered and law.fit is not None:
        caption = (
            f"{split.algorithm} / {split.mixture}: the fitted law of model size and images seen, its runs and frontier."
        )
        path = rows[rows["approach"] == figure.label(law.name, law.number)].sort_values("flops")
        drawn = surface_figure.draw(law.fit, surface_figure.table(split.runs, law.fit), path, label=label, unit=unit)
        yield pen.picture(f"surface_{name}", caption, drawn)


def optimum_table(found: list[Split]) -> pd.DataFrame:
    """One row per series, approach and budget; those without an answer say why."""
    rows = []
    for split in found:
        for approach in split.answer.approaches if split.answer else ():
            common = {
                "algorithm": split.algorithm,
                "mixture": split.mixture,
                "approach": f"{approach.number} {approach.name}",
                "status": approach.status.key,
                "reason": approach.reason,
                **_columns("a", approach.a),
            }
            for optimum in approach.optima[: len(TIMES)] or (None,):
                rows.append(
                    common
                    if optimum is None
                    else common
                    | {"flops": optimum.budget, "times_beyond": optimum.beyond}
                    | _columns("n_params", optimum.n_params)
                    | _columns("images_seen", optimum.n_images)
                )
    order = ["algorithm", "mixture", "approach", "flops", "times_beyond"]
    ends = [f"{name}{end}" for name in ("n_params", "images_seen", "a") for end in ("", "_low", "_high")]
    table = pd.DataFrame(rows)
    return table.reindex(columns=[*order, *ends, "status", "reason"]) if rows else table


def _columns(name: str, estimate: Estimate | None) -> dict[str, float]:
    if estimate is None:
        return {}
    return {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}


def warnings(found: list[Split]) -> list[str]:
    """Each once, however many series have it: how FLOPs follow from sizes, then each approach's own."""
    said = [warning for split in found if split.answer for warning in split.answer.warnings]
    said += [
        f"{approach.number} {approach.name}: {warning}"
        for split in found
        if split.answer
        for approach in split.answer.approaches
        if approach.answered
        for warning in approach.warnings
    ]
    return list(dict.fromkeys(said))


def sentences(found: list[Split], unit: str = "parameters") -> list[str]:
    said = []
    for split in found:
        if split.answer is None:
            continue
        answered = [approach for approach in split.answer.approaches if approach.answered and approach.optima]
        if not answered:
            continue
        far = [(a, a.optima[len(TIMES) - 1].n_params) for a in answered]
        parts = [
            f"{size.value:.2g} [{size.low:.2g}, {size.high:.2g}] by approach {a.number} ({a.name})"
            for a, size in far
            if np.isfinite(size.value)
        ]
        if parts:
            said.append(
                f"{split.algorithm} / {split.mixture}: the best model for {TIMES[-1]:.0f} times the costliest run's "
                f"FLOPs has {'; '.join(parts)} {unit}."
            )
    return said
