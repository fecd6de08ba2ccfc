"""The contract of an SSL algorithm: four members and one pure function of the shape.

To add one: a file with such a class, its options in `scaling/options.py`, a row in `scaling/catalog.py`; the contract
tests then run it.
"""

from __future__ import annotations

from typing import Protocol

from torch import Generator, Tensor, nn


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
