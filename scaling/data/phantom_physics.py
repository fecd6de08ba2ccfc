"""The physics of CT, MR, X-ray and ultrasound on a random anatomy. Row 4, between `phantom_anatomy.py` and designs.

A drawing takes `Dice`, the image size in pixels and the findings to show, and gives (n, size, size) of 0..1.
"""

from __future__ import annotations

import math
from copy import copy
from dataclasses import dataclass

import numpy as np

from scaling.data.phantom_anatomy import (
    F32,
    Anatomy,
    Dice,
    add,
    amplitude,
    attenuate,
    blur,
    bump,
    cos_sin,
    cut,
    over_image,
    paint,
    ramp,
)


def draw_ct(dice: Dice, size: int, findings: F32) -> F32:
    """Axial slice of the trunk in Hounsfield units, then a display window and noise.

    Densities of tissues and windows as in Bushberg et al., The Essential Physics of Medical Imaging (3rd ed., ch. 10);
    reconstruction correlates the noise of neighbours.

    findings: (n, 2) slice position from 0 (chest) to 1 (pelvis); contrast of a liver lesion, HU, 0 = none.
    """
    level, lesion = findings.T
    body = Anatomy(dice, size, zoom=(0.8, 1.05), shift=0.08, tilt=0.12, wobble=0.06)
    slim = dice.uniform(0.6, 0.74)
    enhanced = dice.happens(0.6) * dice.uniform(0.3, 1.0)
    picture = body.blank(-1000.0)
    paint(picture, body.ellipse(0, 0, 0.9, slim), -100)
    fat = dice.uniform(0.04, 0.16)
    paint(picture, body.ellipse(0, 0, 0.9 - fat, slim - fat), dice.uniform(-60, 40))
    _ct_chest(dice, body, picture, level, enhanced)
    _ct_belly(dice, body, picture, level, enhanced, lesion)
    _ct_bones(dice, body, picture, level, slim)
    noise = blur(dice.normal(size, size), 1)
    noise *= over_image(dice.uniform(20, 70))
    picture += noise
    centre, width = _ct_window(dice)
    picture -= over_image(centre)
    picture /= over_image(width)
    picture += np.float32(0.5)
    return ramp(picture)


def _ct_window(dice: Dice) -> tuple[F32, F32]:
    """Centre and width, HU: mostly soft tissue (40, 400), now and then wide."""
    wide = dice.happens(0.2)
    return dice.uniform(10, 80) - 150 * wide, dice.uniform(280, 480) + 900 * wide


def _ct_chest(dice: Dice, body: Anatomy, picture: F32, level: F32, enhanced: F32) -> None:
    for side in (-1.0, 1.0):
        open_lung = bump(level, 0.05, 0.38) * dice.uniform(0.85, 1.1)
        paint(picture, body.ellipse(side * 0.42, -0.02, 0.31 * open_lung, 0.46 * open_lung), dice.uniform(-880, -700))
    heart = bump(level, 0.2, 0.22) * dice.uniform(0.8, 1.2)
    paint(picture, body.ellipse(0.12, -0.16, 0.33 * heart, 0.26 * heart, 0.5), 40 + 120 * enhanced)


def _ct_belly(dice: Dice, body: Anatomy, picture: F32, level: F32, enhanced: F32, lesion: F32) -> None:
    spleen = bump(level, 0.42, 0.2) * dice.uniform(0.7, 1.3)
    paint(picture, body.ellipse(0.58, 0.12, 0.17 * spleen, 0.26 * spleen, -0.3), 45 + 70 * enhanced)
    stomach = bump(level, 0.42, 0.16) * dice.uniform(0.4, 1.2)
    paint(picture, body.ellipse(0.28, -0.24, 0.24 * stomach, 0.18 * stomach), dice.happens(0.4) * -500 + 20)
    for side in (-1.0, 1.0):
        kidney = bump(level, 0.6, 0.18) * dice.uniform(0.8, 1.1)
        paint(picture, body.ellipse(side * 0.42, 0.2, 0.15 * kidney, 0.18 * kidney, side * 0.4), 35 + 160 * enhanced)
    places, filled = [], []
    for _ in range(4):
        gut = bump(level, 0.8, 0.3) * dice.uniform(0.05, 0.19)
        places.append((dice.uniform(-0.5, 0.5), dice.uniform(-0.4, 0.05), gut, gut))
        filled.append(30 - dice.happens(0.4) * dice.uniform(200, 900))
    for mask, density in zip(body.ellipses(places), filled, strict=True):
        paint(picture, mask, density)
    liver = bump(level, 0.45, 0.26) * dice.uniform(0.85, 1.1)
    x, y = dice.uniform(-0.44, -0.34), dice.uniform(-0.1, 0.0)
    paint(picture, body.ellipse(x, y, 0.44 * liver, 0.42 * liver, 0.4), 60 + 50 * enhanced)
    radius = dice.uniform(0.08, 0.17)
    x, y = x + dice.uniform(-0.2, 0.2), y + dice.uniform(-0.22, 0.22)
    add(picture, body.ellipse(x, y, radius, radius * dice.uniform(0.8, 1.2)), lesion)


def _ct_bones(dice: Dice, body: Anatomy, picture: F32, level: F32, slim: F32) -> None:
    bone = dice.uniform(300, 700)
    ribs = 1 - bump(level, 1.0, 0.45)
    places = []
    for step in range(8):
        cos, sin = cos_sin(dice.uniform(-0.2, 0.2) + step * math.tau / 8)
        places.append((0.8 * cos, (slim - 0.1) * sin, 0.06 * ribs, 0.045 * ribs))
    for mask in body.ellipses(places):
        paint(picture, mask, bone)
    for side in (-1.0, 1.0):
        wing = bump(level, 0.95, 0.22)
        paint(picture, body.ellipse(side * 0.5, 0.14, 0.07 * wing, 0.3 * wing, side * 0.7), bone)
    paint(picture, body.ellipse(0, 0.34, 0.14, 0.12), bone * 0.6)
    paint(picture, body.ellipse(0, 0.47, 0.06, 0.05), 20)


@dataclass(frozen=True, kw_only=True)
class Contrast:
    """Signal of the tissues in one kind of MR image, 0..1, as read off textbook images."""

    white: float
    grey: float
    fluid: float
    fat: float
    lesion: float


CONTRASTS = (
    Contrast(white=0.80, grey=0.58, fluid=0.15, fat=0.95, lesion=0.45),  # T1
    Contrast(white=0.35, grey=0.55, fluid=0.95, fat=0.70, lesion=0.80),  # T2
    Contrast(white=0.42, grey=0.58, fluid=0.10, fat=0.60, lesion=0.90),  # FLAIR
    Contrast(white=0.50, grey=0.65, fluid=0.90, fat=0.80, lesion=0.75),  # proton density
)


def draw_mr(dice: Dice, size: int, findings: F32) -> F32:
    """Axial slice of a head: a random weighting, coil shading and Rician noise.

    The amplitude of a complex signal has Rice's distribution (Gudbjartsson & Patz 1995, Magn. Reson. Med. 34:910); the
    weightings are those of `CONTRASTS`.

    findings: (n, 2) ventricle size 0..1; load of white-matter lesions 0..1.
    """
    ventricle, load = findings.T
    head = Anatomy(dice, size, zoom=(0.78, 1.05), shift=0.1, tilt=0.3, wobble=0.05)
    kind = (dice.uniform() * len(CONTRASTS)).astype(np.intp)

    def signal(tissue: str) -> F32:
        typical = np.asarray([getattr(contrast, tissue) for contrast in CONTRASTS], np.float32)
        return typical[kind] * dice.uniform(0.85, 1.1)

    narrow, fluid, grey = dice.uniform(0.66, 0.8), signal("fluid"), signal("grey")
    picture = head.blank(0.02)
    paint(picture, head.ellipse(0, 0, narrow + 0.1, 0.95), signal("fat"))
    paint(picture, head.ellipse(0, 0, narrow + 0.05, 0.9), 0.06)
    atrophy = dice.uniform(0.0, 0.06)
    paint(picture, head.ellipse(0, 0, narrow, 0.85), fluid)
    paint(picture, head.ellipse(0, 0, narrow - atrophy, 0.85 - atrophy), grey)
    _mr_white(dice, head, picture, narrow, signal("white"))
    _mr_lesions(dice, head, picture, load, signal("lesion"))
    _mr_ventricles(dice, head, picture, ventricle, fluid, grey)
    shading = dice.smooth(size, 2)
    shading *= over_image(dice.uniform(0.05, 0.25))
    shading += 1
    picture *= shading
    sigma = over_image(dice.uniform(0.02, 0.09))
    real, imaginary = dice.normal(size, size), dice.normal(size, size)
    real *= sigma
    real += picture
    imaginary *= sigma
    received = amplitude(real, imaginary)
    received *= over_image(dice.uniform(0.75, 1.05))
    return ramp(received)


def _mr_white(dice: Dice, head: Anatomy, picture: F32, narrow: F32, white: F32) -> None:
    """Two hemispheres; the folds of the cortex are noise on their outline."""
    folds = copy(head)
    folds.outline(dice.smooth(head.size, 9) * np.float32(0.22))
    for side in (-1.0, 1.0):
        paint(picture, folds.ellipse(side * narrow * 0.46, 0, narrow * 0.4, 0.68), white)


def _mr_lesions(dice: Dice, head: Anatomy, picture: F32, load: F32, signal: F32) -> None:
    places = []
    for number in range(5):
        there = np.clip(load * 5 - number, 0, 1)
        x, y = dice.sign() * dice.uniform(0.2, 0.45), dice.uniform(-0.5, 0.5)
        radius = dice.uniform(0.04, 0.09) * np.sqrt(there)
        places.append((x, y, radius, radius * dice.uniform(0.7, 1.5)))
    for mask in head.ellipses(places):
        paint(picture, mask, signal)


def _mr_ventricles(dice: Dice, head: Anatomy, picture: F32, wide: F32, fluid: F32, grey: F32) -> None:
    height = dice.uniform(0.8, 1.2)
    for side in (-1.0, 1.0):
        paint(picture, head.ellipse(side * 0.24, 0.08, 0.1, 0.17, side * 0.5), grey)
        rx = 0.035 + 0.13 * wide
        paint(picture, head.ellipse(side * (0.05 + rx), -0.16, rx, 0.24 * height, side * -0.2), fluid)
        paint(picture, head.ellipse(side * (0.1 + rx), 0.3, rx * 0.9, 0.16 * height, side * 0.5), fluid)


def draw_xray(dice: Dice, size: int, findings: F32) -> F32:
    """Frontal chest film: tissue thickness along the beam, Beer-Lambert attenuation, quantum noise.

    Noise goes with the square root of the photons that arrive (Bushberg et al., The Essential Physics of Medical
    Imaging, ch. 7).

    findings: (n, 3) of 0..1: cardiomegaly, nodule, pleural effusion.
    """
    enlarged, nodule, effusion = findings.T
    chest = Anatomy(dice, size, zoom=(0.85, 1.1), shift=0.1, tilt=0.08, wobble=0.04)
    tissue = chest.blank()
    add(tissue, chest.ellipse(0, 0.25, 0.98, 1.3, edge=3), dice.uniform(0.75, 1.1))
    paint(tissue, chest.ellipse(0, -1.0, 0.3, 0.5, edge=2), 0.8)
    _xray_lungs(dice, chest, tissue, effusion)
    heart = dice.uniform(0.26, 0.35) + 0.11 * enlarged
    x = dice.uniform(0.08, 0.18)
    add(tissue, chest.ellipse(x, 0.34, heart, heart * dice.uniform(0.75, 0.95), 0.5, edge=1.5), 0.55)
    add(tissue, chest.ellipse(0, 0, 0.12, 1.4, edge=2), dice.uniform(0.3, 0.6))
    radius = dice.uniform(0.05, 0.1)
    x, y = dice.sign() * dice.uniform(0.28, 0.6), dice.uniform(-0.5, 0.3)
    add(tissue, chest.ellipse(x, y, radius, radius), nodule * dice.uniform(0.25, 0.45))
    tissue += _xray_ribs(dice, chest)
    tissue *= np.float32(1.5)
    photons = attenuate(tissue)
    noise = np.sqrt(photons)
    noise *= dice.normal(size, size)
    noise *= over_image(dice.uniform(0.015, 0.05))
    photons += noise
    photons /= over_image(dice.uniform(0.7, 0.95))
    film = ramp(np.subtract(1, photons, out=photons))
    film *= over_image(dice.uniform(0.85, 1.1))
    return film


def _xray_lungs(dice: Dice, chest: Anatomy, tissue: F32, effusion: F32) -> None:
    """Air takes tissue away; an effusion fills one lung from below, higher at the chest wall."""
    sick = dice.sign()
    fluid_level = dice.uniform(0.28, 0.5)
    air = dice.uniform(0.45, 0.6)
    base = dice.uniform(0.5, 0.72)
    for side in (-1.0, 1.0):
        outline = chest.ellipse(side * 0.44, -0.1, dice.uniform(0.3, 0.37), 0.78, side * -0.12, edge=1.5)
        lung = outline.whole(chest.size)
        cut(lung, chest.ellipse(side * 0.42, base + 0.5 + dice.uniform(-0.05, 0.05), 0.55, 0.5, edge=1.5))
        wet = effusion * (sick == side)
        cut(lung, chest.ellipse(side * 0.75, fluid_level + 0.45, 0.6, 0.5, side * -0.5, edge=2), wet)
        lung *= over_image(air)
        tissue -= lung


def _xray_ribs(dice: Dice, chest: Anatomy) -> F32:
    """Arches that fall towards the sides, as a wave of (y - curvature x^2), and only where the chest is."""
    dx, dy = chest.offsets(0.0, -0.1)
    wave = dy * over_image(dice.uniform(2.6, 3.6)) - dx * dx * over_image(dice.uniform(1.0, 2.4))
    wave += over_image(dice.uniform())
    wave -= np.floor(wave)
    wave *= 1 - wave
    wave *= over_image(dice.uniform(0.3, 0.9))
    wave *= chest.ellipse(0, -0.05, 0.85, 0.85, edge=3).whole(chest.size)
    return wave


def draw_ultrasound(dice: Dice, size: int, findings: F32) -> F32:
    """Sector scan of layered tissue with one mass: fully developed speckle, attenuation, log-like compression.

    Many scatterers in each cell of resolution make the amplitude that of a complex normal number (Burckhardt 1978, IEEE
    Trans. Sonics Ultrason. 25:1); margins, shadow and enhancement as in the BI-RADS atlas (5th ed., ultrasound).

    findings: (n, 3) a mass is there; it is a cyst; how spiculated the margin of a solid mass is. All 0..1.
    """
    there, cyst, spiculated = findings.T
    probe = Anatomy(dice, size, zoom=(0.95, 1.1), shift=0.05, tilt=0.05, wobble=0.0)
    dx, dy = probe.offsets(0.0, -dice.uniform(1.2, 1.9))
    depth = np.sqrt(dx * dx + dy * dy)
    echo = dice.smooth(size, 5)
    echo *= np.float32(0.16)
    echo += np.float32(0.5)
    coarse = dice.smooth(size, 2)
    coarse *= np.float32(0.1)
    echo += coarse
    layer = (depth - over_image(dice.uniform(0.4, 1.0))) * over_image(dice.uniform(1.5, 3.0))
    layer -= np.floor(layer)
    echo += ((layer < 0.25) & (dy < over_image(dice.uniform(1.0, 1.9)))) * over_image(dice.uniform(0.1, 0.5))
    echo *= _ultrasound_mass(dice, probe, there, cyst, spiculated)
    echo *= over_image(dice.uniform(1.0, 1.6)) - depth * over_image(dice.uniform(0.1, 0.4))
    in_phase, quadrature = _speckle(dice, size), _speckle(dice, size)
    echo *= amplitude(in_phase, quadrature)
    np.maximum(echo, 0, out=echo)
    compression = over_image(dice.uniform(0.3, 0.8))
    sector = ramp((over_image(dice.uniform(0.45, 0.8)) - np.abs(dx / dy)) * np.float32(size / 2))
    compressed = echo + compression
    np.divide(echo, compressed, out=compressed)
    compressed *= over_image(dice.uniform(0.8, 1.15))
    ramp(compressed)
    compressed *= sector
    return compressed


def _speckle(dice: Dice, size: int) -> F32:
    """Normal numbers with the lateral blur of the beam, variance 1: 1-2-1 weights keep 6/16 of it."""
    grain = dice.normal(size, size + 2)
    speckle = grain[:, :, :-2] + grain[:, :, 2:]
    grain *= 2
    speckle += grain[:, :, 1:-1]
    speckle *= np.float32(6**-0.5)
    return speckle


def _ultrasound_mass(dice: Dice, probe: Anatomy, there: F32, cyst: F32, spiculated: F32) -> F32:
    """Factor on the echo: dark inside the mass, and a shadow or an enhancement behind it."""
    radius = dice.uniform(0.2, 0.36)
    x, y = dice.uniform(-0.35, 0.35), dice.uniform(-0.2, 0.35)
    dx, dy = probe.offsets(x, y)
    flat = dice.uniform(0.65, 1.05) + 0.15 * spiculated
    dx, dy = dx / over_image(radius), dy / over_image(radius * flat)
    square = dx * dx + dy * dy
    cos2 = (dx * dx - dy * dy) / (square + np.float32(1e-6))
    sin2 = 2 * dx * dy / (square + np.float32(1e-6))
    turn_cos, turn_sin = cos_sin(dice.uniform(0, math.tau))
    cos2 = cos2 * over_image(turn_cos) - sin2 * over_image(turn_sin)
    spikes = cos2 * (4 * cos2 * cos2 - 3)
    outline = 1 + over_image(spiculated * dice.uniform(0.5, 0.9)) * spikes
    inside = ramp((outline - square) * over_image(radius * np.float32(probe.size / 4)) + np.float32(0.5))
    dark = np.where(cyst > 0.5, dice.uniform(0.03, 0.2), dice.uniform(0.1, 0.45))
    behind = ramp(1.2 - np.abs(dx)) * ramp(dy * 2 - 1)
    after = np.where(cyst > 0.5, dice.uniform(0.1, 0.7), dice.uniform(-0.3, 0.3) - 0.3 * spiculated)
    factor = 1 - inside * over_image(there * (1 - dark))
    return factor * (1 + behind * (1 - inside) * over_image(there * after))
