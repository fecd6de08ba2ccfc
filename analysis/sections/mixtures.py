"""Which mixture of modalities each task would be served best by, where the mixtures run can tell."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.fit import Fit, fit
from analysis.laws.mixture import mixture, optimum
from analysis.page.blocks import Block, Numbers, Section, Words
from analysis.points import Matrix, cell_means, points
from analysis.study import Study
from analysis.uncertainty import Estimate, uncertainty


@dataclass(frozen=True, kw_only=True)
class Best:
    algorithm: str
    task: str
    """Empty: the mean over tasks."""
    modalities: tuple[str, ...]
    fit: Fit | None
    shares: dict[str, Estimate]
    """By modality; empty where `reason` says why."""
    gamma: Estimate | None
    """Below 1 a mixture beats its parts."""
    gain: Estimate | None
    """Error with the best mixture over that with the best one run, at the largest sizes."""
    reason: str


def shares(text: str) -> dict[str, float]:
    """`ct=0.25;mr=0.75` -> by modality; empty for an empty text. Raises ValueError for another form."""
    parts = [part.rsplit("=", 1) for part in text.split(";") if part.strip()]
    return {part[0].strip(): float(part[1]) for part in parts}


def best_mixtures(study: Study) -> list[Best]:
    """Per algorithm, for the mean over tasks and for every task."""
    mixed = study.fitted
    if not (mixed["shares"] != "").any():
        return []
    of_run = mixed.drop_duplicates("run").set_index("run")["shares"].map(shares)
    found = []
    for name, mine in study.means.groupby("algorithm"):
        found.append(_best(str(name), "", mine, of_run))
    for (of, task), mine in mixed.groupby(["algorithm", "task"]):
        found.append(_best(str(of), str(task), mine, of_run))
    return found


def _best(algorithm: str, task: str, rows: pd.DataFrame, of_run: pd.Series) -> Best:
    mine = rows[rows["run"].isin(of_run.index[of_run.map(bool)])]
    by_run = list(mine["run"].map(of_run))
    modalities = tuple(sorted({name for one in by_run for name, share in one.items() if share > 0}))
    fractions = np.array([[one.get(name, 0.0) for name in modalities] for one in by_run], dtype=float)

    def refused(reason: str) -> Best:
        return Best(
            algorithm=algorithm,
            task=task,
            modalities=modalities,
            fit=None,
            shares={},
            gamma=None,
            gain=None,
            reason=reason,
        )

    if len(modalities) < 2:
        return refused("the runs have one modality")
    x = np.column_stack([mine["n_params"].to_numpy(float), mine["n_images"].to_numpy(float), fractions])
    given = points(x, mine["error"].to_numpy(float))
    if not (given.y > 0).all():
        return refused("a run is without error, which has no logarithm")
    found = fit(mixture(modalities), cell_means(given))
    if not found.status.usable:
        return refused(found.reason)
    doubt = uncertainty(found)
    derived = {d.name: doubt.of(d.compute) for d in found.law.derived}
    return Best(
        algorithm=algorithm,
        task=task,
        modalities=modalities,
        fit=found,
        shares={name: derived[f"best_share_{name}"] for name in modalities},
        gamma=derived["gamma"],
        gain=doubt.of(lambda thetas: _gain(found, thetas)),
        reason=found.reason,
    )


def _gain(found: Fit, thetas: Matrix) -> Matrix:
    """(B,) error of the best mixture over that of the best one run, both by the law at the largest sizes."""
    x = found.points.x
    run = np.unique(x[:, 2:], axis=0)
    largest = np.tile(x[:, :2].max(axis=0), (len(run), 1))
    ran = found.law.evaluate(np.column_stack([largest, run]), thetas)[0].min(axis=1)
    best = np.array(
        [
            found.law.evaluate(np.array([[*largest[0], *at]]), theta[None])[0][0, 0]
            for at, theta in zip(optimum(thetas), thetas, strict=True)
        ]
    )
    return np.exp(best - ran)


def section(found: list[Best]) -> Section | None:
    """None where no run says what its mixture is made of."""
    if not found:
        return None
    title = "Best mixture"
    answered = [best for best in found if best.shares]
    blocks: list[Block] = []
    if not answered:
        why = sorted({f"{best.algorithm}: {best.reason}" for best in found})
        return Section(title=title, blocks=[Words(lines=["No series can tell which mixture is best:", *why])])
    caption = (
        "Shares of the modalities in the mixture that the mixture law predicts to be best, with 95 % intervals; gamma "
        "below 1: modalities complement each other. error_ratio: error of the best mixture over that of the best one "
        "run, at the largest sizes."
    )
    blocks.append(Numbers(name="mixtures", caption=caption, rows=table(found)))
    return Section(title=title, blocks=blocks)


def table(found: list[Best]) -> pd.DataFrame:
    rows = []
    for best in found:
        row: dict[str, object] = {"algorithm": best.algorithm, "task": best.task or "mean over tasks"}
        named = {f"share {name}": estimate for name, estimate in best.shares.items()}
        for name, estimate in {**named, "gamma": best.gamma, "error_ratio": best.gain}.items():
            if estimate is not None:
                row |= {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}
        rows.append(row | {"status": best.fit.status.key if best.fit else "refused", "reason": best.reason})
    table = pd.DataFrame(rows)
    last = ["status", "reason"]
    return table[[column for column in table if column not in last] + last]


def sentences(found: list[Best]) -> list[str]:
    """Of the mean over tasks."""
    said = []
    for best in found:
        if best.task or not best.shares or best.gain is None:
            continue
        parts = ", ".join(
            f"{name} {estimate.value:.0%} [{estimate.low:.0%}, {estimate.high:.0%}]"
            for name, estimate in best.shares.items()
        )
        said.append(
            f"{best.algorithm}: the mixture predicted to be best for the mean over tasks is {parts}, with "
            f"{best.gain.value:.2f} [{best.gain.low:.2f}, {best.gain.high:.2f}] of the error of the best one run."
        )
    return said
