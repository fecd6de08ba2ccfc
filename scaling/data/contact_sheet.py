"""A picture of what a synthetic source draws, for people to judge. Never of real images: their licences differ."""

from __future__ import annotations

import io
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from scaling.data.source import Images, Source

PER_MODALITY = 12
TILE, MARGIN, LABEL = 72, 4, 100
"""Pixels of the sheet: side of an image, gap between images, width of the names."""


def sample(source: Source) -> dict[str, Images]:
    """The first images of each modality of the pool, as the source numbers them."""
    pool = source.pool()
    first = {name: np.flatnonzero(pool.modality == code)[:PER_MODALITY] for code, name in enumerate(pool.modalities)}
    return {name: source.read(indices) for name, indices in first.items()}


def contact_sheet(rows: Mapping[str, Images], footer: str) -> bytes:
    """PNG of one row of images per name, enlarged without smoothing, with `footer` written below."""
    step = TILE + MARGIN
    sheet = Image.new("RGB", (LABEL + PER_MODALITY * step, len(rows) * step + 20), "white")
    pen = ImageDraw.Draw(sheet)
    pen.font = ImageFont.load_default_imagefont()  # sharp at its only size; Pillow's outline font runs words together
    for row, (name, images) in enumerate(rows.items()):
        pen.text((MARGIN, row * step + TILE // 2 - 6), name, fill="black")
        for column, image in enumerate(images[:PER_MODALITY]):
            tile = Image.fromarray(_rgb(image)).resize((TILE, TILE), Image.Resampling.NEAREST)
            sheet.paste(tile, (LABEL + column * step, row * step))
    pen.text((MARGIN, len(rows) * step + 3), footer, fill="black")
    png = io.BytesIO()
    sheet.save(png, "PNG", optimize=True)
    return png.getvalue()


def _rgb(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(channels, height, width) -> (height, width, 3)."""
    return np.ascontiguousarray(np.broadcast_to(image, (3, *image.shape[1:])).transpose(1, 2, 0))
