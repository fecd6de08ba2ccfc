"""Pixel arithmetic that clinical readers share: windows, look-up tables, negatives, square pixels. Row of data/."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Window = tuple[float, float]
"""Values that become 0 and 255."""
SAMPLED = 2_000_000
"""Voxels that percentiles are taken over, evenly spread; more would change a window by less than its noise."""
MAX_SIDE = 8192
"""Of an image whose pixels are made square."""


def linear_window(center: float, width: float, *, exact: bool = False) -> Window | None:
    """Ends of a DICOM window, LINEAR or LINEAR_EXACT (PS3.3 C.11.2.1.2); None where it has no width."""
    if exact:
        return (center - width / 2, center + width / 2) if width > 0 else None
    return (center - 0.5 - (width - 1) / 2, center - 0.5 + (width - 1) / 2) if width > 1 else None


def sigmoid(values: NDArray, center: float, width: float) -> NDArray[np.uint8]:
    """8 bits by DICOM's SIGMOID (PS3.3 C.11.2.1.3.1): 255 / (1 + exp(-4 (x - center) / width)), width > 0."""
    steep = np.clip(-4.0 * (values.astype(np.float64) - center) / width, -60, 60)
    return np.rint(255.0 / (1.0 + np.exp(steep))).astype(np.uint8)


def looked_up(values: NDArray, first: int, table: NDArray) -> NDArray:
    """`table` at values - first; what lies outside takes the nearest end (PS3.3 C.11.1.1)."""
    places = np.clip(values.astype(np.int64) - first, 0, len(table) - 1)
    return table[places]


def to_bytes(values: NDArray, top: int) -> NDArray[np.uint8]:
    """0..top as 0..255, rounded; integers only."""
    if top == 255 and values.dtype == np.uint8:
        return values
    return np.rint(np.clip(values.astype(np.float64), 0, top) * (255.0 / top)).astype(np.uint8)


def percentile_window(values: NDArray, percentiles: tuple[float, float]) -> Window | None:
    """Of finite values that are not zero, which in most volumes is what lies outside the body.

    From the lowest to the highest value where those leave no width, as in a map of 0 and 1; None where all are one.
    """
    flat = values.ravel(order="K")
    sample = flat[:: max(1, flat.size // SAMPLED)]
    sample = sample[np.isfinite(sample)]
    inside = sample[sample != 0]
    if not inside.size:
        return None
    low, high = np.percentile(inside, percentiles)
    if not high > low:
        low, high = sample.min(), sample.max()
    return (float(low), float(high)) if high > low else None


def negative(values: NDArray, window: Window | None) -> NDArray:
    """Light for dark within the same window, by default from the lowest to the highest value."""
    if values.dtype == np.uint8 and window in (None, (0.0, 255.0)):
        return np.uint8(255) - values
    low, high = window or (float(values.min()), float(values.max()))
    flipped = values.astype(np.float32 if fine(values) else np.float64)
    np.subtract(low + high, flipped, out=flipped)
    return flipped


def fine(values: NDArray) -> bool:
    """Whether float32 tells all of them apart."""
    return values.dtype.itemsize <= 2 or values.dtype == np.float32


def rescaled(values: NDArray, slope: float, intercept: float) -> NDArray:
    """values x slope + intercept in the shortest type that keeps them apart; untouched where that changes nothing."""
    if (slope, intercept) == (1.0, 0.0):
        return values
    scaled = values.astype(np.float32 if fine(values) else np.float64)
    np.multiply(scaled, slope, out=scaled)
    np.add(scaled, intercept, out=scaled)
    return scaled


def square_pixels(pixels: NDArray, height: float, width: float) -> NDArray:
    """(h, w) or (h, w, 3) of pixels `height` x `width` in any unit, resampled so that shapes keep their proportions.

    The coarser side is drawn out to the finer spacing, so nothing is lost; below 1 % of difference nothing is done.
    """
    from PIL import Image

    if not (height > 0 and width > 0) or abs(height / width - 1) < 0.01:
        return pixels
    fine = min(height, width)
    tall, wide = pixels.shape[0] * height / fine, pixels.shape[1] * width / fine
    shrink = min(1.0, MAX_SIDE / max(tall, wide))
    size = max(1, round(wide * shrink)), max(1, round(tall * shrink))
    if pixels.ndim == 3:
        planes = [
            np.asarray(Image.fromarray(np.ascontiguousarray(p)).resize(size, Image.Resampling.BILINEAR))
            for p in np.moveaxis(pixels, 2, 0)
        ]
        return np.stack(planes, axis=2)
    plane = pixels if pixels.dtype == np.uint8 else pixels.astype(np.float32)
    return np.asarray(Image.fromarray(np.ascontiguousarray(plane)).resize(size, Image.Resampling.BILINEAR))
