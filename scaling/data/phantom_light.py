"""The physics of synthetic images that are made with visible light. Row 4, beside `phantom_physics.py`.

Colour is what tissue leaves of white light: reflected or passed on, less what its pigments absorb. Coefficients in red,
green and blue light are read off published spectra and rounded.
"""

from __future__ import annotations

import numpy as np

from scaling.data.phantom_anatomy import (
    F32,
    Anatomy,
    Number,
    attenuate,
    cos_sin,
    over_image,
    ramp,
)

Colour = tuple[float, float, float]
"""Red, green, blue."""


BLOOD: Colour = (0.25, 1.3, 1.1)
"""Haemoglobin takes green and blue and leaves red (Prahl, omlc.org/spectra/hemoglobin)."""
MELANIN: Colour = (0.55, 0.85, 1.25)
"""Falls with wavelength as its power -3 or so (Jacques 1998, omlc.org/news/jan98/skinoptics.html)."""
XANTHOPHYLL: Colour = (0.05, 0.25, 1.0)


def lit(pigments: list[tuple[F32, Colour]], light: F32, colour: Colour, grain: F32) -> F32:
    """(n, 3, size, size) of 0..1: white light of `colour`, less what pigments of such densities absorb, and noise."""
    n, size = grain.shape[0], grain.shape[-1]
    channels = np.empty((n, 3, size, size), np.float32)
    for channel, strength in enumerate(colour):
        density = pigments[0][0] * np.float32(pigments[0][1][channel])
        for pigment, absorbs in pigments[1:]:
            density += pigment * np.float32(absorbs[channel])
        seen = attenuate(density)
        seen *= light
        seen *= np.float32(strength)
        np.add(seen, grain, out=channels[:, channel])
    return ramp(channels)


def wave(phase: F32) -> F32:
    """0..1, a parabola per unit of phase where a sine would need its library; in place."""
    phase -= np.floor(phase)
    phase *= 1 - phase
    phase *= 4
    return phase


def frame(body: Anatomy, x: Number, y: Number, angle: Number) -> tuple[F32, F32]:
    """(n, size, size) each: how far every pixel lies from the body's point (x, y) along and across `angle`."""
    dx, dy = body.offsets(x, y)
    cos, sin = cos_sin(angle + body.tilt)
    along, across = dx * over_image(cos) + dy * over_image(sin), dy * over_image(cos) - dx * over_image(sin)
    scale = over_image(1 / body.zoom)
    along *= scale
    across *= scale
    return along, across


def disc(body: Anatomy, centre: tuple[Number, Number], radius: Number, edge: float) -> F32:
    """(n, size, size): 1 within a circle of the image, whatever the body's outlines do."""
    dx, dy = body.offsets(*centre)
    square = dx * dx + dy * dy
    square /= over_image(np.asarray(radius * np.float32(1.0)) ** 2)
    np.subtract(1, square, out=square)
    square *= np.float32(body.size / (4 * edge))
    square += np.float32(0.5)
    return ramp(square)


def glow(body: Anatomy, centre: tuple[Number, Number], radius: Number) -> F32:
    """(n, size, size): 1 at the centre, falling smoothly to 0 at `radius`."""
    dx, dy = body.offsets(*centre)
    square = dx * dx + dy * dy
    square /= over_image(np.asarray(radius * np.float32(1.0)) ** 2)
    np.subtract(1, square, out=square)
    ramp(square)
    square *= square
    return square


def size_of(body: Anatomy) -> float:
    """Pixels of a soft transition: a twelfth of the image."""
    return body.size / 12
