"""The contract of an SSL algorithm: four members and one pure function of the shape.

To add one: a file with such a class, its options in `scaling/options.py`, a row in `scaling/catalog.py`; the contract
tests then run it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from torch import Generator, Tensor, nn

from scaling.models.vit import Shape


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What an algorithm costs at a shape, in closed form."""

    n_params: dict[str, int]
    """Trainable parameters by part; `encoder` first."""
    flops_per_image: float
    """Of one training step divided by its batch, multiply-add = 2, backward = 2 x forward; attention counted."""


class Algorithm(Protocol):
    """A module that holds everything trained. Constructed as `Algorithm(shape, options)`."""

    probed: nn.Module
    """Whose features the probes read: images (B, C, H, W), normalised -> tokens (B, 1 + N, D)."""

    def loss(self, images_BCHW: Tensor, *, progress: float, generator: Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """Scalar to minimise and what else to log, for uint8 images. `progress` is the share of the run done, 0-1."""
        ...

    def after_step(self, progress: float) -> None:
        """What follows an optimiser step, such as moving a teacher."""
        ...

    @staticmethod
    def cost(shape: Shape, options: Any) -> Cost: ...
