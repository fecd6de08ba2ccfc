"""One picture per run, for people to judge what it learned: what an algorithm's `picture` shows of a few of its images.

Written into the run directory and sent to MLflow; no report shows it, as real images may not be passed on.
"""

from __future__ import annotations

import io
from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch import nn

from scaling.algorithms.algorithm import Pictured
from scaling.data.rows import Stored
from scaling.data.source import Images
from scaling.health import Context, at_rest

N_IMAGES = 8
LEAST, MARGIN, LABEL, LINE = 96, 4, 110, 14
"""Pixels: an image's least side on the sheet, gap between images, width of the rows' names, height of a line."""
SYNTHETIC = "All images are synthetic: drawn by rule, none is a patient."


def picture(
    module: nn.Module, images: Stored, *, device: torch.device, context: Context, synthetic: bool
) -> bytes | None:
    """PNG of evenly spaced images of the run; None for an algorithm that shows nothing. No bit of `module` changes."""
    if not isinstance(module, Pictured) or not len(images):
        return None
    rows = np.linspace(0, len(images) - 1, min(N_IMAGES, len(images))).round().astype(int)
    chosen = torch.from_numpy(np.ascontiguousarray(images[rows])).to(device)
    with at_rest(module, context):
        shown = module.picture(chosen)
    if shown is None:
        return None
    lines = [shown.caption, *([SYNTHETIC] if synthetic else [])]
    return sheet({name: tensor.cpu().numpy() for name, tensor in shown.rows.items()}, lines)


def sheet(rows: Mapping[str, Images], lines: list[str]) -> bytes:
    """PNG: one row of images per name, enlarged to whole pixels, and the lines below."""
    first = next(iter(rows.values()))
    tile = first.shape[-1] * -(-LEAST // first.shape[-1])
    step = tile + MARGIN
    width = LABEL + len(first) * step
    canvas = Image.new(
        "RGB", (max(width, 7 * max(map(len, lines))), len(rows) * step + LINE * len(lines) + MARGIN), "white"
    )
    pen = ImageDraw.Draw(canvas)
    for row, (name, images) in enumerate(rows.items()):
        pen.text((MARGIN, row * step + tile // 2 - LINE // 2), name, fill="black")
        for column, image in enumerate(images):
            at = (LABEL + column * step, row * step)
            canvas.paste(Image.fromarray(_rgb(image)).resize((tile, tile), Image.Resampling.NEAREST), at)
    for i, line in enumerate(lines):
        pen.text((MARGIN, len(rows) * step + i * LINE), line, fill="black")
    png = io.BytesIO()
    canvas.save(png, "PNG", optimize=True)
    return png.getvalue()


def _rgb(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(channels, height, width) -> (height, width, 3)."""
    return np.ascontiguousarray(np.broadcast_to(image, (3, *image.shape[1:])).transpose(1, 2, 0))
