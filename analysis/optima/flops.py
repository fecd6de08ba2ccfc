"""What training costs: FLOPs of a model size and a data size, and how many of them a GPU-hour holds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from analysis.points import Vector

TRANSFORMER = 6.0
"""FLOPs per parameter and token, forward and backward: Kaplan et al. 2020 (arXiv 2001.08361), section 2.1."""
SAME = 0.02
"""Departures from C = k N D up to which the power of N is taken as one."""


@dataclass(frozen=True, kw_only=True)
class Flops:
    """C = k N^power D."""

    k: float = TRANSFORMER
    """FLOPs per parameter and image; an image of a ViT is as many tokens as it has patches, so k is 6 x patches."""
    power: float = 1.0
    """Of N; below 1 where part of a model's cost does not grow with its parameters."""
    spread: float = 0.0
    """Largest departure of a run from this, a share: 0.02 is 2 %."""

    def of(self, n_params: Vector, n_images: Vector) -> Vector:
        return self.k * n_params**self.power * n_images

    def log_n_images(self, log_flops: float, log_n_params: Vector) -> Vector:
        """ln D that C pays for beside N."""
        return log_flops - np.log(self.k) - self.power * log_n_params


def measured(n_params: Vector, n_images: Vector, flops: Vector) -> Flops:
    """From runs whose FLOPs are known: k alone where C / (N D) is constant, else k and the power of N by least squares.

    Needs positive numbers; two distinct model sizes for the power, else it is 1.
    """
    ln_n = np.log(n_params)
    each = np.log(flops) - ln_n - np.log(n_images)
    slope = 0.0
    if np.ptp(each) > SAME and len(np.unique(n_params)) > 1:
        slope = float(np.polyfit(ln_n, each, 1)[0])
    level = float(np.mean(each - slope * ln_n))
    departure = np.abs(np.expm1(each - slope * ln_n - level)).max()
    return Flops(k=float(np.exp(level)), power=1 + slope, spread=float(departure))


@dataclass(frozen=True, kw_only=True)
class Rate:
    """FLOPs that a GPU-hour held in the runs."""

    flops_per_gpu_hour: float
    """Median of the costliest quarter of the runs: small models leave a GPU idle, and plans are about large ones."""
    low: float
    high: float
    """Least and most among those."""
    n_runs: int

    def flops(self, gpu_hours: float) -> float:
        return gpu_hours * self.flops_per_gpu_hour


def rate(flops: Vector, gpu_seconds: Vector) -> Rate | None:
    """From runs' FLOPs and the seconds that they held GPUs (seconds x GPUs); None where no run has both."""
    known = np.isfinite(flops) & np.isfinite(gpu_seconds) & (flops > 0) & (gpu_seconds > 0)
    if not known.any():
        return None
    flops, hours = flops[known], gpu_seconds[known] / 3600
    large = np.argsort(-flops, kind="stable")[: max(1, -(-len(flops) // 4))]
    rates = flops[large] / hours[large]
    return Rate(
        flops_per_gpu_hour=float(np.median(rates)),
        low=float(rates.min()),
        high=float(rates.max()),
        n_runs=len(large),
    )
