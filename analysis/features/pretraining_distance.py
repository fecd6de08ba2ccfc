"""How unlike the pretraining images a task's images are."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist, pdist

from analysis.features.feature import Feature, NoFeature, TaskData, choice
from analysis.features.pixels import cells

IMAGES = 1000
"""Images of either kind looked at, at most."""
SIDE = 8
"""Cells of the grid a side."""


def compute(task: TaskData) -> float:
    if task.pretraining is None:
        raise NoFeature("no pretraining images are known")
    if min(len(task.images), len(task.pretraining)) < 2:
        raise NoFeature("fewer than two images of the task, or of those pretrained on")
    counts = {task.images.shape[1], task.pretraining.shape[1]}
    if len(counts - {1}) > 1:
        raise NoFeature(f"no common channels: {task.images.shape[1]} here, {task.pretraining.shape[1]} pretrained on")
    side = min(SIDE, *task.images.shape[2:], *task.pretraining.shape[2:])
    return inhomogeneity(*(_description(images, side, max(counts)) for images in (task.images, task.pretraining)))


def _description(images: NDArray[np.uint8], side: int, channels: int) -> NDArray[np.float64]:
    """(n, 2 channels side^2): mean and standard deviation of the pixels of each cell; grey is repeated."""
    chosen = images[choice(images, IMAGES)]
    mean, square = cells(chosen, side), cells(chosen, side, power=2)
    both = np.stack([mean, np.sqrt(np.maximum(square - mean**2, 0))], axis=1)
    return np.broadcast_to(both, (len(both), 2, channels, *both.shape[3:])).reshape(len(both), -1)


def inhomogeneity(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    """Energy coefficient (2 E|X-Y| - E|X-X'| - E|Y-Y'|) / 2 E|X-Y| of two samples of at least two points.

    Means within a sample leave out a point's distance to itself, so that the numerator is unbiased and small samples
    do not look further apart than large ones - as Frechet's distance of two Gaussians, which also has to estimate
    covariances, would. What is below 0 by chance is 0.
    """
    between = 2 * cdist(x, y).mean()
    if between == 0:
        return 0.0
    return float(np.clip((between - pdist(x).mean() - pdist(y).mean()) / between, 0, 1))


PRETRAINING_DISTANCE = Feature(
    name="pretraining_distance",
    meaning="energy coefficient of the task's images and the pretraining images, each as mean and standard deviation "
    "of 8 x 8 cells; 0 is the same distribution, 1 two single images that differ",
    unit="coefficient",
    low=0,
    high=1,
    source="Szekely and Rizzo 2013 (doi:10.1016/j.jspi.2013.03.018)",
    compute=compute,
)
