"""What a run costs before it starts: parameters, FLOPs and memory in closed form, seconds once something was measured.

Imports no torch, and SciPy only where it is needed: planning and status must answer at once.
"""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypedDict

import numpy as np

from scaling.algorithms.closed_forms import Cost, paper_axis
from scaling.calibration import Calibration, image_bytes, shape_key
from scaling.catalog import ALGORITHMS
from scaling.grid import RunSpec
from scaling.models.shape import Shape, embedding_params, encoder_flops
from scaling.options import Options

CUDA_CONTEXT = 600 * 2**20
"""Bytes of a GPU that a process takes before its first tensor; drivers differ by some hundred MiB."""
PROCESS = 700 * 2**20
"""Bytes of host memory of a process that has torch loaded."""
RECOMPUTING = 1.3
"""Times the work of a step whose blocks compute their activations anew: at most one forward pass in three more."""
OPTIMISER_BYTES = 16
"""Per trained parameter: fp32 weight, gradient and AdamW's two moments."""
HELD_BYTES = 4
CHECKPOINT_BYTES = 12
"""Per trained parameter: weight and two moments."""


class Counts(TypedDict):
    """What a run is counted by, under the names of the observation table."""

    n_params: int
    n_params_heads: int
    n_params_total: int
    n_params_non_embedding: int
    paper_axis: int
    flops_per_image: float


@dataclass(frozen=True, kw_only=True)
class RunCost:
    n_params_by_part: Mapping[str, int]
    flops_per_image: float
    train_flops: float
    """Of the whole pretraining, multiply-add = 2."""
    values_per_image: float = 0.0
    """Activations kept for the backward pass."""
    values_recomputed: float = 0.0
    """Where blocks compute theirs anew."""
    n_params_held: int = 0
    """Parameters in memory that no optimiser moves."""
    n_params_embedding: int = 0
    """Of the encoder's: patch projection and class token."""
    paper_axis: int = 0
    """As `closed_forms.paper_axis`."""

    @property
    def n_params(self) -> int:
        return self.n_params_by_part["encoder"]

    @property
    def n_params_heads(self) -> int:
        """Trained outside the encoder: parts below zero are what is frozen of it."""
        return sum(n for part, n in self.n_params_by_part.items() if part != "encoder" and n > 0)

    @property
    def n_params_non_embedding(self) -> int:
        """Of the encoder: blocks and last norm."""
        return self.n_params - self.n_params_embedding

    @property
    def counts(self) -> Counts:
        return Counts(
            n_params=self.n_params,
            n_params_heads=self.n_params_heads,
            n_params_total=self.n_params_total,
            n_params_non_embedding=self.n_params_non_embedding,
            paper_axis=self.paper_axis,
            flops_per_image=self.flops_per_image,
        )

    @property
    def n_params_total(self) -> int:
        return sum(self.n_params_by_part.values())

    @property
    def checkpoint_bytes(self) -> int:
        """On disk, while the run is under way."""
        return CHECKPOINT_BYTES * self.n_params_total + HELD_BYTES * self.n_params_held

    @property
    def encoder_bytes(self) -> int:
        """On disk, kept for good."""
        return 4 * self.n_params

    def step_bytes(
        self, spec: RunSpec, n_micro: int, *, on_gpu: bool, memory: int = 0, recomputed: bool = False
    ) -> int:
        """Memory of a step, estimated: of the GPU, or of the host without one, which has `memory` in all. Off by a
        third is no surprise."""
        wide = 4 if spec.precision == "fp32" or not on_gpu else 2
        held = OPTIMISER_BYTES * self.n_params_total + HELD_BYTES * self.n_params_held
        images = -(-spec.batch_size // n_micro)
        around = CUDA_CONTEXT if on_gpu else PROCESS
        values = self.values_recomputed if recomputed else self.values_per_image
        return int(held + images * values * wide + image_bytes(spec, memory) + around)


def encode_flops(spec: RunSpec) -> float:
    """Of a forward pass of the encoder for one image, as probes need it."""
    shape = shape_of(spec)
    return encoder_flops(shape, shape.n_patches) if shape.width else 0.0


def shape_of(spec: RunSpec) -> Shape:
    return Shape(**{field: getattr(spec, field) for field in Shape.__dataclass_fields__})


def cost_of(spec: RunSpec) -> RunCost:
    shape = shape_of(spec)
    cost = _cost_at(spec.algorithm, shape, spec.options)
    return RunCost(
        n_params_by_part=cost.n_params,
        flops_per_image=cost.flops_per_image,
        train_flops=cost.flops_per_image * spec.n_steps * spec.batch_size,
        values_per_image=cost.values_per_image,
        values_recomputed=cost.values_recomputed,
        n_params_held=cost.n_params_held,
        n_params_embedding=embedding_params(shape),
        paper_axis=paper_axis(shape),
    )


@functools.lru_cache(maxsize=4096)
def _cost_at(algorithm: str, shape: Shape, options: Options) -> Cost:
    """A grid has thousands of runs of a few shapes."""
    cost: Cost = ALGORITHMS[algorithm].load_cost()(shape, options)
    return cost


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One finished run's time, the evidence behind an estimate."""

    model: str
    algorithm: str
    train_flops: float
    seconds: float
    """Wall seconds, with probes where known."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """Seconds a run will take, and what says so."""

    seconds: float
    basis: Literal["runs", "calibration", "other runs", "assumed"]
    """Finished runs of its model and algorithm; a few measured steps of its shape; finished runs of another kind; FLOPs
    at an assumed share of a GPU's peak."""


class Evidence:
    """Finished runs as a base for estimates: same model and algorithm, then same algorithm, then any.

    The same kind scales by FLOPs; others by a line, overhead + rate x FLOPs, on which the baselines show the overhead.
    Small models run at a lower rate, so what only they foretell is overestimated. Looked at once, asked for thousands.
    """

    def __init__(self, measured: Sequence[Measured]) -> None:
        untrained = [m.seconds for m in measured if m.train_flops == 0]
        self._untrained = sum(untrained) / len(untrained) if untrained else None
        self._trained = [m for m in measured if m.train_flops > 0]
        self._overheads = [m for m in measured if m.train_flops == 0]
        rates: dict[tuple[str, str], list[float]] = defaultdict(list)
        for m in self._trained:
            rates[m.model, m.algorithm].append(m.seconds / m.train_flops)
        self._rates = {kind: sum(found) / len(found) for kind, found in rates.items()}
        self._lines: dict[str, tuple[float, float] | None] = {}

    def estimate(
        self,
        model: str,
        algorithm: str,
        train_flops: float,
        images_per_second: float | None = None,
        images: int = 0,
        *,
        recomputed: bool = False,
    ) -> Estimate | None:
        """None while nothing is known. `images_per_second`: of calibrated steps of the shape, for so many images.
        `recomputed`: runs of its kind are too, those of other kinds not."""
        if train_flops == 0:
            return None if self._untrained is None else Estimate(seconds=self._untrained, basis="runs")
        if rate := self._rates.get((model, algorithm)):
            return Estimate(seconds=train_flops * rate, basis="runs")
        if images_per_second:
            return Estimate(seconds=images / images_per_second, basis="calibration")
        if algorithm not in self._lines:
            self._lines[algorithm] = self._line(algorithm)
        line = self._lines[algorithm]
        work = train_flops * (RECOMPUTING if recomputed else 1.0)
        return None if line is None else Estimate(seconds=line[0] + line[1] * work, basis="other runs")

    def _line(self, algorithm: str) -> tuple[float, float] | None:
        """Seconds at no FLOPs and seconds a FLOP, neither negative."""
        near = [m for m in self._trained if m.algorithm == algorithm] or self._trained
        if not near:
            return None
        evidence = near + self._overheads
        unit = max(m.train_flops for m in evidence)
        if len({m.train_flops for m in evidence}) == 1:  # no line through one point but the one from the origin
            return 0.0, sum(m.seconds for m in evidence) / sum(m.train_flops for m in evidence)
        from scipy.optimize import nnls  # half a second that a plan without evidence need not spend

        columns = np.array([[1.0, m.train_flops / unit] for m in evidence])
        overhead, scaled = nnls(columns, np.array([m.seconds for m in evidence]))[0]
        return float(overhead), float(scaled) / unit


class Calibrated:
    """Measurements of one kind of device, found by the shape they are of."""

    def __init__(self, calibrations: Sequence[Calibration]) -> None:
        self._by_key = {c.shape_key: c for c in calibrations}
        self._keys: dict[tuple[object, ...], str] = {}

    def __len__(self) -> int:
        return len(self._by_key)

    def of(self, spec: RunSpec, n_micro: int, *, recomputed: bool = False) -> Calibration | None:
        if not self._by_key:
            return None
        # Runs of a sweep differ in few of the things a shape's key is made of; hashing all of each would take seconds.
        fast = (shape_of(spec), spec.algorithm, spec.batch_size, spec.precision, spec.options, n_micro, recomputed)
        if fast not in self._keys:
            self._keys[fast] = shape_key(spec, n_micro, recomputed=recomputed)
        return self._by_key.get(self._keys[fast])
