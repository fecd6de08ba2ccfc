"""From trials to the values every model of the grid trains with: best trials, the rule between sizes, what to doubt.

The stage ends with `<root>/sweeps/NAME/tuning.json`; what the grid takes is worked out from its best trials and the
sweep as it stands now, so a size added to the grid needs no trial.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from scaling.budgeting import run_at
from scaling.catalog import ALGORITHMS
from scaling.config import Sweep
from scaling.cost import cost_of
from scaling.data.source import Source
from scaling.document import Document
from scaling.errors import RunFailed
from scaling.options import Options
from scaling.plan import plan_path
from scaling.records import TUNING_COLUMNS
from scaling.rundir import read_json, write_json
from scaling.trials import (
    Tried,
    algorithms_of,
    all_trials,
    groups_of,
    key_of,
    look,
    models_of,
    point_of,
    root_of,
    stopped_early,
    trial_plan,
    with_setting,
)
from scaling.tuning import DEFAULT_TRIALS, Setting, Tune, rounded


@dataclass(frozen=True, kw_only=True)
class Best:
    """The best finished trial of an anchor, and how sure that is."""

    algorithm: str
    model: str
    n_params: int
    run: str
    lr: float
    weight_decay: float | None
    score: float
    runner_up_lr: float | None
    """Of the second best finished trial; None where there is none."""
    runner_up_score: float | None
    lr_below: float | None
    """Next smaller learning rate tried: with `lr_above` it brackets the optimum. None: the best is the smallest."""
    lr_above: float | None


@dataclass(frozen=True, kw_only=True)
class Line:
    """ln lr = intercept + slope x ln n_params of one algorithm."""

    algorithm: str
    slope: float
    intercept: float
    n_anchors: int
    slope_low: float | None = None
    """Least slope if each anchor's optimum lies anywhere between the neighbours tried; None where one is open."""
    slope_high: float | None = None

    def at(self, n_params: float) -> float:
        return math.exp(self.intercept + self.slope * math.log(n_params))


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What a model of the grid trains with."""

    algorithm: str
    model: str
    n_params: int
    lr: float
    weight_decay: float | None
    how: Literal["tried", "between anchors", "beyond anchors"]


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """What a finished stage found."""

    rule: Literal["power", "nearest", "constant"]
    criterion: Literal["loss", "probe"]
    keys: Mapping[str, str]
    """"algorithm/anchor" -> what its trials were asked with; another key means another stage."""
    tried: tuple[Tried, ...]
    best: tuple[Best, ...]
    lines: tuple[Line, ...]
    """Empty for `nearest`."""
    choices: tuple[Choice, ...]
    warnings: tuple[str, ...]


def conclude(sweep: Sweep, tried: Sequence[Tried]) -> Tuning:
    """Best trials, rule and choices. Raises RunFailed when an anchor has no finished trial."""
    assert sweep.tune is not None
    best, lost = [], []
    for group in groups_of(sweep):
        mine = [one for one in tried if (one.algorithm, one.model) == group]
        finished = [one for one in mine if one.status == "done"]
        if finished:
            best.append(best_of(mine))
        else:
            ends = ", ".join(f"{one.setting}: {one.status} {one.reason}".strip() for one in mine) or "none was started"
            lost.append(f"{group[0]}/{group[1]}: {ends}")
    if lost:
        raise RunFailed(f"tune: no trial came to its end, so nothing can be chosen for {'; '.join(lost)}")
    return _concluded(sweep, tuple(tried), tuple(best), {"/".join(g): key_of(sweep, g) for g in groups_of(sweep)})


def _concluded(sweep: Sweep, tried: tuple[Tried, ...], best: tuple[Best, ...], keys: Mapping[str, str]) -> Tuning:
    assert sweep.tune is not None
    lines = (
        ()
        if sweep.tune.rule == "nearest"
        else tuple(
            fit_line([b for b in best if b.algorithm == a], flat=sweep.tune.rule == "constant")
            for a in algorithms_of(sweep)
        )
    )
    choices = tuple(choose(sweep, best, lines))
    return Tuning(
        rule=sweep.tune.rule,
        criterion=sweep.tune.criterion,
        keys=keys,
        tried=tried,
        best=best,
        lines=lines,
        choices=choices,
        warnings=(*warnings(sweep.tune, tried, best, choices), *_lengths(sweep)),
    )


def best_of(mine: Sequence[Tried]) -> Best:
    """Of one anchor's trials, the finished one with the lowest score; at least one is finished."""
    finished = sorted((t for t in mine if t.status == "done"), key=lambda t: (t.score, t.lr))
    first = finished[0]
    second = finished[1] if len(finished) > 1 else None
    assert first.score is not None
    lrs = sorted({t.lr for t in mine if t.status != "waiting"})
    at = lrs.index(first.lr)
    return Best(
        algorithm=first.algorithm,
        model=first.model,
        n_params=first.n_params,
        run=first.run,
        lr=first.lr,
        weight_decay=first.weight_decay,
        score=first.score,
        runner_up_lr=second.lr if second else None,
        runner_up_score=second.score if second else None,
        lr_below=lrs[at - 1] if at else None,
        lr_above=lrs[at + 1] if at + 1 < len(lrs) else None,
    )


def fit_line(anchors: Sequence[Best], *, flat: bool) -> Line:
    """Least squares of ln lr over ln n_params; flat, also for a single anchor, it is the geometric mean."""
    x = [math.log(b.n_params) for b in anchors]
    y = [math.log(b.lr) for b in anchors]
    x_mean, y_mean = sum(x) / len(x), sum(y) / len(y)
    spread = sum((a - x_mean) ** 2 for a in x)
    slope = 0.0 if flat or spread == 0 else sum((a - x_mean) * (b - y_mean) for a, b in zip(x, y, strict=True)) / spread
    low, high = _bounds(anchors, [(a - x_mean) / spread for a in x]) if slope else (None, None)
    return Line(
        algorithm=anchors[0].algorithm,
        slope=slope,
        intercept=y_mean - slope * x_mean,
        n_anchors=len(anchors),
        slope_low=low,
        slope_high=high,
    )


def _bounds(anchors: Sequence[Best], weights: Sequence[float]) -> tuple[float | None, float | None]:
    """Of a slope that is the sum of weight x ln lr, for every lr between its neighbours."""
    low = high = 0.0
    for weight, anchor in zip(weights, anchors, strict=True):
        if anchor.lr_below is None or anchor.lr_above is None:
            return None, None
        ends = sorted(weight * math.log(lr) for lr in (anchor.lr_below, anchor.lr_above))
        low, high = low + ends[0], high + ends[1]
    return low, high


def choose(sweep: Sweep, best: Sequence[Best], lines: Sequence[Line]) -> Iterator[Choice]:
    """One per algorithm and model of the grid."""
    for algorithm in algorithms_of(sweep):
        anchors = [b for b in best if b.algorithm == algorithm]
        line = next((line for line in lines if line.algorithm == algorithm), None)
        for model in models_of(sweep):
            n_params = params_of(sweep, algorithm, model)
            near = min(anchors, key=lambda b: (abs(math.log(b.n_params / n_params)), b.n_params))
            lr = near.lr if line is None else rounded(line.at(n_params))
            # A line through the anchor gives the anchor's own value, whatever its digits, so the grid shares its run.
            if line is not None and near.model == model and math.isclose(line.at(n_params), near.lr, rel_tol=1e-9):
                lr = near.lr
            inside = min(b.n_params for b in anchors) <= n_params <= max(b.n_params for b in anchors)
            yield Choice(
                algorithm=algorithm,
                model=model,
                n_params=n_params,
                lr=lr,
                weight_decay=near.weight_decay,
                how="tried" if near.model == model else "between anchors" if inside else "beyond anchors",
            )


def params_of(sweep: Sweep, algorithm: str, model: str) -> int:
    return cost_of(run_at(sweep, point_of(sweep, (algorithm, model)), "")).n_params


def warnings(tune: Tune, tried: Sequence[Tried], best: Sequence[Best], choices: Sequence[Choice]) -> Iterator[str]:
    """What to hold against the choices, in words."""
    for b in best:
        mine = [t for t in tried if (t.algorithm, t.model) == (b.algorithm, b.model) and t.status != "waiting"]
        where = f"{b.algorithm}/{b.model}"
        if len({t.lr for t in mine}) > 1 and (b.lr_below is None or b.lr_above is None):
            side = "smallest" if b.lr_below is None else "largest"
            yield f"{where}: the best lr {b.lr:g} is the {side} tried, the optimum may lie beyond it; widen tune.lr"
        decays = sorted({t.weight_decay for t in mine if t.weight_decay is not None})
        if len(decays) > 2 and b.weight_decay in (decays[0], decays[-1]):
            yield f"{where}: the best weight_decay {b.weight_decay:g} is at the edge of those tried; widen it"
        if b.runner_up_score is None and len(mine) > 1:
            yield f"{where}: one trial alone came to its end, so there is no runner-up to compare it with"
    lowest, highest = min(t.lr for t in tried), max(t.lr for t in tried)
    for c in choices:
        if not lowest <= c.lr <= highest:
            what = f"lr {c.lr:g} by the rule lies outside of all that was tried ({lowest:g} to {highest:g})"
            yield f"{c.algorithm}/{c.model}: {what}; add an anchor nearer to this size"
    if tune.rule == "power" and len(tune.at) == 1:
        yield "the power rule has one anchor, so every size takes its lr; add a second anchor for a slope"
    for name in dict.fromkeys(c.algorithm for c in choices):
        if tune.criterion == "loss" and "ema" in ALGORITHMS[name].options.model_fields:
            what = "loss depends on its teacher and is low after a collapse too; criterion: probe is sounder for it"
            yield f"{name}'s {what}"


def _lengths(sweep: Sweep) -> Iterator[str]:
    """Where runs of the grid are shorter or longer than the trials that chose for them."""
    pretrain, at = sweep.pretrain, point_of(sweep, groups_of(sweep)[0]).n_images
    if pretrain.flops is not None and len(models_of(sweep)) > 1:
        yield "under equal FLOPs larger models see fewer images, so the rule between sizes holds for this budget alone"
    others = {n for part in (sweep.grid, *sweep.include) for n in part.n_images} - {at}
    if pretrain.epochs is not None and others:
        sizes = ", ".join(f"{n:,}" for n in sorted(others))
        yield (
            f"under equal epochs trials see {pretrain.images(at):,} images; runs on {sizes} images are of another "
            "length and take the same lr"
        )


def rows_of(tuning: Tuning) -> Iterator[dict[str, Any]]:
    """The tuning table, as `records.TUNING_COLUMNS`."""
    best = {b.run for b in tuning.best}
    for t in tuning.tried:
        kept = {name: getattr(t, name) for name in TUNING_COLUMNS if hasattr(t, name)}
        yield {**kept, "kind": "trial", "best": t.run in best}
    lines = {line.algorithm: line for line in tuning.lines}
    for c in tuning.choices:
        kept = {name: getattr(c, name) for name in TUNING_COLUMNS if hasattr(c, name)}
        line = lines.get(c.algorithm)
        law = {name: getattr(line, name) for name in ("slope", "slope_low", "slope_high", "intercept")} if line else {}
        yield {**kept, **law, "kind": "choice", "status": c.how}


def words(sweep: Sweep, document: Document, source: Source) -> Iterator[str]:
    """What a plan says of the stage: its trials and how they stand, or what was chosen; nothing without `tune:`."""
    if sweep.tune is None:
        return
    tuning = finished(sweep, root_of(sweep))
    if tuning is not None:
        yield from outcome(tuning)
        return
    plan = trial_plan(sweep, document, source)
    trials, stopped = all_trials(plan, sweep), stopped_early(sweep)
    by_probe = sweep.tune.criterion == "probe"
    standing = Counter(look(trial, stopped, by_probe=by_probe).status for trial in trials)
    groups = groups_of(sweep)
    n = len(groups) * (sweep.tune.trials or DEFAULT_TRIALS) if sweep.tune.method == "optuna" else len(trials)
    flops = sum(run.cost.train_flops for run in plan.runs) * n / len(groups)
    at = point_of(sweep, groups[0])
    where = ", ".join("/".join(group) for group in groups)
    stands = ", ".join(f"{count} {status}" for status, count in standing.items() if status != "waiting")
    yield (
        f"tune: {n} trials by {sweep.tune.method} at {where}, each on {at.n_images:,} images of {at.mixture}, "
        f"at most {flops:.3g} FLOPs in all{f'; {stands}' if stands else ''}"
    )
    yield "tune: the grid's learning rates follow from these trials; until then its runs stand with the YAML's own"


def outcome(tuning: Tuning) -> Iterator[str]:
    """What was chosen, how sure that is, and what to hold against it."""
    for b in tuning.best:
        runner_up = f"; runner-up {b.runner_up_score:.4g} at lr {b.runner_up_lr:g}" if b.runner_up_lr else ""
        setting = Setting(lr=b.lr, weight_decay=b.weight_decay)
        yield f"tuned {b.algorithm}/{b.model}: {setting}, {tuning.criterion} {b.score:.4g}{runner_up}"
    lines = {line.algorithm: line for line in tuning.lines}
    for algorithm in dict.fromkeys(c.algorithm for c in tuning.choices):
        mine = ", ".join(f"{c.model} {c.lr:g}" for c in tuning.choices if c.algorithm == algorithm)
        line = lines.get(algorithm)
        law = f", lr ~ n_params^{line.slope:.3g}" if line and tuning.rule == "power" and line.n_anchors > 1 else ""
        if line and line.slope_low is not None and line.slope_high is not None:
            law += f" ({line.slope_low:.2g} to {line.slope_high:.2g} by the neighbours tried)"
        yield f"tuned {algorithm} by the rule {tuning.rule}{law}: lr {mine}"
    for warning in tuning.warnings:
        yield f"tuned, but {warning}"


# --- the file, and what the grid takes from it ------------------------------------------------------------------


def tuning_path(root: Path, name: str) -> Path:
    return plan_path(root, name).with_name("tuning.json")


def save(tuning: Tuning, root: Path, name: str) -> None:
    write_json(tuning_path(root, name), asdict(tuning))


def load_tuning(root: Path, name: str) -> Tuning | None:
    """What the last finished stage of a sweep found, whatever its YAML says now; None when there was none."""
    kept = read_json(tuning_path(root, name))
    if kept is None:
        return None
    parts = {"tried": Tried, "best": Best, "lines": Line, "choices": Choice}
    rows = {name: tuple(cls(**values) for values in kept[name]) for name, cls in parts.items()}
    return Tuning(**{**kept, **rows, "warnings": tuple(kept["warnings"])})


def finished(sweep: Sweep, root: Path) -> Tuning | None:
    """What the stage found for this sweep as it stands now, its sizes included; None when it is to be run (again)."""
    kept = load_tuning(root, sweep.name) if sweep.tune is not None else None
    if kept is None:
        return None
    wanted = {"/".join(group): key_of(sweep, group) for group in groups_of(sweep)}
    if any(kept.keys.get(group) != key for group, key in wanted.items()):
        return None
    mine = {(one.algorithm, one.model) for one in kept.best} & set(groups_of(sweep))
    tried = tuple(one for one in kept.tried if (one.algorithm, one.model) in mine)
    return _concluded(sweep, tried, tuple(b for b in kept.best if (b.algorithm, b.model) in mine), wanted)


def tuned_options(sweep: Sweep, root: Path) -> dict[tuple[str, str], Options] | None:
    """(algorithm, model) -> the options that the grid's runs take; empty without `tune:`, None while it is not done."""
    if sweep.tune is None:
        return {}
    tuning = finished(sweep, root)
    if tuning is None:
        return None
    return {
        (c.algorithm, c.model): with_setting(
            # Resolved: the rule of a learning rate and the end of a decay may be a recipe's.
            run_at(sweep, point_of(sweep, (c.algorithm, c.model)), "").options,
            Setting(lr=c.lr, weight_decay=c.weight_decay),
        )
        for c in tuning.choices
    }
