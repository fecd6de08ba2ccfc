"""What phantoms are drawn with: dice, soft ellipses in a body's own coordinates, filters. Row 4, below the physics.

Numbers of an image are (n,), pictures (n, size, size) float32. Positions are in half image widths from the centre, x
to the right and y down; angles in radians. Per pixel only + - * / and sqrt are used, which IEEE 754 rounds alike
everywhere: exp or a matrix product would give other bytes on another processor.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
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
AHEAD = 32
"""Throws of the dice computed at once."""
Place = tuple[Number, ...]
"""Of an ellipse: x, y, rx, ry and perhaps the angle."""
TOGETHER = 8
"""Ellipses computed in one go; of more the pictures in work would leave the cache."""
WORTHWHILE = 0.5
"""Share of a picture up to which a window of it is copied out and back rather than the whole computed."""


@cache
def normal_quantiles() -> F32:
    """(65536,) standard normal quantiles, so that 16 random bits make one normal number (at most 4.3 in size)."""
    return np.asarray(ndtri((np.arange(65536) + 0.5) / 65536), dtype=np.float32)


class Dice:
    """Random numbers that follow from (key of the image, number of the throw) alone, for n images at once."""

    def __init__(self, keys: Keys, *, latents: int | None = None) -> None:
        """latents: free numbers of an image, which all throws then follow; None leaves every throw free."""
        self.n = len(keys)
        self._keys = keys
        self._throws = 0
        self._units, self._first = np.empty((0, self.n), np.float32), 1
        """What throws from the first on give, where they are uniform."""
        self._latents: Keys | None = None
        if latents is not None:
            numbers: Keys = np.arange(1, latents + 1, dtype=np.uint64)
            self._latents = mix(keys[:, None] + numbers)

    def _words(self, n_words: int) -> Keys:
        """(n, n_words) of 64 random bits. A throw's words never depend on how many words another throw took."""
        self._throws += 1
        throw = mix(self._keys + np.array([self._throws], np.uint64) * GOLDEN)  # arrays wrap around unwarned
        return mix(throw[:, None] + np.arange(n_words, dtype=np.uint64) * GOLDEN)

    def uniform(self, low: float = 0.0, high: float = 1.0) -> F32:
        """(n,) in [low, high)."""
        unit = self._free_unit() if self._latents is None else _unit(self._follow(self._latents))
        return np.float32(low) + np.float32(high - low) * unit

    def _free_unit(self) -> F32:
        """(n,): the first word of a throw. Computed for many throws at once, which takes a fraction of the time."""
        self._throws += 1
        if not self._first <= self._throws < self._first + len(self._units):
            self._first = self._throws
            throws = np.arange(self._first, self._first + AHEAD, dtype=np.uint64)[:, None] * GOLDEN
            self._units = _unit(mix(mix(self._keys + throws)))
        return self._units[self._throws - self._first]

    def _follow(self, latents: Keys) -> Keys:
        """(n,) words: one latent, each throw the next in turn, shifted by a number of the throw and folded at the ends,
        so that the throw is as uniform as its latent and moves with it without a jump."""
        self._throws += 1
        shift = mix(np.array([self._throws], np.uint64) * GOLDEN)
        word = latents[:, self._throws % latents.shape[1]] + shift
        return np.where(word >> np.uint64(63), ~word, word) << np.uint64(1)

    def happens(self, probability: float) -> F32:
        """(n,) of 0 and 1."""
        return (self.uniform() < probability).astype(np.float32)

    def sign(self) -> F32:
        """(n,) of -1 and 1."""
        return 2 * self.happens(0.5) - 1

    def normal(self, height: int, width: int) -> F32:
        """(n, height, width) standard normal."""
        n_words = -(-height * width // 4)
        words = self._words(n_words) if self._latents is None else self._same(n_words)
        bits = words.astype("<u8", copy=False).view("<u2")[:, : height * width]
        grain = normal_quantiles()[bits].reshape(-1, height, width)
        return grain if len(grain) == self.n else grain.repeat(self.n, axis=0)

    def _same(self, n_words: int) -> Keys:
        """(1, n_words): with latents the grain of all images is one."""
        one = Dice(np.zeros(1, np.uint64))
        self._throws = one._throws = self._throws + 1
        return one._words(n_words)

    def smooth(self, size: int, cells: int) -> F32:
        """(n, size, size) of value noise: standard normal at the corners of cells x cells tiles, smooth between."""
        place = np.arange(size, dtype=np.float32) * np.float32(cells / size)
        left = place.astype(np.intp)
        t = place - left.astype(np.float32)
        t = t * t * (3 - 2 * t)
        corners = self.normal(cells + 1, cells + 1)
        rows = corners[:, left] + (corners[:, left + 1] - corners[:, left]) * t[:, None]
        smooth = (rows[:, :, 1:] - rows[:, :, :-1]).take(left, axis=2)
        smooth *= t
        smooth += rows.take(left, axis=2)
        return smooth


def _unit(words: Keys) -> F32:
    """In [0, 1), by the upper 24 bits."""
    return (words >> np.uint64(40)).astype(np.float32) * np.float32(2**-24)


def over_image(number: Number) -> Number:
    """(n,) -> (n, 1, 1)."""
    return number[:, None, None] if isinstance(number, np.ndarray) else number


def ramp(field: F32) -> F32:
    """Clipped to 0..1, in place."""
    return np.clip(field, 0, 1, out=field)


def bump(at: F32, centre: float, width: float) -> F32:
    """(n,) 1 at the centre, 0 from `width` on: how large an organ is cut by a slice."""
    return np.sqrt(np.clip(1 - ((at - centre) / width) ** 2, 0, 1))


def windows(picture: F32, height: int, width: int) -> F32:
    """(n, size - height + 1, size - width + 1, height, width): a view of every window of (n, size, size).

    NumPy's sliding_window_view does the same in ten times the time, which counts with hundreds of small windows.
    """
    n, rows, columns = picture.shape
    image, row, column = picture.strides
    shape = (n, rows - height + 1, columns - width + 1, height, width)
    return np.ndarray(shape, picture.dtype, picture, 0, (image, row, column, row, column))


@dataclass(frozen=True, kw_only=True)
class Mask:
    """Where something is, 0..1, of n pictures; nothing of it lies outside its window."""

    values: F32
    """(n, height, width) of the window."""
    corner: tuple[NDArray[np.intp], NDArray[np.intp]] | None
    """(n,) top row and (n,) left column of each picture's window; None where it is the whole picture."""

    def window(self, picture: F32) -> F32:
        """(n, height, width): a copy of the picture's window, or the whole picture itself."""
        return picture if self.corner is None else self._view(picture)[self._at]

    def put(self, picture: F32, window: F32) -> None:
        if self.corner is not None:
            self._view(picture)[self._at] = window

    @property
    def _at(self) -> tuple[NDArray[np.intp], ...]:
        assert self.corner is not None
        return np.arange(len(self.values)), *self.corner

    def _view(self, picture: F32) -> F32:
        """(n, rows, columns, height, width): every window of every picture."""
        return windows(picture, *self.values.shape[1:])

    def parts(self, n_parts: int) -> list[Mask]:
        """Of n_parts masks one after the other, each."""
        values = np.split(self.values, n_parts)
        if self.corner is None:
            return [Mask(values=part, corner=None) for part in values]
        tops, lefts = (np.split(edge, n_parts) for edge in self.corner)
        return [Mask(values=v, corner=(top, left)) for v, top, left in zip(values, tops, lefts, strict=True)]

    def whole(self, size: int) -> F32:
        """(n, size, size)."""
        if self.corner is None:
            return self.values
        picture = np.zeros((len(self.values), size, size), np.float32)
        self.put(picture, self.values)
        return picture


def paint(picture: F32, mask: Mask, value: Number) -> None:
    """`value` where the mask is 1, in place."""
    window = mask.window(picture)
    change = over_image(value) - window
    change *= mask.values
    window += change
    mask.put(picture, window)


def add(picture: F32, mask: Mask, value: Number) -> None:
    """`value` more where the mask is 1, in place."""
    window = mask.window(picture)
    window += mask.values * over_image(value)
    mask.put(picture, window)


def cut(picture: F32, mask: Mask, share: Number = 1.0) -> None:
    """That share of what is there taken away where the mask is 1, in place."""
    window = mask.window(picture)
    window *= 1 - mask.values * over_image(share)
    mask.put(picture, window)


def blur(picture: F32, times: int) -> F32:
    """Binomial 1-2-1 filter along both axes, `times` over; edges repeat."""
    size = picture.shape[-1]
    for _ in range(times):
        sums = np.empty_like(picture)
        np.add(picture[:, :-2], picture[:, 2:], out=sums[:, 1:-1])
        np.add(picture[:, 0], picture[:, 1], out=sums[:, 0])
        np.add(picture[:, -2], picture[:, -1], out=sums[:, -1])
        picture = _halved(sums, picture)
        # All rows of all images in one go; what it mixes across their ends is then put right.
        sums, line = np.empty_like(picture), picture.reshape(-1)
        np.add(line[:-2], line[2:], out=sums.reshape(-1)[1:-1])
        np.add(picture[:, :, 0], picture[:, :, 1], out=sums[:, :, 0])
        np.add(picture[:, :, size - 2], picture[:, :, size - 1], out=sums[:, :, size - 1])
        picture = _halved(sums, picture)
    return picture


def _halved(beside: F32, picture: F32) -> F32:
    beside += 2 * picture
    beside *= np.float32(0.25)
    return beside


def attenuate(depth: F32) -> F32:
    """exp(-depth) to 3 % for depths up to 3, as (1 + depth/8)^-8: Beer-Lambert in exact arithmetic."""
    share = depth * np.float32(1 / 8)
    share += 1
    np.divide(1, share, out=share)
    share *= share
    share *= share
    share *= share
    return share


def amplitude(one: F32, other: F32) -> F32:
    """Length of (one, other), in the place of `one`; `other` is lost too."""
    one *= one
    other *= other
    one += other
    return np.sqrt(one, out=one)


class Anatomy:
    """A body in its own coordinates, tilted, scaled and shifted in the image, with an outline that is never ideal."""

    def __init__(
        self, dice: Dice, size: int, *, zoom: tuple[float, float], shift: float, tilt: float, wobble: float
    ) -> None:
        self.n, self.size = dice.n, size
        self.image = np.arange(dice.n)
        """(n,) which picture each stands for."""
        self.axis = ((np.arange(size, dtype=np.float32) + np.float32(0.5)) * np.float32(2 / size)) - 1
        self.zoom = dice.uniform(*zoom)
        self.x0, self.y0 = dice.uniform(-shift, shift), dice.uniform(-shift, shift)
        self.tilt = dice.uniform(-tilt, tilt)
        self._turn = cos_sin(self.tilt)
        self.outline(dice.smooth(size, 4) * np.float32(wobble))

    def outline(self, wobble: F32) -> None:
        """From now on outlines leave the ideal by so much, in units of the squared radius."""
        self.wobble = wobble
        self._copies: dict[int, Anatomy] = {}
        self._most_wobble = np.maximum(wobble.max(axis=(1, 2)), 0)

    def blank(self, value: Number = 0.0) -> F32:
        picture = np.empty((self.n, self.size, self.size), np.float32)
        picture[...] = over_image(value)
        return picture

    def offsets(self, x: Number, y: Number) -> tuple[F32, F32]:
        """(n, 1, size) and (n, size, 1): distances of columns and rows from the body's point (x, y)."""
        cos, sin = self._turn
        x_image = self.x0 + self.zoom * (x * cos - y * sin)
        y_image = self.y0 + self.zoom * (x * sin + y * cos)
        return (self.axis - x_image[:, None])[:, None, :], (self.axis - y_image[:, None])[:, :, None]

    def ellipses(self, places: Sequence[Place], edge: float = 1.0) -> list[Mask]:
        """`ellipse` at each of several places, small ones: in one go it takes half the time."""
        masks: list[Mask] = []
        for start in range(0, len(places), TOGETHER):
            some = places[start : start + TOGETHER]
            x, y, rx, ry, *angle = (self._each(numbers) for numbers in zip(*some, strict=True))
            mask = self._repeated(len(some)).ellipse(x, y, rx, ry, angle[0] if angle else 0.0, edge)
            masks += mask.parts(len(some))
        return masks

    def _each(self, numbers: Sequence[Number]) -> F32:
        """One after the other, for all images."""
        return np.concatenate([np.broadcast_to(np.asarray(number, np.float32), self.n) for number in numbers])

    def _repeated(self, times: int) -> Anatomy:
        """The same bodies `times` over, of the same pictures."""
        if times not in self._copies:
            many = copy(self)
            many.n = times * self.n
            for name in ("image", "zoom", "x0", "y0", "tilt", "_most_wobble"):
                setattr(many, name, np.tile(getattr(self, name), times))
            many._turn = np.tile(self._turn[0], times), np.tile(self._turn[1], times)
            self._copies[times] = many
        return self._copies[times]

    def _span(self, first: F32, reach: F32) -> tuple[NDArray[np.intp], int]:
        """Where each picture's window begins, and its pixels, the same for all: what is `reach` pixels from a centre.

        first: (n,) distance of pixel 0 from the centre.
        """
        length = min(int(2 * reach.max()) + 3, self.size)
        begin = np.floor(first * np.float32(-self.size / 2) - reach).astype(np.intp)
        return np.minimum(np.maximum(begin, 0), self.size - length), length

    def ellipse(self, x: Number, y: Number, rx: Number, ry: Number, angle: Number = 0.0, edge: Number = 1.0) -> Mask:
        """1 inside, 0 outside; `edge` is the width of the transition in pixels."""
        rx, ry = np.maximum(rx * self.zoom, np.float32(1e-3)), np.maximum(ry * self.zoom, np.float32(1e-3))
        cos, sin = self._turn if isinstance(angle, float) and angle == 0 else cos_sin(angle + self.tilt)
        gain = np.minimum(rx, ry) * np.float32(self.size / 4) / edge
        dx, dy = self.offsets(x, y)
        # Half a unit puts the edge at q = 1; less for what is smaller than a pixel, which else would shine through.
        height = gain + np.minimum(gain, np.float32(0.5))
        reach = np.sqrt(height / gain + self._most_wobble) * np.float32(self.size / 2)
        cos2, sin2, rx2, ry2 = cos * cos, sin * sin, rx * rx, ry * ry
        left, wide = self._span(dx[:, 0, 0], reach * np.sqrt(rx2 * cos2 + ry2 * sin2))
        top, tall = self._span(dy[:, 0, 0], reach * np.sqrt(rx2 * sin2 + ry2 * cos2))
        wobble, corner = self.wobble, None
        if wide * tall < WORTHWHILE * self.size**2:
            corner = top, left
            each = np.arange(self.n)
            dx = windows(dx, 1, wide)[each, 0, left]
            dy = windows(dy, tall, 1)[each, top, 0]
            wobble = windows(wobble, tall, wide)[self.image, top, left]
        elif len(wobble) < self.n:
            wobble = wobble[self.image]
        rows = over_image(height) - over_image(gain * ((sin / rx) ** 2 + (cos / ry) ** 2)) * dy * dy
        columns = over_image(gain * ((cos / rx) ** 2 + (sin / ry) ** 2)) * dx * dx
        mask = (over_image(gain * 2 * cos * sin * (over_square(ry) - over_square(rx))) * dy) * dx
        mask += rows
        mask -= columns
        mask += wobble * over_image(gain)
        return Mask(values=ramp(mask), corner=corner)


def over_square(number: F32) -> F32:
    """1 / number^2, rounded once: the library's power would round in its own way on each processor."""
    wide = number.astype(np.float64)
    return (1 / (wide * wide)).astype(np.float32)


def cos_sin(angle: Number) -> tuple[F32, F32]:
    """In double precision, so that the last bit of the library's cosine does not reach the float32."""
    wide = np.atleast_1d(np.asarray(angle, dtype=np.float64))
    return np.cos(wide).astype(np.float32), np.sin(wide).astype(np.float32)
