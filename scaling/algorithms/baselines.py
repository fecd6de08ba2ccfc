"""References that do not train: the encoder at initialisation, and the image itself."""

from __future__ import annotations

from torch import Tensor, nn

from scaling.models.shape import Shape
from scaling.models.vit import Encoder, patchify
from scaling.options import BaselineOptions
from scaling.parallel import Draws


class _Untrained(nn.Module):
    def loss(self, images_BCHW: Tensor, *, progress: float, draws: Draws) -> tuple[Tensor, dict[str, Tensor]]:
        raise RuntimeError("a baseline has no steps, so nothing may ask for its loss")

    def after_step(self, progress: float) -> None:
        """Nothing follows a step."""


class Random(_Untrained):
    """What the architecture alone gives."""

    def __init__(self, shape: Shape, options: BaselineOptions) -> None:
        super().__init__()
        self.probed = Encoder(shape)


class Patches(nn.Module):
    """All pixels as one token: a linear read-out of it is a linear read-out of the image."""

    def __init__(self, patch_size: int) -> None:
        super().__init__()
        self.patch_size = patch_size

    def forward(self, images_BCHW: Tensor) -> Tensor:
        return patchify(images_BCHW, self.patch_size).flatten(1)[:, None]


class Pixels(_Untrained):
    """What the task gives without any encoder."""

    def __init__(self, shape: Shape, options: BaselineOptions) -> None:
        super().__init__()
        self.probed = Patches(shape.patch_size)
