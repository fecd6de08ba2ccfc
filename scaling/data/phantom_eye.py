"""The eye: colour photographs of the retina, and sections through it by optical coherence tomography. Row 4."""

from __future__ import annotations

import math
from functools import cache

import numpy as np

from scaling.data.phantom_anatomy import (
    F32,
    Anatomy,
    Dice,
    Number,
    add,
    cut,
    over_image,
    paint,
    ramp,
)
from scaling.data.phantom_light import BLOOD, MELANIN, XANTHOPHYLL, disc, glow, lit


def draw_fundus(dice: Dice, size: int, findings: F32) -> F32:
    """(n, 3, size, size): colour photograph of the retina through the pupil: disc, macula, vascular arcades, aperture.

    The fundus reflects light that choroidal blood and melanin have filtered (Delori & Pflibsen 1989, Appl. Opt. 28:
    1061); vessels arch around the macula on parabolas with the disc at their vertex (Foracchia et al. 2004, IEEE TMI
    23:1189). Signs and their order are those of the international scale of diabetic retinopathy (Wilkinson et al.
    2003, Ophthalmology 110:1677).

    findings: (n, 1) grade of retinopathy 0..4, fractions between: microaneurysms, haemorrhages, exudates, new vessels.
    """
    grade = findings[:, 0]
    eye = Anatomy(dice, size, zoom=(0.92, 1.04), shift=0.04, tilt=0.12, wobble=0.05)
    side, reach = dice.sign(), dice.uniform(0.42, 0.56)
    x, y = -side * reach, dice.uniform(-0.08, 0.08)
    blood = dice.smooth(size, 6)
    blood *= np.float32(0.06)
    blood += over_image(dice.uniform(0.3, 0.6))
    melanin = dice.smooth(size, 3)
    melanin *= np.float32(0.08)
    melanin += over_image(dice.uniform(0.15, 0.65))
    macula = glow(eye, (x + side * 0.78, y + 0.06), dice.uniform(0.3, 0.45))
    macula *= over_image(dice.uniform(0.4, 0.9))
    melanin += macula
    yellow = macula * np.float32(0.5)
    vessels = _arcades(dice, eye, (x, y), side)
    blood += vessels
    _optic_disc(dice, eye, (x, y), (blood, melanin, yellow), vessels)
    _retinopathy(dice, eye, grade, (blood, melanin, yellow))
    light = disc(eye, (dice.uniform(-0.1, 0.1), dice.uniform(-0.1, 0.1)), 1.55, size / 4)
    light *= over_image(dice.uniform(0.95, 1.35))
    light *= disc(eye, (0, 0), dice.uniform(0.92, 0.98), 1.0)
    grain = dice.normal(size, size)
    grain *= over_image(dice.uniform(0.006, 0.02))
    grain *= light
    return lit([(blood, BLOOD), (melanin, MELANIN), (yellow, XANTHOPHYLL)], light, (1.15, 0.98, 0.72), grain)


def _arcades(dice: Dice, eye: Anatomy, place: tuple[F32, F32], side: F32) -> F32:
    """(n, size, size): blood in arteries and veins, each a pair of branches on a parabola; finer ones between."""
    dx, dy = eye.offsets(*place)
    bends = dice.smooth(eye.size, 7)
    bends *= np.float32(0.045)
    along = dx * over_image(side / eye.zoom) + bends
    across = dy * over_image(1 / eye.zoom) + bends.swapaxes(1, 2)
    square = across * across
    thinner = square + np.abs(along)
    thinner *= np.float32(0.45)
    np.subtract(1, ramp(thinner), out=thinner)
    vessels = np.zeros_like(along)
    for opens, width, ink in (
        (dice.uniform(0.75, 1.0), 0.027, 0.7),
        (dice.uniform(1.05, 1.5), 0.021, 0.5),
        (dice.uniform(2.2, 3.4), 0.018, 0.5),
        (-dice.uniform(1.0, 1.6), 0.024, 0.55),
        (dice.uniform(0.15, 0.5), 0.016, 0.45),
    ):
        line = square * over_image(opens)
        # Divided by its gradient the height of x = a y^2 is a distance.
        steep = np.sqrt(1 + (4 * square) * over_image(opens * opens))
        line -= along
        line += over_image(dice.uniform(-0.03, 0.03))
        line /= steep
        np.abs(line, out=line)
        half = thinner * np.float32(width * eye.size / 2)
        # What is thinner than a pixel darkens it in part.
        np.subtract(half + np.float32(0.5), line * np.float32(eye.size / 2), out=line)
        np.minimum(line, half * 2, out=line)
        ramp(line)
        line *= np.float32(ink)
        np.maximum(vessels, line, out=vessels)
    return vessels


def _optic_disc(dice: Dice, eye: Anatomy, place: tuple[F32, F32], pigments: tuple[F32, F32, F32], vessels: F32) -> None:
    """Nerve fibres without pigment behind them, paler still in the cup; vessels pass over them."""
    blood, melanin, yellow = pigments
    radius, cupped = dice.uniform(0.14, 0.18), dice.uniform(0.25, 0.65)
    rim = eye.ellipse(*place, radius * 0.92, radius, edge=1.5)
    cup = eye.ellipse(*place, radius * cupped, radius * cupped, edge=2)
    cut(melanin, rim, 0.95)
    paint(yellow, rim, 0.35)
    paint(blood, rim, 0.12)
    cut(yellow, cup, 0.6)
    paint(blood, cup, 0.03)
    window = rim.window(blood)
    window += rim.window(vessels) * rim.values * np.float32(0.8)
    rim.put(blood, window)


def _retinopathy(dice: Dice, eye: Anatomy, grade: F32, pigments: tuple[F32, F32, F32]) -> None:
    """Dots and blots of blood, exudates that hide what is behind them, a fan of blood in front at the last grade."""
    blood, melanin, yellow = pigments

    def anywhere() -> tuple[F32, F32]:
        return dice.uniform(-0.75, 0.75), dice.uniform(-0.6, 0.6)

    dots, blots, exudates = [], [], []
    for number in range(6):
        dot = np.clip(grade * 2.2 - number, 0, 1) * dice.uniform(0.018, 0.032)
        dots.append((*anywhere(), dot, dot))
        blot = np.clip((grade - 1.2) * 2.6 - number, 0, 1) * dice.uniform(0.035, 0.08)
        blots.append((*anywhere(), blot, blot * dice.uniform(0.5, 1.0), dice.uniform(0, math.pi)))
        exudate = np.clip((grade - 1.6) * 2.6 - number, 0, 1) * dice.uniform(0.02, 0.055)
        exudates.append((*anywhere(), exudate, exudate * dice.uniform(0.6, 1.0)))
    for spot in eye.ellipses(dots):
        add(blood, spot, 0.9)
    for spot in eye.ellipses(blots):
        add(blood, spot, 1.0)
    for spot in eye.ellipses(exudates):
        cut(blood, spot, 0.9)
        cut(melanin, spot, 0.95)
        paint(yellow, spot, 0.3)
    fan = np.clip(grade - 3.2, 0, 1)
    pool = eye.ellipse(*anywhere(), 0.24 * fan * dice.uniform(0.7, 1.2), 0.13 * fan, dice.uniform(-0.5, 0.5))
    add(blood, pool, 1.3)


LAYERS = (
    (0.00, 0.10, 0.80),  # nerve fibres
    (0.10, 0.32, 0.50),  # ganglion cells and inner plexiform layer
    (0.32, 0.45, 0.28),  # inner nuclear layer
    (0.45, 0.54, 0.50),  # outer plexiform layer
    (0.54, 0.84, 0.18),  # outer nuclear layer
    (0.84, 0.87, 0.38),  # external limiting membrane
    (0.87, 0.91, 0.22),
    (0.91, 1.00, 0.85),  # ellipsoid zone
)
"""Begin and end in the neural retina's thickness, and brightness of its layers on the usual compressed scale."""
FINE = 256
"""Steps of the retina's thickness at which its brightness is kept."""
DISEASES = ("normal", "drusen", "macular oedema", "neovascularisation")


@cache
def layers(size: int) -> F32:
    """(FINE + 1,) brightness through the neural retina, averaged over a pixel where it is about half the image high."""
    fine = np.zeros(FINE + 1)
    for begin, end, brightness in LAYERS:
        fine[round(begin * FINE) :] = brightness
        assert end > begin
    reach = max(1, round(FINE / size))
    padded = np.pad(fine, reach, mode="edge")
    sums = np.cumsum(np.concatenate([[0.0], padded]))
    return ((sums[2 * reach + 1 :] - sums[: -2 * reach - 1]) / (2 * reach + 1)).astype(np.float32)


def draw_oct(dice: Dice, size: int, findings: F32) -> F32:
    """B-scan of the macula by optical coherence tomography: layers on a compressed scale, speckle, shadows of vessels.

    The brightness of layers and their names are those of the international nomenclature (Staurenghi et al. 2014,
    Ophthalmology 121:1572); speckle multiplies as in any coherent imaging (Schmitt et al. 1999, J. Biomed. Opt. 4:95);
    the diseases are those of Kermany et al. 2018 (Cell 172:1122).

    findings: (n, 2) disease, a place in `DISEASES`; how far gone, 0..1.
    """
    disease, far = findings.T
    drusen, oedema, new_vessels = ((disease == kind).astype(np.float32) * far for kind in (1, 2, 3))
    scan = Anatomy(dice, size, zoom=(0.9, 1.2), shift=0.12, tilt=0.1, wobble=0.1)
    x = (scan.axis - scan.x0[:, None])[:, None, :]
    bent, tilted = dice.uniform(0.0, 0.3), dice.uniform(-0.2, 0.2)
    bruch = over_image(dice.uniform(0.2, 0.5)) + over_image(tilted) * x - over_image(bent) * x * x
    pigment = bruch - _bumps(dice, x, drusen)
    lens = _hump(x, dice.uniform(-0.3, 0.3), dice.uniform(0.4, 0.7)) * over_image(0.24 * new_vessels)
    detached = _hump(x, dice.uniform(-0.3, 0.3), dice.uniform(0.25, 0.4)) * over_image(0.16 * new_vessels)
    pigment = pigment - detached
    neural = pigment - lens - np.float32(0.03)
    pit = dice.uniform(0.35, 0.62) * (1 - 0.8 * np.maximum(oedema, 0.5 * new_vessels))
    thick = over_image(dice.uniform(0.5, 0.62)) * (1 - over_image(pit) * _hump(x, 0.0, dice.uniform(0.3, 0.42)))
    thick = thick + _hump(x, dice.uniform(-0.2, 0.2), 0.7) * over_image(0.35 * oedema)
    y = scan.axis[:, None]
    top = bruch - np.float32(0.7) * (lens + detached) - np.float32(0.03) - thick
    picture = _retina(scan, y, top, neural)
    _beneath(dice, scan, picture, y, (neural, pigment, bruch))
    _cysts(dice, scan, picture, oedema, (neural, thick))
    _shadows(dice, picture, y - top, x)
    return _coherent(dice, picture)


def _hump(x: F32, centre: Number, width: Number) -> F32:
    """(n, 1, size): (1 - t^2)^2 of the distance in widths, 0 beyond."""
    t = (x - over_image(centre)) / over_image(width)
    t = np.maximum(1 - t * t, 0)
    return t * t


def _bumps(dice: Dice, x: F32, drusen: F32) -> F32:
    """(n, 1, size): deposits that lift the pigment epithelium."""
    sum_of_bumps = np.zeros_like(x)
    for _ in range(5):
        high = drusen * dice.uniform(0.04, 0.13)
        sum_of_bumps = np.maximum(
            sum_of_bumps, _hump(x, dice.uniform(-0.8, 0.8), dice.uniform(0.08, 0.2)) * over_image(high)
        )
    return sum_of_bumps


def _retina(scan: Anatomy, y: F32, top: F32, bottom: F32) -> F32:
    """(n, size, size): layers between two lines, which may come as close as they like."""
    picture = y - top
    picture *= np.float32(FINE) / (bottom - top)
    np.clip(picture, -1, FINE, out=picture)
    level = picture.astype(np.intp)
    brightness = layers(scan.size).take(np.maximum(level, 0))
    inside = (y - top) * np.float32(scan.size / 2)
    inside += np.float32(0.5)
    brightness *= ramp(inside)
    brightness += np.float32(0.02)
    return brightness


def _beneath(dice: Dice, scan: Anatomy, picture: F32, y: F32, lines: tuple[F32, F32, F32]) -> None:
    """From the end of the neural retina down: fluid, pigment epithelium, what lifts it, choroid that fades."""
    neural, pigment, bruch = lines
    per_pixel = np.float32(scan.size / 2)

    def below(line: F32) -> F32:
        mask = y - line
        mask *= per_pixel
        mask += np.float32(0.5)
        return ramp(mask)

    def fill(mask: F32, value: F32 | float) -> None:
        change = value - picture
        change *= mask
        np.add(picture, change, out=picture)

    choroid = dice.smooth(scan.size, 7)
    choroid *= np.float32(0.09)
    choroid += np.float32(0.5)
    deep = y - bruch
    deep *= over_image(dice.uniform(0.8, 1.5))
    choroid -= np.maximum(deep, 0)
    np.maximum(choroid, 0.03, out=choroid)
    fill(below(neural), 0.05)
    fill(below(pigment - np.float32(0.03)), 0.95)
    fill(below(pigment + np.float32(0.03)), 0.4)
    fill(below(bruch), choroid)


def _cysts(dice: Dice, scan: Anatomy, picture: F32, oedema: F32, place: tuple[F32, F32]) -> None:
    """Dark fluid in the nuclear layers."""
    neural, thick = place
    for number in range(6):
        column = dice.uniform(-0.5, 0.5)
        at = np.clip((column * scan.zoom + scan.x0 + 1) * np.float32(scan.size / 2), 0, scan.size - 1).astype(np.intp)
        line, depth = neural[np.arange(scan.n), 0, at], thick[np.arange(scan.n), 0, at]
        row = line - depth * dice.uniform(0.3, 0.7)
        radius = np.clip(oedema * 8 - number, 0, 1) * dice.uniform(0.05, 0.13)
        # In the image's own coordinates, which the layers have too.
        fluid = scan.ellipse(column, (row - scan.y0) / scan.zoom, radius, radius * dice.uniform(0.7, 1.3))
        paint(picture, fluid, 0.06)


def _shadows(dice: Dice, picture: F32, depth: F32, x: F32) -> None:
    """Below vessels of the innermost layer less light comes back."""
    for _ in range(3):
        stripe = _hump(x, dice.uniform(-1, 1), dice.uniform(0.03, 0.06)) * over_image(dice.uniform(0.1, 0.5))
        dark = depth * 8
        ramp(dark)
        dark *= stripe
        np.subtract(1, dark, out=dark)
        picture *= dark


def _coherent(dice: Dice, picture: F32) -> F32:
    """Speckle of a compressed signal adds to it, and averaging of scans leaves less; then brightness and contrast."""
    size = picture.shape[-1]
    speckle = dice.normal(size, size)
    speckle *= over_image(dice.uniform(0.05, 0.13))
    speckle *= np.sqrt(picture)
    picture += speckle
    floor = dice.normal(size, size)
    floor *= np.float32(0.03)
    picture += floor
    picture *= over_image(dice.uniform(0.8, 1.15))
    picture += over_image(dice.uniform(0.0, 0.06))
    return ramp(picture)
