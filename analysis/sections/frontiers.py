"""How a budget is best split between model and data, by three approaches, for each algorithm and mixture."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.allocation import Frontier
from analysis.blocks import Block, Note, Numbers, Section, Words
from analysis.frontier import frontier
from analysis.study import Study
from analysis.uncertainty import Estimate

TIMES = (1.0, 10.0)
"""Budgets asked about, in FLOPs of the costliest run."""


@dataclass(frozen=True, kw_only=True)
class Split:
    algorithm: str
    mixture: str
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
                budgets=[times * float(flops.max()) for times in TIMES],
                n_bootstrap=500,
            )
        found.append(Split(algorithm=str(algorithm), mixture=str(mixture), answer=answer, reason=why))
    return found


def section(found: list[Split]) -> Section:
    title = "Best use of a budget"
    table, warnings = optimum_table(found), _warnings(found)
    caption = (
        "N_opt ~ C^a and D_opt ~ C^b by three approaches (Hoffmann et al. 2022): 1 the runs that no cheaper one "
        "equals, 2 the minimum of each budget's runs, 3 a law of N and D. D counts images seen. Where they disagree, "
        "the data do not settle it."
    )
    blocks: list[Block] = [Note(text=text, severity="warning") for text in warnings]
    if len(table):
        blocks.append(Numbers(name="frontier", caption=caption, rows=table))
    else:
        why = sorted({f"{s.algorithm} / {s.mixture}: {s.reason}" for s in found if s.reason})
        blocks.append(Words(lines=["No series can tell how to split a budget:", *why]))
    return Section(title=title, blocks=blocks)


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
            for optimum in approach.optima or (None,):
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


def _warnings(found: list[Split]) -> list[str]:
    """Each once, however many series have it."""
    said = [
        f"{approach.number} {approach.name}: {warning}"
        for split in found
        if split.answer
        for approach in split.answer.approaches
        if approach.answered
        for warning in approach.warnings
    ]
    return list(dict.fromkeys(said))


def sentences(found: list[Split]) -> list[str]:
    said = []
    for split in found:
        if split.answer is None:
            continue
        answered = [approach for approach in split.answer.approaches if approach.answered and approach.optima]
        if not answered:
            continue
        parts = [
            f"{a.optima[-1].n_params.value:.2g} [{a.optima[-1].n_params.low:.2g}, {a.optima[-1].n_params.high:.2g}] by "
            f"approach {a.number} ({a.name})"
            for a in answered
            if np.isfinite(a.optima[-1].n_params.value)
        ]
        if parts:
            said.append(
                f"{split.algorithm} / {split.mixture}: the best model for {TIMES[-1]:.0f} times the costliest run's "
                f"FLOPs has {'; '.join(parts)} parameters."
            )
    return said
