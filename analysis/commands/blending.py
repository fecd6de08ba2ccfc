"""Which mixture of modalities goes with which model and data size, for what there is to spend.

In the mixture law the best mixture of a task does not depend on N and D, as the shares only set the error of one image;
with them the law is Chinchilla's, and its frontier is in closed form. Several tasks that one pretraining serves want
one mixture: the one that makes the mean of their log errors least, for which N and D count.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from analysis.commands.how import How
from analysis.fit import Fit, Status, fit
from analysis.laws.mixture import mixture, optimum, with_shares
from analysis.optima.allocation import Answer, Approach, Optimum, Runs, estimate, natural, notes
from analysis.optima.compromise import Common, common_optimum
from analysis.optima.flops import Flops
from analysis.optima.frontier import BOUND, cost_warnings, exponents, log_optimum
from analysis.optima.paired import Draws, paired
from analysis.points import Matrix, Points, Stack, Vector
from analysis.uncertainty import Estimate, Uncertainty, uncertainty

NONE = 1e-3
"""Share up to which a modality is as good as left out."""
VAGUE_SHARE = 0.5
"""Width of a share's interval from which it is said to be hardly known."""


@dataclass(frozen=True, kw_only=True)
class Blend:
    """What the mixture law answers on one group of runs."""

    approach: Approach
    modalities: tuple[str, ...] = ()
    """Those with images in some run; the law is of these."""
    absent: tuple[str, ...] = ()
    """Mapped, but in no run: nothing is known of them."""
    gamma: Estimate | None = None
    """Below 1 a mixture beats its parts; None unless answered."""


@dataclass(frozen=True, kw_only=True)
class Loss:
    """What a task gets from the common optimum."""

    y: Estimate
    over_own: Estimate
    """y over what the task's own optimum of the same budget would leave; 1 is no loss."""


@dataclass(frozen=True, kw_only=True)
class Together:
    """One mixture and one model and data size for several groups."""

    status: Answer | None
    """None where there is nothing to join: `reason` says what."""
    reason: str
    members: tuple[int, ...] = ()
    """Places of the groups that are in it."""
    modalities: tuple[str, ...] = ()
    optima: tuple[Optimum, ...] = ()
    """y: geometric mean over groups."""
    losses: tuple[tuple[Loss, ...], ...] = ()
    """By budget and group."""
    warnings: tuple[str, ...] = ()
    draws: Draws | None = None


def blend(runs: Runs, points: Points, modalities: Sequence[str], budgets: Sequence[float], how: How) -> Blend:
    """points.x: N, D and the shares of the modalities. Never raises for data."""
    there = tuple(name for j, name in enumerate(modalities) if (points.x[:, 2 + j] > 0).any())
    absent = tuple(name for name in modalities if name not in there)
    if len(there) < 2:
        which = f"all images of the runs are {there[0]}" if there else "there are no runs"
        status = Answer.UNIDENTIFIED if there else Answer.TOO_FEW
        reason = f"{which}: a mixture needs runs of two modalities or more"
        return Blend(approach=_nothing(status, reason), modalities=there, absent=absent)
    law = mixture(there)
    columns = [0, 1, *(2 + modalities.index(name) for name in there)]
    given = replace(points, x=points.x[:, columns])
    found = fit(law, given, objective=how.measure)
    status, reason = no_optimum(found)
    if status is not Answer.ANSWERED:
        return Blend(approach=_nothing(status, reason, found), modalities=there, absent=absent)
    sure = resampled(found, how)
    a, b = (sure.of(partial(_exponent, which=which, cost=runs.cost)) for which in (0, 1))
    gamma = sure.of(law.derived[0].compute)
    shares = _shares(found, sure)
    ran = np.unique(given.x[:, 2:], axis=0)
    said = _share_notes(shares, ran) + _gamma_notes(gamma)
    optima = tuple(_optimum(sure, runs, budget, shares, ran, said) for budget in budgets)
    at_one = _best_sizes(found.theta[None], 0.0, runs.cost)
    approach = Approach(
        name=law.name,
        number=3,
        status=status,
        reason="",
        a=a,
        b=b,
        coefficient=float(np.exp(at_one[0][0])),
        optima=optima,
        warnings=(*([found.reason] if found.reason else []), *_absent(absent), *sure.warnings),
        fit=found,
    )
    return Blend(approach=approach, modalities=there, absent=absent, gamma=gamma)


def _nothing(status: Answer, reason: str, found: Fit | None = None) -> Approach:
    return Approach(name="mixture", number=3, status=status, reason=reason, fit=found)


def _absent(names: Sequence[str]) -> list[str]:
    return [f"no run has images of {', '.join(names)}: nothing is known of them, and they are left out"] * bool(names)


def no_optimum(found: Fit) -> tuple[Answer, str]:
    """Why a fit has no compute-optimal sizes. A parameter that is no exponent may stand at its bound."""
    if found.status in (Status.UNIDENTIFIED, Status.FLAT):
        return Answer.UNIDENTIFIED, found.reason
    if found.status is Status.TOO_FEW:
        return Answer.TOO_FEW, found.reason
    if not found.status.usable:
        return Answer.NO_FIT, found.reason
    low, high = found.law.bounds(found.points.x, found.points.y)
    exponent = [found.law.names.index(name) for name in ("alpha", "beta")]
    if (found.theta[exponent] - low[exponent] < BOUND).any():
        return Answer.NO_MINIMUM, f"{found.reason}; more of one size at the cost of the other never stops to pay"
    if (high[exponent] - found.theta[exponent] < BOUND).any():
        return Answer.UNIDENTIFIED, found.reason
    return Answer.ANSWERED, ""


def resampled(found: Fit, how: How) -> Uncertainty:
    """By resampling unless asked otherwise: a share at its end of 0 or 1 has no slope to search an end by, and the
    search for an end at infinity is long."""
    method = how.intervals if how.resamples or how.intervals == "profile" else "delta"
    if method == "auto":
        many = uncertainty(found, method="auto", n=0, level=how.level).method == "bootstrap"
        method = "bootstrap" if many else "parametric"
    return uncertainty(found, method=method, n=how.resamples, seed=how.seed, level=how.level)  # type: ignore[arg-type]


def _best_sizes(thetas: Matrix, log_flops: float, cost: Flops) -> tuple[Vector, Vector, Vector]:
    """ln N, ln D, ln y (B,) with each theta's own best mixture."""
    return log_optimum(with_shares(thetas, optimum(thetas)), log_flops=log_flops, cost=cost)


def _size(thetas: Matrix, *, which: int, log_flops: float, cost: Flops) -> Vector:
    return _best_sizes(thetas, log_flops, cost)[which]


def _exponent(thetas: Matrix, *, which: int, cost: Flops) -> Vector:
    return exponents(with_shares(thetas, optimum(thetas)), cost)[which]


def _log_gain(thetas: Matrix, *, ran: Matrix, log_flops: float, cost: Flops) -> Vector:
    """ln y of the best mixture minus that of the best of those run, each at its own best sizes."""
    theirs = [log_optimum(with_shares(thetas, one), log_flops=log_flops, cost=cost)[2] for one in ran]
    return np.asarray(_best_sizes(thetas, log_flops, cost)[2] - np.min(theirs, axis=0))


def _share(thetas: Matrix, *, which: int) -> Vector:
    return np.asarray(optimum(thetas)[:, which])


def _shares(found: Fit, sure: Uncertainty) -> dict[str, Estimate]:
    names = [name.removeprefix("share_") for name in found.law.inputs[2:]]
    return {name: _within(sure.of(partial(_share, which=j))) for j, name in enumerate(names)}


def _within(share: Estimate) -> Estimate:
    low, high = np.clip((share.low, share.high), 0.0, 1.0)
    return Estimate(value=share.value, se=share.se, low=float(low), high=float(high))


def _optimum(
    sure: Uncertainty, runs: Runs, budget: float, shares: dict[str, Estimate], ran: Matrix, said: Sequence[str]
) -> Optimum:
    size = partial(_size, log_flops=float(np.log(budget)), cost=runs.cost)
    gain = partial(_log_gain, ran=ran, log_flops=float(np.log(budget)), cost=runs.cost)
    n_params, n_images, y = (natural(sure.of(partial(size, which=which))) for which in range(3))
    return Optimum(
        budget=budget,
        n_params=n_params,
        n_images=n_images,
        y=y,
        beyond=float(budget / runs.flops.max()),
        notes=(*notes(runs, budget, n_params, n_images), *said),
        shares=shares,
        gain=natural(sure.of(gain)),
    )


def _share_notes(shares: dict[str, Estimate], ran: Matrix) -> list[str]:
    """At a corner or an edge of the simplex, beyond the mixtures run, hardly known."""
    left_out = [name for name, one in shares.items() if one.value < NONE]
    said = []
    if len(left_out) == len(shares) - 1:
        alone = next(name for name in shares if name not in left_out)
        said.append(f"at a corner of the simplex: {alone} alone is best")
    elif left_out:
        said.append(f"at an edge of the simplex: as good as no {', '.join(left_out)}")
    for (name, one), column in zip(shares.items(), ran.T, strict=True):
        if one.value > column.max() + NONE:
            said.append(f"more {name} than in any run ({one.value:.3g}, at most {column.max():.3g} was run)")
        if one.value < column.min() - NONE:
            said.append(f"less {name} than in any run ({one.value:.3g}, at least {column.min():.3g} was run)")
        if one.high - one.low > VAGUE_SHARE:
            said.append(f"the data place the share of {name} only between {one.low:.2g} and {one.high:.2g}")
    return said


def _gamma_notes(gamma: Estimate) -> list[str]:
    if gamma.low < 1 < gamma.high:
        between = f"gamma {gamma.value:.2g}, {gamma.low:.2g} to {gamma.high:.2g}"
        return [f"the data do not tell whether any mixture beats the best modality alone ({between}; below 1 it does)"]
    return []


def together(blends: Sequence[Blend], names: Sequence[str], runs: Runs, budgets: Sequence[float], how: How) -> Together:
    """For the groups that have an answer of their own; `names` are the groups' in messages, `runs` those of all."""
    members = tuple(i for i, one in enumerate(blends) if one.approach.answered)
    good = [blends[i] for i in members]
    lost = [name for name, one in zip(names, blends, strict=True) if not one.approach.answered]
    if len(good) < 2:
        what = "one has" if good else "none has"
        return Together(status=None, reason=f"two groups or more with an answer of their own are needed; {what} one")
    if len({one.modalities for one in good}) > 1:
        parts = [f"{names[i]}: {', '.join(blends[i].modalities)}" for i in members]
        return Together(status=None, reason=f"the groups do not share modalities ({'; '.join(parts)})")
    fits = [one.approach.fit for one in good if one.approach.fit]
    drawn = paired(fits, n=how.resamples, seed=how.seed, level=how.level) if how.resamples else None
    ran = np.unique(np.concatenate([one.points.x[:, 2:] for one in fits]), axis=0)
    thetas = np.stack([one.theta for one in fits])[None]
    draws = np.stack(drawn.thetas, axis=1) if drawn else np.empty((0, *thetas.shape[1:]))
    found = [_common(budget, thetas, draws, runs, good[0].modalities, ran, how.level) for budget in budgets]
    warnings = [f"without {', '.join(lost)}: no answer of its own"] if lost else []
    warnings += cost_warnings(runs.cost)
    if drawn is None or not len(draws):
        warnings.append("no intervals: too few resamples")
    elif not drawn.together:
        warnings.append("the groups are not of the same runs: their luck is taken as independent")
    return Together(
        status=Answer.ANSWERED,
        reason="",
        members=members,
        modalities=good[0].modalities,
        optima=tuple(best for best, _ in found),
        losses=tuple(losses for _, losses in found),
        warnings=tuple(warnings),
        draws=drawn,
    )


def _common(
    budget: float, thetas: Stack, draws: Stack, runs: Runs, modalities: Sequence[str], ran: Matrix, level: float
) -> tuple[Optimum, tuple[Loss, ...]]:
    """thetas (1, G, p), draws (B, G, p)."""
    log_flops = float(np.log(budget))
    here, there = (common_optimum(of, log_flops=log_flops, cost=runs.cost) for of in (thetas, draws))

    def of(number: Callable[[Common], Vector]) -> Estimate:
        return estimate(float(number(here)[0]), number(there), level=level)

    n_params = natural(of(lambda one: one.log_n_params))
    n_images = natural(of(lambda one: runs.cost.log_n_images(log_flops, one.log_n_params)))
    shares = {name: of(lambda one, j=j: one.shares[:, j]) for j, name in enumerate(modalities)}  # type: ignore[misc]
    losses = []
    for g in range(thetas.shape[1]):
        own, drawn = (_best_sizes(of_all[:, g], log_flops, runs.cost)[2] for of_all in (thetas, draws))
        lost = estimate(float(here.log_y[0, g] - own[0]), there.log_y[:, g] - drawn, level=level)
        losses.append(Loss(y=natural(of(lambda one, g=g: one.log_y[:, g])), over_own=natural(lost)))  # type: ignore[misc]
    best = Optimum(
        budget=budget,
        n_params=n_params,
        n_images=n_images,
        y=natural(of(lambda one: one.log_y.mean(axis=1))),
        beyond=float(budget / runs.flops.max()),
        notes=(*notes(runs, budget, n_params, n_images), *_share_notes(shares, ran)),
        shares=shares,
    )
    return best, tuple(losses)
