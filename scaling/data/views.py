"""Augmentation of a whole batch at once on its device, every image with its own random parameters.

All randomness comes from the draws passed in, so a step can be repeated bit by bit, whole or in parts.
Letters: B batch, C channels, H = W pixels.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec

import torch
from torch import Tensor
from torch.nn import functional as F

from scaling.parallel import Draws

P = ParamSpec("P")
MEAN, STD = 0.5, 0.25
"""One pair for every modality: values 0-255 become -2 to 2, grey stays grey."""
LUMINANCE = (0.299, 0.587, 0.114)


def normalise(images_BCHW: Tensor) -> Tensor:
    """uint8 0-255 -> float32 -2 to 2."""
    return images_BCHW.float().div_(255 * STD).sub_(MEAN / STD)


def pixels(images_BCHW: Tensor) -> Tensor:
    """`normalise` undone: float -> uint8, cut off at 0 and 255."""
    return (images_BCHW.float() * (255 * STD) + 255 * MEAN).round().clamp(0, 255).to(torch.uint8)


def full_precision(view: Callable[P, Tensor]) -> Callable[P, Tensor]:
    """Runs a view outside autocast: bf16 coordinates would shift crops by half a pixel of 224."""

    @functools.wraps(view)
    def outside(*args: P.args, **kwargs: P.kwargs) -> Tensor:
        images = args[0]
        assert isinstance(images, Tensor)
        with torch.autocast(images.device.type, enabled=False):
            return view(*args, **kwargs)

    return outside


@full_precision
def random_crop(
    images_BCHW: Tensor, size: int, scale: tuple[float, float], draws: Draws, *, flip: bool = True
) -> Tensor:
    """Crop of random area, aspect 3/4 to 4/3 and place, resized to `size` pixels; with `flip` half of them mirrored.

    One affine sampling, bilinear without anti-aliasing: a crop is mostly enlarged, at 28-64 pixels hardly shrunk.
    """
    b = len(images_BCHW)
    area = draws.uniform((b,), *scale)
    aspect = torch.exp(draws.uniform((b,), -0.2877, 0.2877))  # ln(4/3)
    width, height = (area * aspect).sqrt().clamp(max=1), (area / aspect).sqrt().clamp(max=1)
    x = (1 - width) * draws.uniform((b,), -1, 1)
    y = (1 - height) * draws.uniform((b,), -1, 1)
    side = torch.where(draws.uniform((b,)) < 0.5, -1.0, 1.0) if flip else 1.0
    zero = torch.zeros_like(x)
    rows = [torch.stack([width * side, zero, x], dim=1), torch.stack([zero, height, y], dim=1)]
    grid = F.affine_grid(torch.stack(rows, dim=1), [b, images_BCHW.shape[1], size, size], align_corners=False)
    return F.grid_sample(images_BCHW, grid, mode="bilinear", padding_mode="border", align_corners=False)


@full_precision
def jitter(
    images_BCHW: Tensor,
    draws: Draws,
    *,
    probability: float = 0.8,
    light: float = 0.4,
    saturation: float = 0.2,
    hue: float = 0.1,
) -> Tensor:
    """Brightness and contrast +-`light`; for colour also saturation, hue in turns, and grey in a fifth.

    By default DINOv2's amounts (dinov2/data/augmentations.py). One 3x3 matrix and one offset an image.
    """
    b, c = images_BCHW.shape[:2]
    brightness, contrast = (draws.uniform((b,), 1 - light, 1 + light) for _ in range(2))
    on = draws.uniform((b,)) < probability
    gain = torch.where(on, brightness * contrast, 1.0)[:, None, None]
    lift = torch.where(on, (brightness - 1) * MEAN / STD, 0.0)[:, None, None]
    keep = torch.where(on, brightness * (1 - contrast), 0.0)[:, None, None]
    offset_B11 = images_BCHW.mean(dim=(1, 2, 3))[:, None, None] * keep + lift
    if c != 3:
        return torch.addcmul(offset_B11[..., None], images_BCHW, gain[..., None])
    matrix_B33 = _colour_matrix(b, on, draws, saturation, hue) * gain
    return torch.baddbmm(offset_B11, matrix_B33, images_BCHW.flatten(2)).view_as(images_BCHW)


def _colour_matrix(b: int, on: Tensor, draws: Draws, most_saturation: float, most_hue: float) -> Tensor:
    """(B, 3, 3): hue as a rotation about the grey axis (Rodrigues), then saturation towards luminance."""
    angle = torch.where(on, draws.uniform((b,), -most_hue, most_hue) * 2 * torch.pi, 0.0)
    saturation = torch.where(on, draws.uniform((b,), 1 - most_saturation, 1 + most_saturation), 1.0)
    saturation = torch.where(draws.uniform((b,)) < 0.2, 0.0, saturation)
    eye = torch.eye(3, device=angle.device)
    ones = torch.full((3, 3), 1 / 3, device=angle.device)
    skew = torch.tensor([[0.0, -1, 1], [1, 0, -1], [-1, 1, 0]], device=angle.device) / 3**0.5
    cos, sin = angle.cos()[:, None, None], angle.sin()[:, None, None]
    hue = cos * eye + (1 - cos) * ones + sin * skew
    grey = torch.tensor(LUMINANCE, device=angle.device).expand(3, 3)
    s = saturation[:, None, None]
    return (s * eye + (1 - s) * grey) @ hue


@full_precision
def blur(images_BCHW: Tensor, draws: Draws, *, probability: float) -> Tensor:
    """Gaussian of 0.1 to 2 pixels at 224 pixels, in proportion for other sizes, five taps each way.

    As a matrix product along each axis, which is many times faster than to add up shifted images.
    """
    b, size = len(images_BCHW), images_BCHW.shape[-1]
    sigma = (draws.uniform((b,), 0.1, 2.0) * size / 224).clamp(min=0.05)
    taps = torch.arange(-2, 3, device=sigma.device)
    weight_B5 = torch.exp(-(taps**2) / (2 * sigma[:, None] ** 2))
    identity = (taps == 0).float()
    on = draws.uniform((b, 1)) < probability
    weight_B5 = torch.where(on, weight_B5 / weight_B5.sum(dim=1, keepdim=True), identity)
    taken = torch.arange(size, device=sigma.device) + taps[:, None]
    taken = (size - 1 - (size - 1 - taken.abs()).abs())[..., None]  # mirrored at the outermost pixels
    reads_5HH = (taken == torch.arange(size, device=sigma.device)).float()
    matrix_B1HH = (weight_B5 @ reads_5HH.flatten(1)).view(b, 1, size, size)
    return matrix_B1HH @ images_BCHW @ matrix_B1HH.mT


def solarise(images_BCHW: Tensor, draws: Draws, *, probability: float) -> Tensor:
    """Values above the middle are mirrored at it."""
    on = (draws.uniform((len(images_BCHW),)) < probability)[:, None, None, None]
    return torch.where(on, -images_BCHW.abs(), images_BCHW)
