"""Surfaces under a lamp: moles on skin, and the inside of the bowel. Row 4."""

from __future__ import annotations

import math

import numpy as np

from scaling.data.phantom_anatomy import (
    F32,
    Anatomy,
    Dice,
    add,
    cos_sin,
    cut,
    over_image,
    paint,
    ramp,
)
from scaling.data.phantom_light import BLOOD, MELANIN, disc, frame, lit, size_of, wave


def draw_dermoscopy(dice: Dice, size: int, findings: F32) -> F32:
    """(n, 3, size, size): a mole under polarised light and gel: melanin in the lesion, its network, skin, hairs.

    Skin is a filter of melanin over blood (Jacques 2013, Phys. Med. Biol. 58:R37); the signs are the dermoscopic ABCD
    rule's and the pattern analysis's (Stolz et al. 1994, Eur. J. Dermatol. 4:521; Argenziano et al. 2003, J. Am. Acad.
    Dermatol. 48:679).

    findings: (n, 3) of 0..1: irregular border, pigment network, blue-white veil.
    """
    ragged, netted, veiled = findings.T
    skin = Anatomy(dice, size, zoom=(0.75, 1.25), shift=0.16, tilt=math.pi, wobble=0.0)
    outline = dice.smooth(size, 3)
    outline *= np.float32(0.1)
    border = dice.smooth(size, 7)
    border *= over_image(0.04 + 0.3 * ragged)
    outline += border
    skin.outline(outline)
    wide = dice.uniform(0.42, 0.62)
    lesion = skin.ellipse(0, 0, wide, wide * dice.uniform(0.7, 1.0), edge=size / 12).whole(size)
    melanin = dice.smooth(size, 10)
    melanin *= np.float32(0.02)
    dark = dice.uniform()
    melanin += over_image(0.12 + 0.6 * dark * dark * dark)
    uneven = dice.smooth(size, 4)
    uneven *= over_image(dice.uniform(0.05, 0.3))
    uneven += over_image(dice.uniform(0.7, 1.8))
    uneven *= lesion
    pattern = _network(dice, skin)
    pattern *= over_image(netted * dice.uniform(0.5, 1.0))
    pattern *= lesion
    melanin += np.maximum(uneven, 0)
    melanin += pattern
    _globules(dice, skin, melanin, 1 - netted)
    blood = dice.smooth(size, 5)
    blood *= np.float32(0.04)
    blood += over_image(dice.uniform(0.05, 0.2))
    veil = skin.ellipse(dice.uniform(-0.15, 0.15), dice.uniform(-0.15, 0.15), 0.24, 0.2, edge=size / 8)
    shine = veil.whole(size)
    shine *= over_image(veiled * dice.uniform(0.35, 0.7))
    _hairs(dice, skin, melanin)
    light = disc(skin, (0, 0), 1.9, size / 4)
    light *= over_image(dice.uniform(0.95, 1.15))
    grain = dice.normal(size, size)
    grain *= np.float32(0.012)
    picture = lit([(melanin, MELANIN), (blood, BLOOD)], light, (1.05, 0.95, 0.9), grain)
    # Collagen and melanin deep down scatter short waves back: a bluish haze over everything.
    for channel, haze in enumerate((0.48, 0.55, 0.72)):
        picture[:, channel] += (haze - picture[:, channel]) * shine
    return picture


def _network(dice: Dice, skin: Anatomy) -> F32:
    """(n, size, size) 0..1: dark lines around pale holes, where three waves across each other are low."""
    start, finer = dice.uniform(0, math.pi), dice.uniform(5.0, 8.5)
    warp = dice.smooth(skin.size, 5)
    warp *= np.float32(0.35)
    lines = np.zeros_like(warp)
    for turn in range(3):
        along, _ = frame(skin, 0, 0, start + turn * math.pi / 3)
        along *= over_image(finer)
        along += warp
        lines += wave(along)
    lines *= np.float32(-0.9)
    lines += np.float32(2.1)
    return ramp(lines)


def _globules(dice: Dice, skin: Anatomy, melanin: F32, share: F32) -> None:
    places, dark = [], []
    for _ in range(5):
        radius = dice.uniform(0.03, 0.06) * (dice.uniform() < share * 0.7)
        places.append((dice.uniform(-0.3, 0.3), dice.uniform(-0.25, 0.25), radius, radius))
        dark.append(dice.uniform(0.3, 0.9))
    for spot, density in zip(skin.ellipses(places), dark, strict=True):
        add(melanin, spot, density)


def _hairs(dice: Dice, skin: Anatomy, melanin: F32) -> None:
    """Bent lines across everything, in some images."""
    hairy = dice.happens(0.35)
    for _ in range(3):
        along, across = frame(skin, dice.uniform(-0.7, 0.7), dice.uniform(-0.7, 0.7), dice.uniform(0, math.pi))
        along *= along
        along *= over_image(dice.uniform(-0.25, 0.25))
        across += along
        np.abs(across, out=across)
        across *= np.float32(skin.size / 2)
        half = np.float32(0.012 * skin.size / 2)
        np.subtract(half + np.float32(0.5), across, out=across)
        np.minimum(across, 2 * half, out=across)
        ramp(across)
        across *= over_image(hairy * dice.happens(0.8) * 2.2)
        melanin += across


def draw_endoscopy(dice: Dice, size: int, findings: F32) -> F32:
    """(n, 3, size, size): colonoscopy: a lamp at the tip lights a tube, so the far lumen is dark and folds are rings.

    Brightness falls with the square of the distance from a source beside the camera, which is the base of shape from
    shading in endoscopy (Okatani & Deguchi 1997, Comput. Vis. Image Underst. 66:119); mucosa takes its colour from
    blood; wet surfaces mirror the lamp. Polyps as the Paris classification has them: sessile (2003, Gastrointest.
    Endosc. 58:S3).

    findings: (n, 1) height of a polyp, 0..1, 0 = none.
    """
    height = findings[:, 0]
    tube = Anatomy(dice, size, zoom=(0.9, 1.15), shift=0.35, tilt=math.pi, wobble=0.12)
    along, across = frame(tube, 0, 0, 0.0)
    warp = dice.smooth(size, 3)
    warp *= np.float32(0.16)
    square = along * along
    across *= across
    square += across
    radius = np.sqrt(square)
    radius += warp
    light = _depth(dice, radius)
    light *= _folds(dice, radius)
    blood = dice.smooth(size, 5)
    blood *= np.float32(0.07)
    blood += over_image(dice.uniform(0.35, 0.7))
    blood += _mucosal_vessels(dice, tube)
    _polyp(dice, tube, height, light, blood)
    melanin = np.full_like(blood, 0.12)
    grain = dice.normal(size, size)
    grain *= np.float32(0.012)
    places = []
    for _ in range(4):
        glare, narrow = dice.uniform(0.015, 0.05) * dice.happens(0.7), dice.uniform(0.3, 1.0)
        places.append(
            (dice.uniform(-0.8, 0.8), dice.uniform(-0.8, 0.8), glare, glare * narrow, dice.uniform(0, math.pi))
        )
    for spot in tube.ellipses(places):
        add(grain, spot, 0.8)
    picture = lit([(blood, BLOOD), (melanin, MELANIN)], light, (1.1, 1.0, 0.95), grain)
    corner = np.abs(tube.axis)
    octagon = corner[:, None] + corner[None, :]
    picture *= ramp((np.float32(1.62) - octagon) * np.float32(size / 2))
    return picture


def _depth(dice: Dice, radius: F32) -> F32:
    """Light that comes back from a tube's wall: seen at `radius` from its far end, it is 1 / radius away."""
    near = radius * over_image(dice.uniform(1.6, 3.2))
    near *= near
    light = near + 1
    np.divide(near, light, out=light)
    light *= over_image(dice.uniform(1.0, 1.3))
    return light


def _folds(dice: Dice, radius: F32) -> F32:
    """Haustral folds: rings that come closer to each other with depth, each bright on its near side."""
    closer = radius + np.float32(0.12)
    np.divide(1, closer, out=closer)
    closer *= over_image(dice.uniform(0.6, 1.2))
    closer += over_image(dice.uniform())
    closer -= np.floor(closer)
    closer *= closer
    closer *= over_image(-dice.uniform(0.2, 0.6))
    closer += 1
    return closer


def _mucosal_vessels(dice: Dice, tube: Anatomy) -> F32:
    """Fine branching lines: where a smooth field passes zero."""
    field = dice.smooth(tube.size, 5)
    np.abs(field, out=field)
    field *= np.float32(-tube.size / 5)
    field += 1
    ramp(field)
    field *= over_image(dice.uniform(0.0, 0.3))
    return field


def _polyp(dice: Dice, tube: Anatomy, height: F32, light: F32, blood: F32) -> None:
    """A dome: brighter where it faces the lamp in the middle, with a dark rim, a highlight and more blood."""
    size, angle = dice.uniform(0.16, 0.34), dice.uniform(0, math.tau)
    cos, sin = cos_sin(angle)
    away = dice.uniform(0.4, 0.62)
    x, y = away * cos, away * sin
    there = np.clip(height * 20, 0, 1)
    radius = size * there
    shadow = tube.ellipse(x + 0.05 * cos, y + 0.05 * sin, radius * 1.2, radius * 1.15, edge=3)
    cut(light, shadow, 0.3 * height)
    dome = tube.ellipse(x, y, radius, radius * dice.uniform(0.8, 1.0), angle, edge=1.5)
    paint(light, dome, 0.45 + 0.3 * height)
    add(blood, dome, dice.uniform(0.0, 0.3))
    face = tube.ellipse(x - 0.3 * radius * cos, y - 0.3 * radius * sin, radius * 0.75, radius * 0.7, edge=size_of(tube))
    add(light, face, 0.35 * height)
    spot = radius * 0.15
    add(light, tube.ellipse(x - 0.45 * radius * cos, y - 0.45 * radius * sin, spot, spot), 0.9)
