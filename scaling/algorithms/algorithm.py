"""The contract of an SSL algorithm: four members and one pure function of the shape; one more if it couples images or
learns from labels.

To add one: a file with such a class, its options in `scaling/options.py`, a row in `scaling/catalog.py`; the contract
tests then run it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import Tensor, nn

from scaling.parallel import Draws


class Algorithm(Protocol):
    """A module that holds everything trained. Constructed as `Algorithm(shape, options)`."""

    probed: nn.Module
    """Whose features the probes read: images (B, C, H, W), normalised -> tokens (B, 1 + N, D)."""

    def loss(self, images_BCHW: Tensor, *, progress: float, draws: Draws) -> tuple[Tensor, dict[str, Tensor]]:
        """Scalar to minimise and what else to log, for uint8 images. `progress` is the share of the run done, 0-1.

        Both are means over the images: a step may ask for them part by part, here and in other processes, and weights
        each by its images. Random numbers come from `draws`, one for each image. What looks across images asks
        `scaling.parallel` for those of other processes, every process as often and in the same order, and is
        `Coupled`; parameters without a gradient are the same in every part.
        """
        ...

    def after_step(self, progress: float) -> None:
        """What follows an optimiser step, once for all its parts, such as moving a teacher."""
        ...


@runtime_checkable
class Coupled(Algorithm, Protocol):
    """An algorithm whose loss looks across images, and is still that of the whole batch when a step has many parts."""

    def look_ahead(self, parts: Iterable[tuple[Tensor, Draws]], *, progress: float) -> None:
        """Takes from the images and draws of all parts here what `loss` must know of the others, part by part and
        without gradients. Called before the losses of a step that has several parts in this process; `after_step`
        forgets it."""
        ...


@runtime_checkable
class Labelled(Algorithm, Protocol):
    """An algorithm that learns from labels. Its options have `labels`, which a plan fills in."""

    label_width: int
    """Values of a label."""

    def tell(self, labels_BL: Tensor) -> None:
        """Labels of the whole batch (B, 1 + label_width), int64, as `scaling.data.labels.label_rows`, before the losses
        of a step; every process knows all of them."""
        ...


@dataclass(frozen=True, kw_only=True)
class Picture:
    rows: Mapping[str, Tensor]
    """Name -> uint8 images (B, 1 or C, H, W), all of one size."""
    caption: str
    """A line on what the rows show."""


@runtime_checkable
class Pictured(Protocol):
    """An algorithm that can show what it learned."""

    def picture(self, images_BCHW: Tensor) -> Picture | None:
        """Of uint8 images, in eval mode and without gradients; None where its options train nothing that could be
        shown. Draws nothing from the global generators."""
        ...
