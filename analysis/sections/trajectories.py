"""How runs came to their end points: who was still rising, and whether the order of algorithms had settled."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from analysis.figures import trajectories as figure
from analysis.page.blocks import Block, Fold, Numbers, Section, Words
from analysis.sections.drawing import Pen
from analysis.trajectories import FALLING, FLAT, RISING, Trajectories, ends, order, pairs, paths, trajectories
from scaling.records import TRAJECTORY_COLUMNS

NAMED = 3
"""Series or places that a sentence names."""
SCHEDULE = (
    "Learning rates fall towards the end of a run, which flattens any path: flat means that this schedule is used up, "
    "not that a longer run would gain nothing, and half a run is not a run of half the budget."
)
READ_OUT = (
    "The online read-out is given a share of a run's compute, so that runs of cheaper algorithms or smaller models may "
    "be read out on fewer images: changes along a run compare well, levels of different runs less so."
)


@dataclass(frozen=True, kw_only=True)
class Judged:
    """Trajectories with what is said of them."""

    found: Trajectories
    ends: pd.DataFrame
    pairs: pd.DataFrame
    order: pd.DataFrame


def judged(table: pd.DataFrame | None) -> Judged | None:
    """None where no run came to its end with anything seen along it. Raises InputError for no table of trajectories."""
    if table is None or table.empty:
        return None
    found = trajectories(table)
    if found.aucs.empty and found.losses.empty:
        return None
    of = paths(found)
    return Judged(found=found, ends=ends(of), pairs=pairs(of), order=order(of))


def sentences(of: Judged | None) -> list[str]:
    """For the opening: only where something still rises."""
    if of is None or of.ends.empty:
        return []
    rising = of.ends[of.ends["verdict"] == RISING].sort_values("last_quarter", ascending=False)
    if rising.empty:
        return []
    gained = [
        f"{row['algorithm']} {_place(row, of.ends)} {row['last_quarter']:.3f}" for row in rising.to_dict("records")
    ]
    told = int(of.ends["last_quarter_low"].notna().sum())
    still = (
        f"{len(rising)} of {told} series still gained online AUC in the last quarter of their budget ({_few(gained)}): "
        f"{_understated(len(rising))}. Chance alone calls {0.025 * told:.2g} rising."
    )
    return [still]


def _understated(n: int) -> str:
    return "its end point understates it" if n == 1 else "their end points understate them"


def _few(names: list[str]) -> str:
    """The first `NAMED` of them, and how many more there are."""
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


def section(of: Judged, pen: Pen) -> Section:
    blocks: list[Block] = []
    if of.found.aucs.empty:
        why = (
            "No online read-out was made: by itself it is left out of runs too short to pay for it. Name tasks in "
            "pretrain.online_probe to have it whatever it costs."
        )
        blocks.append(Words(lines=[why]))
    else:
        blocks += _read_outs(of, pen)
    if len(losses := figure.table(of.found, "loss")):
        caption = "Pretraining loss of the same runs, each algorithm's own; compare sizes, not algorithms."
        blocks.append(pen.picture("trajectories_loss", caption, figure.draw(losses, ylabel="pretraining loss")))
    if of.found.left_out:
        left = "; ".join(f"{n} {'run' if n == 1 else 'runs'} {why}" for why, n in of.found.left_out.items())
        blocks.append(Words(lines=[f"Not shown: {left}."]))
    return Section(title="Along training", blocks=blocks)


def _read_outs(of: Judged, pen: Pen) -> list[Block]:
    tasks = of.found.tasks
    over = f"mean over {', '.join(tasks)}" if len(tasks) > 1 else tasks[0]
    picture = (
        f"Validation error of the online read-out along training, 1 - AUC, {over}; of each algorithm the largest set "
        "of images. A marker is the end of the run; with several seeds thin lines are seeds and the thick one is their "
        f"mean. {READ_OUT}"
    )
    ylabel = "online error, 1 - AUC" + (", mean over tasks" if len(tasks) > 1 else "")
    caption = (
        "Online AUC at 25, 50, 75 and 100 % of each series' budget, mean over seeds and tasks. last_quarter: AUC "
        "gained over the last quarter, by the line through its read-outs, with a 95 % interval (Student's t; scatter "
        "over seeds and tasks in all series of the algorithm, or of read-outs about their lines where these are few). "
        f"Flat: the interval lies within {FLAT:g} of 0. {SCHEDULE}"
    )
    shown = of.ends.dropna(axis="columns", how="all")
    blocks: list[Block] = [
        Words(lines=[*_verdicts(of.ends), *_orders(of)], bullets=True),
        pen.picture("trajectories", picture, figure.draw(figure.table(of.found, "error"), ylabel=ylabel)),
        Numbers(name="trajectory_ends", caption=caption, rows=shown, most=40, meanings=dict(TRAJECTORY_COLUMNS)),
    ]
    if len(of.pairs):
        told = (
            "Two algorithms at the same model, mixture and images: by how much AUC the one ahead at the end was ahead "
            "at half the budget and is at the end, over the seeds and tasks of both, with 95 % intervals. changed: "
            "sure where the other one was ahead at half and both leads are beyond their interval."
        )
        numbers = Numbers(name="trajectory_pairs", caption=told, rows=of.pairs)
        blocks.append(Fold(title="Order of algorithms, place by place", blocks=[numbers]))
    return blocks


def _verdicts(rows: pd.DataFrame) -> list[str]:
    """A sentence an algorithm."""
    said = []
    for algorithm, mine in rows.groupby("algorithm"):
        parts = []
        for kind, did in ((RISING, "gained"), (FALLING, "lost")):
            these = mine[mine["verdict"] == kind].sort_values("last_quarter", ascending=kind == FALLING)
            if n := len(these):
                amounts = zip(these.to_dict("records"), these["last_quarter"].abs(), strict=True)
                named = _few([f"{_place(row, rows)} {did} {amount:.3f}" for row, amount in amounts])
                before = "it was better before its end" if n == 1 else "they were better before their ends"
                so = _understated(n) if kind == RISING else before
                parts.append(f"{n} of {len(mine)} series {kind} ({named} in the last quarter; {so})")
        others = mine.loc[~mine["verdict"].isin([RISING, FALLING]), "verdict"].value_counts()
        parts += [f"{n} of {len(mine)} series {verdict}" for verdict, n in others.items()]
        said.append(f"{algorithm}: {'; '.join(parts)}.")
    return said


def _place(row: Mapping[Hashable, Any], among: pd.DataFrame) -> str:
    """The model, and what else tells it from the others."""
    more = [str(row["mixture"])] if among["mixture"].nunique() > 1 else []
    more += [f"{row['n_images']:,.0f} images"] if among["n_images"].nunique() > 1 else []
    return f"{row['model']}" + (f" ({', '.join(more)})" if more else "")


def _orders(of: Judged) -> list[str]:
    """Whether half the budget would have ranked algorithms otherwise."""
    if of.order.empty:
        return []
    half = of.order.sort_values("half", ascending=False, kind="stable")
    at_half, at_end = (
        ", ".join(f"{row['algorithm']} {row[moment]:.3f}" for row in rows.to_dict("records"))
        for rows, moment in ((half, "half"), (of.order, "end"))
    )
    same = list(half["algorithm"]) == list(of.order["algorithm"])
    places = int(of.order["places"].iloc[0])
    where = "the one place" if places == 1 else f"the {places} sizes and mixtures"
    whole = (
        f"Order of algorithms by mean online AUC over {where} that all have: at half the budget {at_half}; at the end "
        f"{at_end}. {'It is the same' if same else 'The order differs'}."
    )
    changed = of.pairs[of.pairs["changed"] != "no"]
    sure = changed[changed["changed"] == "sure"].to_dict("records")
    n = len(changed) or "None"
    turns = f"{n} of {len(of.pairs)} comparisons of two algorithms at one place turn between half and end"
    if len(changed):
        named = _few([f"{row['first']} overtook {row['second']} at {_place(row, of.pairs)}" for row in sure])
        turns += f", {len(sure)} of them beyond their intervals at both moments" + (f": {named}" if named else "")
    return [whole, f"{turns}."]
