"""What phantoms are drawn with: dice, soft ellipses in a body's own coordinates, filters. Row 4, below the physics.

Numbers of an image are (n,), pictures (n, size, size) float32. Positions are in half image widths from the centre, x
to the right and y down; angles in radians. Per pixel only + - * / and sqrt are used, which IEEE 754 rounds alike
everywhere: exp or a matrix product would give other bytes on another processor.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from scaling.data.splitmix import GOLDEN, Keys, mix

F32 = NDArray[Any]
"""Always float32; numpy's types lose it in arithmetic with plain numbers, numpy itself does not."""
Number = float | F32
"""One for all images, or (n,)."""


@cache
def normal_quantiles() -> F32:
    """(65536,) standard normal quantiles, so that 16 random bits make one normal number (at most 4.3 in size)."""
    return np.asarray(ndtri((np.arange(65536) + 0.5) / 65536), dtype=np.float32)


class Dice:
    """Random numbers that follow from (key of the image, number of the throw) alone, for n images at once."""

    def __init__(self, keys: Keys) -> None:
        self.n = len(keys)
        self._keys = keys
        self._throws = 0

    def _words(self, n_words: int) -> Keys:
        """(n, n_words) of 64 random bits. A throw's words never depend on how many words another throw took."""
        self._throws += 1
        throw = mix(self._keys + np.array([self._throws], np.uint64) * GOLDEN)  # arrays wrap around unwarned
        return mix(throw[:, None] + np.arange(n_words, dtype=np.uint64) * GOLDEN)

    def uniform(self, low: float = 0.0, high: float = 1.0) -> F32:
        """(n,) in [low, high)."""
        unit = (self._words(1)[:, 0] >> np.uint64(40)).astype(np.float32) * np.float32(2**-24)
        return np.float32(low) + np.float32(high - low) * unit

    def happens(self, probability: float) -> F32:
        """(n,) of 0 and 1."""
        return (self.uniform() < probability).astype(np.float32)

    def sign(self) -> F32:
        """(n,) of -1 and 1."""
        return 2 * self.happens(0.5) - 1

    def normal(self, height: int, width: int) -> F32:
        """(n, height, width) standard normal."""
        words = self._words(-(-height * width // 4)).astype("<u8", copy=False)
        bits = words.view("<u2")[:, : height * width]
        return normal_quantiles()[bits].reshape(self.n, height, width)

    def smooth(self, size: int, cells: int) -> F32:
        """(n, size, size) of value noise: standard normal at the corners of cells x cells tiles, smooth between."""
        place = np.arange(size, dtype=np.float32) * np.float32(cells / size)
        left = place.astype(np.intp)
        t = place - left.astype(np.float32)
        t = t * t * (3 - 2 * t)
        corners = self.normal(cells + 1, cells + 1)
        rows = corners[:, left] + (corners[:, left + 1] - corners[:, left]) * t[:, None]
        columns = np.ascontiguousarray(rows.swapaxes(1, 2))
        smooth = columns[:, left] + (columns[:, left + 1] - columns[:, left]) * t[:, None]
        return np.ascontiguousarray(smooth.swapaxes(1, 2))


def over_image(number: Number) -> Number:
    """(n,) -> (n, 1, 1)."""
    return number[:, None, None] if isinstance(number, np.ndarray) else number


def ramp(field: F32) -> F32:
    """Clipped to 0..1, in place."""
    return np.clip(field, 0, 1, out=field)


def bump(at: F32, centre: float, width: float) -> F32:
    """(n,) 1 at the centre, 0 from `width` on: how large an organ is cut by a slice."""
    return np.sqrt(np.clip(1 - ((at - centre) / width) ** 2, 0, 1))


def paint(picture: F32, mask: F32, value: Number) -> None:
    """`value` where the mask is 1, in place."""
    change = over_image(value) - picture
    change *= mask
    picture += change


def blur(picture: F32, times: int) -> F32:
    """Binomial 1-2-1 filter along both axes, `times` over; edges repeat."""
    for _ in range(times):
        for axis in (1, 2):
            wide = np.pad(picture, [(0, 0) if a != axis else (1, 1) for a in range(3)], mode="edge")
            before, after = (wide[:, :-2], wide[:, 2:]) if axis == 1 else (wide[:, :, :-2], wide[:, :, 2:])
            picture = (before + after + 2 * picture) * np.float32(0.25)
    return picture


def attenuate(depth: F32) -> F32:
    """exp(-depth) to 3 % for depths up to 3, as (1 + depth/8)^-8: Beer-Lambert in exact arithmetic."""
    share = 1 / (1 + depth * np.float32(1 / 8))
    share *= share
    share *= share
    return share * share


class Anatomy:
    """A body in its own coordinates, tilted, scaled and shifted in the image, with an outline that is never ideal."""

    def __init__(
        self, dice: Dice, size: int, *, zoom: tuple[float, float], shift: float, tilt: float, wobble: float
    ) -> None:
        self.n, self.size = dice.n, size
        self.axis = ((np.arange(size, dtype=np.float32) + np.float32(0.5)) * np.float32(2 / size)) - 1
        self.zoom = dice.uniform(*zoom)
        self.x0, self.y0 = dice.uniform(-shift, shift), dice.uniform(-shift, shift)
        self.tilt = dice.uniform(-tilt, tilt)
        self.wobble = dice.smooth(size, 4) * np.float32(wobble)

    def blank(self, value: Number = 0.0) -> F32:
        return np.zeros((self.n, self.size, self.size), np.float32) + over_image(value)

    def offsets(self, x: Number, y: Number) -> tuple[F32, F32]:
        """(n, 1, size) and (n, size, 1): distances of columns and rows from the body's point (x, y)."""
        cos, sin = cos_sin(self.tilt)
        x_image = self.x0 + self.zoom * (x * cos - y * sin)
        y_image = self.y0 + self.zoom * (x * sin + y * cos)
        return (self.axis - x_image[:, None])[:, None, :], (self.axis - y_image[:, None])[:, :, None]

    def ellipse(self, x: Number, y: Number, rx: Number, ry: Number, angle: Number = 0.0, edge: Number = 1.0) -> F32:
        """1 inside, 0 outside; `edge` is the width of the transition in pixels."""
        rx, ry = np.maximum(rx * self.zoom, np.float32(1e-3)), np.maximum(ry * self.zoom, np.float32(1e-3))
        cos, sin = cos_sin(angle + self.tilt)
        gain = np.minimum(rx, ry) * np.float32(self.size / 4) / edge
        dx, dy = self.offsets(x, y)
        # Half a unit puts the edge at q = 1; less for what is smaller than a pixel, which else would shine through.
        height = gain + np.minimum(gain, np.float32(0.5))
        rows = over_image(height) - over_image(gain * ((sin / rx) ** 2 + (cos / ry) ** 2)) * dy * dy
        columns = over_image(gain * ((cos / rx) ** 2 + (sin / ry) ** 2)) * dx * dx
        mask = (over_image(gain * 2 * cos * sin * (ry**-2 - rx**-2)) * dy) * dx
        mask += rows
        mask -= columns
        mask += self.wobble * over_image(gain)
        return ramp(mask)


def cos_sin(angle: Number) -> tuple[F32, F32]:
    """In double precision, so that the last bit of the library's cosine does not reach the float32."""
    wide = np.atleast_1d(np.asarray(angle, dtype=np.float64))
    return np.cos(wide).astype(np.float32), np.sin(wide).astype(np.float32)
