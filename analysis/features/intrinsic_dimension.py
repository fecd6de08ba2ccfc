"""How many directions a task's images vary in, seen from each image's two nearest neighbours."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from analysis.features.feature import Feature, NoFeature, TaskData, choice
from analysis.features.pixels import cells

IMAGES = 1000
"""Images looked at, at most: the estimate depends on how densely they lie, so that tasks are compared at like numbers;
with so many its own standard error is 3 %."""
SIDE = 32
"""Larger images are averaged to so many pixels a side."""
FEWEST = 40
"""Distinct images below which the standard error passes 22 %."""
DISCARDED = 0.5
"""Share of the largest ratios that are left out, as in the paper: they are those that leave the model first."""
ROUNDING = 1e-9
"""Below it the logarithm of a ratio of distances is that of 1."""
CANDIDATES = 3
"""Neighbours by fast distances, of which the two nearest are found by exact ones."""


def compute(task: TaskData) -> float:
    if not task.images.size:
        raise NoFeature("no training images")
    images = cells(task.images[choice(task.images, IMAGES)], SIDE)
    # Sorted by content, and without the copies, whose distance of 0 would make every ratio infinite.
    points = np.unique(images.reshape(len(images), -1), axis=0)
    if len(points) < FEWEST:
        raise NoFeature(f"fewer than {FEWEST} distinct images among the {len(images)} looked at")
    return dimension(points)


def dimension(points: NDArray[np.float64]) -> float:
    """TwoNN of (n, d) distinct points. Raises NoFeature where the two nearest neighbours of most are equally far.

    ln(r2 / r1) is exponential with the dimension as its rate. Of n such numbers the smallest k are kept and the rest
    are known to be larger: (k - 1) / (sum of the smallest + (n - k) x the k-th) is then unbiased (Epstein and Sobel
    1953), where the paper draws a line through the same k by least squares.
    """
    nearest = _two_nearest(points)
    logs = np.sort(np.log(nearest[:, 1] / nearest[:, 0]))
    n, kept = len(logs), int(len(logs) * (1 - DISCARDED))
    total = logs[:kept].sum() + (n - kept) * logs[kept - 1]
    if logs[kept - 1] < ROUNDING:
        raise NoFeature("no second neighbour lies further than the first, for half of the images: as on a lattice")
    return float((kept - 1) / total)


def _two_nearest(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n, 2) distances."""
    squares = (points**2).sum(axis=1)
    rough = squares[:, None] + squares - 2 * points @ points.T
    np.fill_diagonal(rough, np.inf)
    near = np.argpartition(rough, CANDIDATES, axis=1)[:, :CANDIDATES]
    exact = np.linalg.norm(points[near] - points[:, None], axis=2)
    return np.sort(exact, axis=1)[:, :2]


INTRINSIC_DIMENSION = Feature(
    name="intrinsic_dimension",
    meaning="TwoNN dimension of at most 1,000 training images as pixels, averaged to 32 a side where larger, copies "
    "left out; above about 10 such samples give too little",
    unit="dimensions",
    low=0,
    high=float("inf"),
    source="Facco et al. 2017 (doi:10.1038/s41598-017-11873-y), by likelihood as Denti et al. 2022 "
    "(doi:10.1038/s41598-022-20991-1)",
    compute=compute,
)
