"""A test object as medical physicists image it, and the tasks planted in it, whose need of scale is known. Row 4."""

from __future__ import annotations

import math

import numpy as np

from scaling.data.phantom_anatomy import F32, Anatomy, Dice, Number, add, cos_sin, over_image, paint, ramp
from scaling.data.phantom_light import wave

PLANTED = {"planted_0": 0.0, "planted_25": 0.25, "planted_50": 0.5, "planted_75": 0.75, "planted_100": 1.0}
"""Task -> its need of scale: the share of what tells its two classes apart that lies in fine structure."""
SHIFT = 0.6
"""Of the large insert's grey between the classes where all lies in it, in units of its spread within a class."""


def draw_test_object(dice: Dice, size: int, findings: F32) -> F32:
    """Slice of a cylinder with a large insert of low contrast and four of line pairs, and the detector's noise.

    After the modules of the ACR's CT phantom (McCollough et al. 2004, Med. Phys. 31:2423): contrast of something large
    can be read off a mean, line pairs only where they are resolved; their phase is random, so that no mean of pixels
    over images has them.

    findings: (n, 2 or more) grey of the large insert, about -1.6..1.6; line pairs run up (1) or down (-1) to the right.
    """
    grey, course = findings.T[:2]
    body = Anatomy(dice, size, zoom=(0.9, 1.02), shift=0.06, tilt=0.06, wobble=0.0)
    picture = body.blank(0.04)
    level = dice.uniform(0.42, 0.52)
    paint(picture, body.ellipse(0, 0, 0.95, 0.95), level)
    add(picture, body.ellipse(0, 0, 0.34, 0.34), grey * np.float32(0.3))
    frequency, contrast = dice.uniform(3.4, 4.2), dice.uniform(0.1, 0.22)
    cos, sin = cos_sin(math.pi / 4 + dice.uniform(-0.15, 0.15))
    field = over_image(cos * frequency) * body.axis + (over_image(course * sin * frequency) * body.axis[:, None])
    for x, y in ((-0.46, -0.46), (0.46, -0.46), (-0.46, 0.46), (0.46, 0.46)):
        insert = body.ellipse(x, y, 0.26, 0.26)
        bars = wave(insert.window(field) + over_image(dice.uniform()))
        bars -= np.float32(2 / 3)
        bars *= over_image(contrast)
        window = insert.window(picture)
        window += bars * insert.values
        insert.put(picture, window)
    noise = dice.normal(size, size)
    noise *= over_image(dice.uniform(0.03, 0.06))
    picture += noise
    return ramp(picture)


def show_planted(dice: Dice, labels: F32, need: Number) -> F32:
    """The large insert carries the label as far as no scale is needed, the line pairs as far as it is."""
    sign = 2 * labels[:, 0] - 1
    grey = dice.uniform(-1, 1) + sign * np.float32(SHIFT) * (1 - need)
    agrees = dice.uniform() < (1 + need) / 2
    return np.stack([grey, np.where(agrees, sign, -sign)], axis=1)
