"""Images as few numbers: what several features start from."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

CHUNK = 64
"""Images averaged at once; large images are held as numbers a few at a time."""
LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in grey (ITU-R BT.601)."""


def cells(images: NDArray[np.uint8], side: int, *, power: int = 1) -> NDArray[np.float64]:
    """(n, channels, <= side, <= side) means of pixels, 0-1, or of their squares, over the cells of a grid.

    An image of no more pixels a side keeps its own.
    """
    rows, columns = (_averaging(size, side) for size in images.shape[2:])
    grid = np.empty((*images.shape[:2], len(rows), len(columns)))
    for start in range(0, len(images), CHUNK):
        part = images[start : start + CHUNK] / 255
        grid[start : start + CHUNK] = rows @ (part if power == 1 else part**power) @ columns.T
    return grid


def _averaging(size: int, side: int) -> NDArray[np.float64]:
    """(cells, size) weights of the pixels in each cell; cells differ by a pixel at most."""
    n = min(size, side)
    cell = np.searchsorted(np.arange(n) * size // n, np.arange(size), side="right") - 1
    member = cell == np.arange(n)[:, None]
    return member / member.sum(axis=1, keepdims=True)


def grey(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(n, height, width): luminance of three channels, the mean of any other number of them."""
    if images.shape[1] == 1:
        return images[:, 0]
    weights = LUMA if images.shape[1] == 3 else np.full(images.shape[1], 1 / images.shape[1])
    return np.tensordot(images, weights, axes=(1, 0)).round().astype(np.uint8)
