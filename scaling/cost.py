"""What a run costs before it starts: parameters and FLOPs in closed form, seconds once something was measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import nnls

from scaling.catalog import ALGORITHMS
from scaling.grid import RunSpec
from scaling.models.shape import Shape


@dataclass(frozen=True, kw_only=True)
class RunCost:
    n_params_by_part: dict[str, int]
    flops_per_image: float
    train_flops: float
    """Of the whole pretraining, multiply-add = 2."""

    @property
    def n_params(self) -> int:
        return self.n_params_by_part["encoder"]

    @property
    def n_params_total(self) -> int:
        return sum(self.n_params_by_part.values())


def shape_of(spec: RunSpec) -> Shape:
    return Shape(**{field: getattr(spec, field) for field in Shape.__dataclass_fields__})


def cost_of(spec: RunSpec) -> RunCost:
    cost = ALGORITHMS[spec.algorithm].load_cost()(shape_of(spec), spec.options)
    return RunCost(
        n_params_by_part=cost.n_params,
        flops_per_image=cost.flops_per_image,
        train_flops=cost.flops_per_image * spec.n_steps * spec.batch_size,
    )


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One finished run's time, the evidence behind an estimate."""

    model: str
    algorithm: str
    train_flops: float
    seconds: float
    """Wall seconds, with probes where known."""


def estimate_seconds(model: str, algorithm: str, train_flops: float, measured: Sequence[Measured]) -> float | None:
    """Seconds a run will take, by the nearest kind of finished runs: same model and algorithm, same algorithm, any.

    None while nothing was measured. The same kind scales by FLOPs; others by a line, overhead + rate x FLOPs, on which
    the baselines show the overhead. Small models run at a lower rate, so what only they foretell is overestimated.
    """
    if train_flops == 0:
        untrained = [m.seconds for m in measured if m.train_flops == 0]
        return sum(untrained) / len(untrained) if untrained else None
    trained = [m for m in measured if m.train_flops > 0]
    same = [m for m in trained if (m.model, m.algorithm) == (model, algorithm)]
    if same:
        return train_flops * sum(m.seconds / m.train_flops for m in same) / len(same)
    near = [m for m in trained if m.algorithm == algorithm] or trained
    if not near:
        return None
    evidence = near + [m for m in measured if m.train_flops == 0]
    if len({m.train_flops for m in evidence}) == 1:  # no line through one point but the one from the origin
        return train_flops * sum(m.seconds for m in evidence) / sum(m.train_flops for m in evidence)
    columns = np.array([[1.0, m.train_flops / train_flops] for m in evidence])
    overhead, scaled = nnls(columns, np.array([m.seconds for m in evidence]))[0]
    return float(overhead + scaled)
