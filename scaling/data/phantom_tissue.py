"""Stained slides: sections of bowel and smears of blood. Row 4."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from scaling.data.phantom_anatomy import (
    F32,
    Anatomy,
    Dice,
    Place,
    attenuate,
    blur,
    cos_sin,
    cut,
    over_image,
    paint,
    ramp,
)
from scaling.data.phantom_light import Colour, frame, lit, wave

HAEMATOXYLIN: Colour = (1.30, 1.40, 0.58)
EOSIN: Colour = (0.10, 1.35, 0.55)
"""Directions in optical density: Ruifrok & Johnston 2001 (Anal. Quant. Cytol. Histol. 23:291), eosin a little bluer."""
NUCLEI = 34


@dataclass(frozen=True, kw_only=True)
class Tissue:
    """Typical looks: stains in optical density, lengths in half image widths. Guesses that look right."""

    eosin: float
    fibres: float
    """Eosin more in bundles than between them."""
    blue: float
    """Haematoxylin outside nuclei."""
    radius: float
    """Of a nucleus."""
    unlike: float
    """Spread of the radii, in radii."""
    dense: float
    """Share of the lattice's places that hold a nucleus."""
    flat: float
    """Height / width of a nucleus."""
    turned: float
    """Most that a nucleus is turned from the bundles, radians."""
    stain: float
    """Haematoxylin in nuclei."""


TISSUES = {
    "gland": Tissue(
        eosin=0.45, fibres=0.05, blue=0.06, radius=0.062, unlike=0.1, dense=1.0, flat=0.75, turned=3, stain=0.95
    ),
    "carcinoma": Tissue(
        eosin=0.4, fibres=0.05, blue=0.16, radius=0.11, unlike=0.35, dense=0.92, flat=0.8, turned=3, stain=0.8
    ),
    "stroma": Tissue(
        eosin=0.55, fibres=0.4, blue=0.03, radius=0.085, unlike=0.15, dense=0.45, flat=0.28, turned=0.25, stain=0.85
    ),
    "lymphocytes": Tissue(
        eosin=0.35, fibres=0.03, blue=0.12, radius=0.085, unlike=0.1, dense=0.97, flat=0.95, turned=3, stain=1.15
    ),
    "fat": Tissue(
        eosin=0.4, fibres=0.1, blue=0.02, radius=0.045, unlike=0.1, dense=0.18, flat=0.35, turned=3, stain=0.9
    ),
}


def draw_histology(dice: Dice, size: int, findings: F32) -> F32:
    """(n, 3, size, size): section of bowel at high power: haematoxylin in nuclei, eosin around, absorbing as Beer says.

    What tells tissues apart is how nuclei lie: in a ring at the base of a gland's cells; crowded, large and unlike in
    carcinoma; thin and parallel in stroma; small, round and dense in lymphocytes; at the rim of empty cells in fat
    (the classes of Kather et al. 2019, PLoS Med. 16:e1002730; Young et al., Wheater's Functional Histology).

    findings: (n, 1) tissue, a place in `TISSUES`.
    """
    kind = findings[:, 0].astype(np.intp)
    slide = Anatomy(dice, size, zoom=(0.85, 1.2), shift=0.2, tilt=math.pi, wobble=0.1)
    typical = {
        field.name: np.asarray([getattr(tissue, field.name) for tissue in TISSUES.values()], np.float32)[kind]
        for field in fields(Tissue)
    }
    gland, carcinoma, fat = ((kind == list(TISSUES).index(name)) for name in ("gland", "carcinoma", "fat"))
    eosin = dice.smooth(size, 6)
    eosin *= np.float32(0.07)
    eosin += over_image(typical["eosin"] * dice.uniform(0.8, 1.25))
    fibres = _fibres(dice, slide)
    fibres *= over_image(typical["fibres"])
    eosin += fibres
    blue = np.full_like(eosin, 0.0)
    blue += over_image(typical["blue"])
    ring = dice.uniform(0.5, 0.64)
    _spaces(dice, slide, (eosin, blue), (gland * ring, carcinoma, fat))
    nuclei, stains = zip(*(_nucleus(dice, typical, gland, ring, i) for i in range(NUCLEI)), strict=True)
    for nucleus, stain in zip(slide.ellipses(nuclei), stains, strict=True):
        paint(blue, nucleus, stain)
    eosin, blue = blur(eosin, size // 100), blur(blue, size // 100)
    chromatin = dice.normal(size, size)
    chromatin *= blue
    chromatin *= np.float32(0.12)
    blue += chromatin
    strength = dice.uniform(0.75, 1.25)
    blue *= over_image(strength * dice.uniform(0.9, 1.1))
    eosin *= over_image(strength * dice.uniform(0.8, 1.2))
    np.maximum(blue, 0, out=blue)
    grain = dice.normal(size, size)
    grain *= np.float32(0.012)
    light = np.empty_like(grain)
    light[...] = over_image(dice.uniform(0.9, 1.0))
    return lit([(blue, HAEMATOXYLIN), (eosin, EOSIN)], light, (1.0, 0.98, 1.0), grain)


def _fibres(dice: Dice, slide: Anatomy) -> F32:
    """(n, size, size) 0..1: wavy bundles along one direction."""
    _, across = frame(slide, 0, 0, 0.0)
    across *= over_image(dice.uniform(3.0, 5.0))
    warp = dice.smooth(slide.size, 4)
    warp *= np.float32(0.5)
    across += warp
    return wave(across)


def _spaces(dice: Dice, slide: Anatomy, stains: tuple[F32, F32], where: tuple[F32, F32, F32]) -> None:
    """Empty places: a gland's lumen with mucus in the cells around it, clefts of a carcinoma, fat cells.

    where: a gland's radius, 0 in other tissues; whether it is carcinoma; whether it is fat.
    """
    eosin, blue = stains
    ring, carcinoma, fat = where
    cells = slide.ellipse(0, 0, ring * 1.12, ring * 1.05)
    paint(eosin, cells, 0.28)
    paint(blue, cells, 0.1)
    lumen = ring * dice.uniform(0.2, 0.4)
    space = slide.ellipse(0, 0, lumen, lumen * 0.9)
    cut(eosin, space, 0.95)
    cut(blue, space, 0.95)
    places = []
    for number in range(7):
        row, column = divmod(number, 3)
        cleft = carcinoma * dice.happens(0.35) * dice.uniform(0.06, 0.16)
        radius = fat * dice.uniform(0.32, 0.38) + cleft
        x = dice.uniform(-0.05, 0.05) + column * 0.72 - 0.8 + row * 0.2
        y = dice.uniform(-0.05, 0.05) + row * 0.72 - 0.72
        places.append((x, y, radius, radius * dice.uniform(0.85, 1.05), dice.uniform(0, math.pi)))
    for hole in slide.ellipses(places):
        cut(eosin, hole, 0.96)
        cut(blue, hole, 0.96)


def _nucleus(dice: Dice, typical: Mapping[str, F32], gland: F32, ring: F32, number: int) -> tuple[Place, F32]:
    """Where its tissue has one of its nuclei, and its stain. A jittered lattice; in a gland a ring, then a few."""
    row, column = divmod(number, 6)
    x = (column - 2.5) * 0.36 + dice.uniform(-0.13, 0.13)
    y = (row - 2.4) * 0.36 + dice.uniform(-0.13, 0.13)
    around = number < 20
    cos, sin = cos_sin(np.full(dice.n, number * math.tau / 20) + dice.uniform(-0.05, 0.05))
    radial = ring * dice.uniform(0.92, 1.02)
    if around:
        x, y = np.where(gland, radial * cos, x), np.where(gland, radial * sin * np.float32(0.94), y)
    radius = typical["radius"] * (1 + typical["unlike"] * dice.uniform(-1, 1)) * (dice.uniform() < typical["dense"])
    if not around:
        radius = radius * ~(gland & (x * x + y * y < (ring * 1.25) ** 2))
    flat = typical["flat"] * dice.uniform(0.85, 1.0)
    turn = dice.uniform(-1, 1) * typical["turned"]
    if around:
        turn = np.where(gland, np.float32(number * math.tau / 20), turn)
    return (x, y, radius, radius * flat, turn), typical["stain"] * dice.uniform(0.8, 1.15)


@dataclass(frozen=True, kw_only=True)
class Leukocyte:
    """Typical looks of one kind of white blood cell; radii in units of the image and of the cell."""

    radius: float
    nucleus: float
    lobes: float
    """Distance of the nucleus's three lobes from its centre, in its radii."""
    squeeze: float
    """Height / width of the nucleus."""
    granules: float
    """Stain of the granules in the cytoplasm."""


LEUKOCYTES = (
    Leukocyte(radius=0.34, nucleus=0.84, lobes=0.0, squeeze=0.95, granules=0.00),  # lymphocyte
    Leukocyte(radius=0.44, nucleus=0.66, lobes=0.25, squeeze=0.70, granules=0.05),  # monocyte
    Leukocyte(radius=0.40, nucleus=0.60, lobes=0.70, squeeze=0.90, granules=0.10),  # neutrophil
    Leukocyte(radius=0.40, nucleus=0.60, lobes=0.60, squeeze=0.70, granules=0.45),  # eosinophil
    Leukocyte(radius=0.30, nucleus=0.52, lobes=0.0, squeeze=0.95, granules=0.00),  # erythroblast
)


def draw_microscopy(dice: Dice, size: int, findings: F32) -> F32:
    """(n, 3, size, size): blood smear with one white cell, stained with eosin and a blue dye, a little out of focus.

    Nuclei, lobes and granules as in Bain, Blood Cells: A Practical Guide (5th ed.); dyes absorb as Beer says.

    findings: (n, 1) kind of the white cell, a row of `LEUKOCYTES`.
    """
    slide = Anatomy(dice, size, zoom=(0.7, 1.15), shift=0.25, tilt=math.pi, wobble=0.08)
    eosin, blue = slide.blank(), slide.blank()
    _red_cells(dice, slide, eosin)
    _white_cell(dice, slide, eosin, blue, findings[:, 0].astype(np.intp))
    eosin, blue = blur(eosin, 1), blur(blue, 1)
    light = dice.uniform(0.75, 1.0)
    shading = dice.smooth(size, 2)
    shading *= np.float32(0.04)
    shading += over_image(light)
    strength = over_image(dice.uniform(0.6, 1.2))
    grain = dice.normal(size, size)
    grain *= np.float32(0.03)
    # Optical densities of eosin and of the azure dye in red, green and blue light: guesses that look right.
    densities = ((0.15, 1.4), (0.75, 1.3), (0.45, 0.45))
    channels = np.empty((dice.n, 3, size, size), np.float32)
    for channel, (of_eosin, of_blue) in enumerate(densities):
        density = of_eosin * eosin
        density += of_blue * blue
        density *= strength
        light_left = attenuate(density)
        light_left *= shading
        np.add(light_left, grain, out=channels[:, channel])
    return ramp(channels)


def _red_cells(dice: Dice, slide: Anatomy, eosin: F32) -> None:
    """Discs with a pale centre, at random places of a jittered grid."""
    radius, pale = dice.uniform(0.2, 0.27), dice.uniform(0.1, 0.7)
    density = dice.uniform(0.3, 1.0)
    cells, centres = [], []
    for number in range(12):
        row, column = divmod(number, 4)
        x, y = column * 0.66 - 1.0 + dice.uniform(-0.25, 0.25), row * 0.75 - 0.75 + dice.uniform(-0.25, 0.25)
        there = np.sqrt(np.clip((density - dice.uniform()) * 1e6, 0, 1)) * radius
        squeeze = there * dice.uniform(0.8, 1.0)
        cells.append((x, y, there, squeeze))
        centres.append((x, y, there * 0.5, squeeze * 0.5))
    for cell, centre in zip(slide.ellipses(cells), slide.ellipses(centres, edge=2), strict=True):
        paint(eosin, cell, 0.7)
        paint(eosin, centre, 0.7 * (1 - pale))


def _white_cell(dice: Dice, slide: Anatomy, eosin: F32, blue: F32, kind: NDArray[np.intp]) -> None:
    def typical(trait: str) -> F32:
        return np.asarray([getattr(row, trait) for row in LEUKOCYTES], np.float32)[kind]

    radius = typical("radius") * dice.uniform(0.85, 1.2)
    cell = slide.ellipse(0, 0, radius, radius * dice.uniform(0.85, 1.0))
    paint(eosin, cell, 0.15)
    paint(blue, cell, dice.uniform(0.12, 0.35))
    granules = np.abs(blur(dice.normal(slide.size, slide.size), 1)) * np.float32(3)
    stained = cell.window(eosin)
    stained += cell.values * cell.window(granules) * over_image(typical("granules") * dice.uniform(0.5, 1.5))
    cell.put(eosin, stained)
    nucleus = radius * typical("nucleus") * dice.uniform(0.85, 1.12)
    spread = nucleus * typical("lobes") * dice.uniform(0.7, 1.2)
    lobe = (nucleus**2 - spread**2 * np.float32(0.4)) ** np.float32(0.5)
    stain, x0 = dice.uniform(0.7, 1.1), dice.uniform(-0.1, 0.1) * radius
    start = dice.uniform(0, math.tau)
    places = []
    for number in range(3):
        cos, sin = cos_sin(start + number * dice.uniform(1.7, 2.2))
        places.append((x0 + spread * cos, spread * sin, lobe, lobe * typical("squeeze"), start))
    for mask in slide.ellipses(places):
        paint(blue, mask, stain)
