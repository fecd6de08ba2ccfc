"""What a YAML may say about a read-out, as `options.py` has it of algorithms and sources. Row 1."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from scaling.options import Options, Positive


class LinearOptions(Options):
    """L2-regularised logistic regression on standardised features."""

    c_min: Positive = 1e-4
    """Strongest regularisation tried: the smallest inverse L2 strength C."""
    c_max: Positive = 1e2
    """Weakest tried."""
    n_c: int = Field(default=7, ge=1)
    """Values of C tried, evenly spaced in its logarithm; the validation AUC chooses."""

    @model_validator(mode="after")
    def _ordered(self) -> LinearOptions:
        if self.c_min > self.c_max:
            raise PydanticCustomError("order", "c_min is above c_max; give c_min <= c_max")
        return self


class RidgeOptions(Options):
    """Ridge regression of 0/1 targets on standardised features."""

    l2_min: Positive = 1e-4
    """Weakest penalty tried, per training image: |w|^2 beside the mean squared error."""
    l2_max: Positive = 1e2
    """Strongest tried."""
    n_l2: int = Field(default=13, ge=1)
    """Penalties tried, evenly spaced in their logarithm; the validation AUC chooses."""

    @model_validator(mode="after")
    def _ordered(self) -> RidgeOptions:
        if self.l2_min > self.l2_max:
            raise PydanticCustomError("order", "l2_min is above l2_max; give l2_min <= l2_max")
        return self


class KnnOptions(Options):
    """Weighted nearest neighbours by cosine similarity (DINO's protocol)."""

    k: int = Field(default=20, ge=1)
    """Neighbours that vote."""
    temperature: Positive = 0.07
    """A neighbour's vote is exp(similarity / temperature)."""


class BiovfmOptions(Options):
    """The reference study's trained head; defaults of its evaluation/MyLitModel.py (BioVFM@5fc0e0d)."""

    lr: Positive = 1e-2
    """At the first epoch; it falls to 0 by a cosine, epoch by epoch."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """AdamW's."""
    batch_size: int = Field(default=128, ge=2)
    """Images of a step."""
    epochs: int = Field(default=100, ge=1)
    """Passes over the training images."""
