"""What a YAML may say about tuning, and which values that means. The section `tune` of `config.Sweep`.

Row 2, pydantic and the standard library only. The values tried follow from the section and a name alone, on every
machine and after every crash.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag

from scaling.catalog import MODELS
from scaling.document import Location
from scaling.errors import unknown
from scaling.options import Options, Positive

DIGITS = 3
"""Significant digits of values that are drawn or interpolated: enough for a learning rate, and readable."""
DEFAULT_TRIALS = 8


class Between(Options):
    """A range, searched evenly in the logarithm."""

    between: tuple[Positive, Positive]


class Values(Options):
    """A list to choose from."""

    values: list[Annotated[float, Field(ge=0)]] = Field(min_length=1)


def _kind(value: Any) -> str:
    listed = "values" in value if isinstance(value, dict) else isinstance(value, Values)
    return "<values>" if listed else "<between>"


Range = Annotated[
    Annotated[Between, Tag("<between>")] | Annotated[Values, Tag("<values>")],
    Discriminator(_kind),
]


class Tune(Options):
    """Learning rates chosen at a few sizes, by trials that are runs like any other, and carried to all sizes."""

    at: Annotated[list[str], BeforeValidator(lambda v: v if isinstance(v, list) else [v])] = Field(min_length=1)
    """Anchors: model sizes to try values at, of the grid or smaller."""
    lr: Range
    """Of each algorithm's `lr.base`."""
    weight_decay: Range | None = None
    """Of each algorithm's `weight_decay`; a `weight_decay_end` moves by the same factor. null keeps the YAML's."""
    n_images: int | None = Field(default=None, gt=0)
    """Unique images of a trial; null = the grid's largest."""
    mixture: str | None = None
    """null = the grid's first."""
    seed: int | None = Field(default=None, ge=0, lt=2**31)
    """null = the grid's first."""
    trials: int | None = Field(default=None, ge=1)
    """Per anchor and algorithm; null = 8, or what a `grid` over listed values has. More keep those already run."""
    method: Literal["asha", "optuna", "grid"] = "asha"
    """asha: evenly spread values, the worse ones stopped early (Li et al. 2020, arXiv 1810.05934); optuna: each trial
    learns from those before it (TPE; needs `pip install optuna`); grid: evenly spread or listed values, all to the
    end."""
    reduction: int = Field(default=3, ge=2, le=4)
    """asha goes on with one in so many at 1/8 of the steps, and again at each `reduction` times as many."""
    criterion: Literal["loss", "probe"] = "loss"
    """loss: the mean pretraining loss of the last tenth of the run. It compares trials of one algorithm only, and is
    sound where the objective stands still, as MAE's does; DINOv2's depends on its teacher and is low after a collapse
    too. probe: mean 1 - AUC over the tasks' validation splits of the linear read-out, never their test splits."""
    rule: Literal["power", "nearest", "constant"] = "power"
    """How the learning rate goes from anchors to all sizes. power: its logarithm is linear in that of n_params, by
    least squares, constant for a single anchor; nearest: that of the anchor nearest in log n_params; constant: the
    anchors' geometric mean. The weight decay is always the nearest anchor's."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Values of one trial."""

    lr: float
    weight_decay: float | None = None
    """None keeps the YAML's."""

    def __str__(self) -> str:
        decay = "" if self.weight_decay is None else f", weight_decay {self.weight_decay:g}"
        return f"lr {self.lr:g}{decay}"


def rounded(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")


# --- which values -----------------------------------------------------------------------------------------------


def settings(tune: Tune, name: str) -> list[Setting]:
    """The values tried at one anchor, the same for the same section and name; of `optuna` none is known beforehand.

    Drawn values are a radical inverse (van der Corput) shifted by `name`: any first n are spread evenly, and more
    trials keep the first ones.
    """
    if tune.method == "optuna":
        return []
    if tune.method == "grid":
        return _grid(tune)
    n = tune.trials or DEFAULT_TRIALS
    lrs, decays = tune.lr, tune.weight_decay
    if isinstance(lrs, Values) and not isinstance(decays, Between):
        pairs = [Setting(lr=lr, weight_decay=decay) for lr in lrs.values for decay in _listed(decays)]
        order = sorted(range(len(pairs)), key=lambda i: _share(f"{name}/{i}"))
        return [pairs[i] for i in order[:n]]
    drawn = [
        Setting(lr=_drawn(lrs, name, 2, i), weight_decay=None if decays is None else _drawn(decays, name, 3, i))
        for i in range(n)
    ]
    return list(dict.fromkeys(drawn))


def _grid(tune: Tune) -> list[Setting]:
    decays = _listed(tune.weight_decay)
    if isinstance(tune.lr, Values):
        lrs = tune.lr.values
    else:
        n = max(2, (tune.trials or DEFAULT_TRIALS) // len(decays))
        low, high = tune.lr.between
        lrs = [rounded(low * (high / low) ** (i / (n - 1))) for i in range(n)]
    return [Setting(lr=lr, weight_decay=decay) for lr, decay in itertools.product(lrs, decays)]


def _listed(decays: Between | Values | None) -> list[float | None]:
    assert not isinstance(decays, Between)
    return [None] if decays is None else list(decays.values)


def _drawn(among: Between | Values, name: str, base: int, i: int) -> float:
    share = (_radical_inverse(i, base) + _share(f"{name}/{base}")) % 1.0
    if isinstance(among, Values):
        return among.values[int(share * len(among.values))]
    low, high = among.between
    return rounded(low * (high / low) ** share)


def _radical_inverse(i: int, base: int) -> float:
    """The digits of `i` mirrored at the point: 0, 1/2, 1/4, 3/4, 1/8, ... for base 2."""
    value, unit = 0.0, 1.0
    while i:
        unit /= base
        i, digit = divmod(i, base)
        value += digit * unit
    return value


def _share(name: str) -> float:
    """A number in [0, 1) that is `name`'s own on every machine."""
    return int(hashlib.sha256(name.encode()).hexdigest()[:12], 16) / 16**12


# --- rules that pydantic does not know, on the raw document -----------------------------------------------------


def problems(raw: Mapping[str, Any], mixtures: list[str]) -> Iterator[tuple[Location, str]]:
    """Of the section as it stands in the YAML, where its parts have the right types."""
    tune = raw.get("tune")
    if not isinstance(tune, dict):
        return
    yield from _anchors(tune)
    for key in ("lr", "weight_decay"):
        if isinstance(tune.get(key), dict):
            yield from _range(key, tune[key])
    seen, n_images = _number(raw, "pretrain", "images_seen"), tune.get("n_images")
    if isinstance(n_images, int) and seen and n_images > seen:
        yield ("tune", "n_images"), f"{n_images} is more than pretrain.images_seen {seen:g}, so some would not be seen"
    if "mixture" in tune and tune["mixture"] is not None and str(tune["mixture"]) not in mixtures:
        yield ("tune", "mixture"), unknown("mixture", tune["mixture"], mixtures)
    yield from _methods(tune, raw)


def _anchors(tune: Mapping[str, Any]) -> Iterator[tuple[Location, str]]:
    names = tune.get("at") if isinstance(tune.get("at"), list) else [tune.get("at")]
    assert names is not None
    for i, name in enumerate(names):
        at = ("tune", "at", i) if isinstance(tune.get("at"), list) else ("tune", "at")
        if isinstance(name, str) and name not in MODELS:
            yield at, unknown("model", name, MODELS)
        elif name in names[:i]:
            yield at, f"lists {name} twice; give each anchor once"


def _range(key: str, given: Mapping[str, Any]) -> Iterator[tuple[Location, str]]:
    if "between" in given and "values" in given:
        yield ("tune", key), "has both `between` and `values`; keep one"
    ends = given.get("between")
    numbers = [end for end in ends if isinstance(end, int | float)] if isinstance(ends, list) else []
    if len(numbers) == 2 and numbers[0] >= numbers[1]:
        yield ("tune", key, "between"), f"runs from {numbers[0]:g} to {numbers[1]:g}; give the smaller end first"
    values = given.get("values")
    if isinstance(values, list):
        if key == "lr" and 0 in values:
            yield ("tune", key, "values", values.index(0)), "is 0, which trains nothing; give values above 0"
        if len(set(map(str, values))) < len(values):
            yield ("tune", key, "values"), "lists a value twice; give each once"


def _methods(tune: Mapping[str, Any], raw: Mapping[str, Any]) -> Iterator[tuple[Location, str]]:
    method, at = tune.get("method", "asha"), ("tune", "method")
    lr, decay = (tuple(found) if isinstance(found := tune.get(key), dict) else () for key in ("lr", "weight_decay"))
    if method == "asha" and tune.get("criterion") == "probe":
        yield at, "asha stops trials by their loss, which criterion: probe does not trust; use method: grid or optuna"
    if method == "grid" and "between" in decay:
        yield ("tune", "weight_decay"), "is a range, of which a grid takes no points; list them as `values`"
    if method == "grid" and "values" in lr and tune.get("trials") is not None:
        yield ("tune", "trials"), "follows from the listed values of a grid; remove it"
    if method == "optuna" and "values" in lr:
        what = "lists values, of which optuna learns nothing; give `between`, or use method: asha or grid"
        yield ("tune", "lr"), what
    probe = raw.get("probe")
    if tune.get("criterion") == "probe" and isinstance(probe, dict):
        if "linear" in probe and probe["linear"] is None:
            yield ("tune", "criterion"), "probe needs the linear read-out, which probe.linear: null leaves out"
        elif "linear" not in probe and probe.get("protocol") is not None:
            yield ("tune", "criterion"), "probe needs the linear read-out, which probe.protocol leaves out; name it too"


def _number(raw: Mapping[str, Any], section: str, key: str) -> float:
    value = raw.get(section, {}).get(key) if isinstance(raw.get(section), dict) else None
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else 0.0
