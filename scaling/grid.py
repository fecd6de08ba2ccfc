"""`Sweep` -> points in a fixed order -> `RunSpec`s with fingerprints.

Row 3. A fingerprint is the SHA-256 of everything that changes what is computed and of nothing else: names, paths,
resources and logging are left out, so renaming a mixture or moving a folder repeats no run.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import SerializeAsAny, model_validator

from scaling.catalog import ALGORITHMS, MODELS
from scaling.config import AXES, Grid, Match, Sweep
from scaling.document import Document
from scaling.errors import Problem, SpecError
from scaling.options import Options, later
from scaling.recipes import Facts, resolve

SCHEMA = 1
"""Raised when the meaning of the identity below changes."""
NO_MODEL, NO_MIXTURE = "none", "none"
"""Axis values of baselines that have no encoder or no pretraining images."""


@dataclass(frozen=True, kw_only=True)
class Point:
    """One combination of axis values."""

    model: str
    algorithm: str
    n_images: int
    mixture: str
    seed: int

    def __str__(self) -> str:
        images = f"/{self.n_images}x{self.mixture}" if self.n_images else ""
        return f"{self.model}/{self.algorithm}{images}/s{self.seed}"


@dataclass(frozen=True, kw_only=True)
class Excluded:
    """A point of the product that is not run, and the rule that says so."""

    point: Point
    rule: str
    """Place of the rule in the YAML."""


class RunSpec(Options):
    """One run: all that decides its result."""

    model: str
    algorithm: str
    mixture: str
    n_images: int
    """Of the set, as the grid asks for it: with repeats, if its mixture has any."""
    seed: int
    width: int
    depth: int
    heads: int
    image_size: int
    channels: int
    patch_size: int
    options: SerializeAsAny[Options]
    images_seen: int
    batch_size: int
    precision: Literal["auto", "bf16", "fp32"]
    data_identity: str
    """SHA-256 over the keys of the pretraining images; empty without any."""
    repeated_from: int = later(0)
    """Unique images where some stand in the set more than once; 0 where none does."""

    @model_validator(mode="before")
    @classmethod
    def _typed_options(cls, values: Any) -> Any:
        if isinstance(values, dict) and isinstance(values.get("options"), dict):
            entry = ALGORITHMS[values["algorithm"]]
            return {**values, "options": entry.options.model_validate_json(json.dumps(values["options"]))}
        return values

    @property
    def point(self) -> Point:
        return Point(**{axis: getattr(self, axis) for axis in AXES})

    @property
    def n_unique(self) -> int:
        """Images that are stored and read."""
        return self.repeated_from or self.n_images

    def identity(self) -> dict[str, Any]:
        named = self.model_dump(mode="json", exclude={"model": True, "mixture": True, "options": {"recipe"}})
        return {"schema": SCHEMA, "algorithm_version": ALGORITHMS[self.algorithm].version, **named}

    @property
    def fingerprint(self) -> str:
        return fingerprint(self.identity())

    @property
    def n_steps(self) -> int:
        """Optimiser steps; the last batch is full too, so images_seen is met or passed by less than a batch."""
        return -(-self.images_seen // self.batch_size)


def fingerprint(identity: Mapping[str, Any]) -> str:
    """12 hex digits of the SHA-256 of canonical JSON.

    Raises TypeError or ValueError, saying where, on whatever has no one form that is the same on every machine.
    """
    _refuse_unstable(identity, ())
    text = json.dumps(identity, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _refuse_unstable(value: Any, at: tuple[object, ...]) -> None:
    """JSON would take some of these: keys as their text, subclasses as their base. Two values then look like one."""
    kind = type(value)
    if kind is float:
        if not math.isfinite(value):
            raise ValueError(f"{_place(at)}: {value} has no form in a fingerprint; use null for what is not known")
    elif kind in (dict, list, tuple):
        for key, member in value.items() if kind is dict else enumerate(value):
            if kind is dict and type(key) is not str:
                what = f"key {key!r} is a {type(key).__name__}; keys must be text, use {str(key)!r}"
                raise TypeError(f"{_place(at)}: {what}")
            if type(member) not in PLAIN:
                _refuse_unstable(member, (*at, key))
    elif kind not in PLAIN:
        what = f"a {kind.__name__} has no stable form in a fingerprint; {WAY_OUT.get(kind, OTHER_WAY)}"
        raise TypeError(f"{_place(at)}: {what}")


PLAIN = {str, int, bool, type(None)}
WAY_OUT: dict[type, str] = {
    set: "use a sorted list",
    frozenset: "use a sorted list",
    bytes: "use their SHA-256 as text",
    bytearray: "use their SHA-256 as text",
    complex: "use two numbers",
    type: "use the name it has in the catalog",
}
OTHER_WAY = "use text, numbers, true, false, null, lists or mappings of them"


def _place(at: tuple[object, ...]) -> str:
    path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in at)
    return path.removeprefix(".") or "the value"


def expand(sweep: Sweep, document: Document) -> tuple[list[Point], list[Excluded]]:
    """Every point once, the last axis fastest, includes after the product, baselines last; and what is left out.

    Raises SpecError for an `exclude` or `holdout` that matches nothing, an `include` that adds nothing, an empty sweep
    and one that is held out as a whole.
    """
    problems, points, excluded = [], [], []
    used: set[int] = set()
    for point in _product(sweep.grid):
        rules = [i for i, rule in enumerate(sweep.exclude) if _matches(point, rule)]
        used.update(rules)
        if rules:
            excluded.append(Excluded(point=point, rule=document.where(("exclude", rules[0]))))
        else:
            points.append(point)
    for i in range(len(sweep.exclude)):
        if i not in used:
            what = "matches no point of the grid; correct or remove it"
            problems.append(document.problem(("exclude", i), what))
    there = set(points)
    for i, extra in enumerate(sweep.include):
        new = [point for point in _product(extra) if point not in there]
        if not new:
            problems.append(document.problem(("include", i), "adds no point that the grid does not have; remove it"))
        points += new
        there.update(new)
    if not points:
        problems.append(document.problem(("exclude",), "leaves no point of the grid; remove a rule"))
    problems += _idle_holdouts(sweep, document, points)
    if problems:
        raise SpecError(problems)
    return points + list(_baselines(sweep, points)), excluded


def _product(grid: Grid) -> Iterator[Point]:
    for values in itertools.product(*(getattr(grid, axis) for axis in AXES)):
        yield Point(**dict(zip(AXES, values, strict=True)))


def _idle_holdouts(sweep: Sweep, document: Document, points: list[Point]) -> Iterator[Problem]:
    for i, rule in enumerate(sweep.holdout):
        if points and not any(_matches(point, rule) for point in points):
            yield document.problem(("holdout", i), "matches no point that is run; correct or remove it")
    if points and all(held_out(sweep, point) for point in points):
        what = "holds every point out, so that nothing is left to fit; narrow or remove a rule"
        yield document.problem(("holdout",), what)


def held_out(sweep: Sweep, point: Point) -> bool:
    """Whether the sweep's `holdout` keeps the point out of every fit. Not part of a run's identity."""
    return point.n_images > 0 and any(_matches(point, rule) for rule in sweep.holdout)


def _matches(point: Point, rule: Match) -> bool:
    wanted = {axis: getattr(rule, axis) for axis in AXES}
    return all(values is None or getattr(point, axis) in values for axis, values in wanted.items())


def _baselines(sweep: Sweep, points: list[Point]) -> Iterator[Point]:
    if "random" in sweep.baselines:
        for model, seed in dict.fromkeys((p.model, p.seed) for p in points):
            yield Point(model=model, algorithm="random", n_images=0, mixture=NO_MIXTURE, seed=seed)
    if "pixels" in sweep.baselines:
        yield Point(model=NO_MODEL, algorithm="pixels", n_images=0, mixture=NO_MIXTURE, seed=0)


def spec(
    sweep: Sweep,
    point: Point,
    data_identity: str,
    tuned: Options | None = None,
    *,
    images_seen: int | None = None,
    n_unique: int | None = None,
) -> RunSpec:
    """The run at a point of the sweep; `data_identity` as `Selection.identity`, empty for baselines.

    Its options are resolved: with their recipe's values for this run.

    `tuned`: the algorithm's options where the sweep's tuning chose them; None takes the YAML's. `images_seen`: as
    `budgeting` found it, which can price a run; None takes it from a budget that needs no price. `n_unique`: of the
    set's images; None is all of them.
    """
    size = MODELS.get(point.model)
    trains = point.n_images > 0
    settings = getattr(sweep.algorithms, point.algorithm) if trains else ALGORITHMS[point.algorithm].options()
    run = RunSpec(
        **{axis: getattr(point, axis) for axis in AXES},
        width=size.width if size else 0,
        depth=size.depth if size else 0,
        heads=size.heads if size else 0,
        image_size=sweep.data.image_size,
        channels=sweep.data.channels,
        patch_size=sweep.patch_size,
        options=tuned or settings,
        images_seen=(images_seen or sweep.pretrain.images(point.n_images)) if trains else 0,
        batch_size=sweep.pretrain.batch_size if trains else 1,
        precision=sweep.pretrain.precision if trains else "fp32",
        data_identity=data_identity,
        repeated_from=n_unique if n_unique is not None and n_unique < point.n_images else 0,
    )
    known = {name: getattr(run, name) for name in Facts.__dataclass_fields__}
    facts = Facts(**{**known, "n_images": run.n_unique})
    return run.model_copy(update={"options": resolve(run.algorithm, run.options, facts)})
