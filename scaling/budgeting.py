"""From a sweep's budget to the images that each of its runs sees: the one way from a point to the run that is made.

Imports no torch. `grid` cannot do it, as equal FLOPs need the closed forms of `cost`.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

from scaling.config import AXES, Sweep
from scaling.cost import cost_of
from scaling.document import Document, Location
from scaling.errors import Problem
from scaling.grid import Point, RunSpec, spec
from scaling.options import LabelSet, Options

SHOWN = 4
"""Kinds of run that a message names."""


def run_at(
    sweep: Sweep,
    point: Point,
    data_identity: str,
    options: Options | None = None,
    labels: LabelSet | None = None,
    *,
    n_unique: int | None = None,
) -> RunSpec:
    """The run at a point of the sweep, as long as the sweep's budget says; the rest as `grid.spec`.

    Under equal FLOPs the order is: the options of a run of one step, its labels, the FLOPs of an image, the images
    they leave, and the options anew for a run that long. So a recipe may follow from the number of steps in all that
    moves no FLOPs.
    """

    def lasting(images_seen: int | None) -> RunSpec:
        run = spec(sweep, point, data_identity, options, images_seen=images_seen, n_unique=n_unique)
        return run if labels is None else run.model_copy(update={"options": _labelled(run.options, labels)})

    pretrain = sweep.pretrain
    if pretrain.flops is None or not point.n_images:
        return lasting(None)
    flops_per_image = cost_of(lasting(pretrain.batch_size)).flops_per_image
    run = lasting(pretrain.images(point.n_images, flops_per_image))
    assert cost_of(run).flops_per_image == flops_per_image, f"{point}: its FLOPs an image follow from its steps"
    return run


def _labelled(options: Options, labels: LabelSet) -> Options:
    return options.model_copy(update={"labels": labels})


def unseen(sweep: Sweep, document: Document, runs: Iterable[RunSpec]) -> Iterator[Problem]:
    """Points whose FLOPs do not pay for one pass, by their place in the YAML.

    A run that never sees all its images would stand at the wrong place of the data axis.
    """
    short: dict[tuple[Location, int], list[RunSpec]] = defaultdict(list)
    for run in runs if sweep.pretrain.flops else ():  # other budgets are looked at when the YAML is read
        if run.images_seen < run.n_images:
            short[_place(sweep, document, run.point), run.n_images].append(run)
    for (at, n_images), found in short.items():
        fewest = min(run.images_seen for run in found)
        way_out = f"exclude these points, or leave n_images at {fewest:,} or below"
        yield document.problem(at, f"{too_few(sweep, n_images, found)}, {way_out}")


def too_few(sweep: Sweep, n_images: int, runs: Sequence[RunSpec]) -> str:
    """What the FLOPs buy instead, and how many would do."""
    bought = {f"{run.model}/{run.algorithm}": run.images_seen for run in sorted(runs, key=lambda run: run.images_seen)}
    paid = ", ".join(f"{images:,} with {name}" for name, images in list(bought.items())[:SHOWN])
    paid += f" and {len(bought) - SHOWN} more" if len(bought) > SHOWN else ""
    flops = max(cost_of(run).flops_per_image * -(-n_images // run.batch_size) * run.batch_size for run in runs)
    return (
        f"{n_images:,} is more than the images that pretrain.flops {sweep.pretrain.flops:g} pay for ({paid}), so some "
        f"would never be seen; raise pretrain.flops to {_up(flops):g}"
    )


def overpays(sweep: Sweep, run: RunSpec) -> bool:
    """Whether its one step costs more than equal FLOPs, and half a batch, allow."""
    cost, flops = cost_of(run), sweep.pretrain.flops
    return flops is not None and cost.train_flops > flops + cost.flops_per_image * run.batch_size / 2


def overpaid(sweep: Sweep, runs: Iterable[RunSpec]) -> Iterator[str]:
    """A note on the kinds of run for which the FLOPs are less than a step."""
    kinds = dict.fromkeys(f"{run.model}/{run.algorithm}" for run in runs if overpays(sweep, run))
    if kinds:
        yield (
            f"a step of {', '.join(list(kinds)[:SHOWN])}{' and others' if len(kinds) > SHOWN else ''} costs more than "
            f"pretrain.flops {sweep.pretrain.flops:g}, so FLOPs are not equal; raise it, or lower pretrain.batch_size"
        )


def _up(value: float) -> float:
    """To three digits, never down."""
    unit = 10.0 ** (math.floor(math.log10(value)) - 2)
    return math.ceil(value / unit) * unit


def _place(sweep: Sweep, document: Document, point: Point) -> Location:
    """Of the point's data size, in the grid or in the include that adds it."""
    parts = [(("grid",), sweep.grid), *((("include", i), part) for i, part in enumerate(sweep.include))]
    at, part = next(p for p in parts if all(getattr(point, axis) in getattr(p[1], axis) for axis in AXES))
    listed = (*at, "n_images", part.n_images.index(point.n_images))
    return listed if listed in document.lines else listed[:-1]
