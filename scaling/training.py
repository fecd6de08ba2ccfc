"""What a YAML may say about how its runs are trained, above all how long. The section `pretrain` of `config.Sweep`.

Row 2, pydantic and the standard library only.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from scaling.document import Location
from scaling.execution import Compile, OnlineProbe
from scaling.options import Options, Positive

BUDGETS = {
    "images_seen": ("equal images", "images_seen: 100000"),
    "flops": ("equal FLOPs", "flops: 1e15"),
    "epochs": ("equal epochs", "epochs: 100"),
}
"""Key of `pretrain` -> what it makes equal, and how it is written; a sweep has one."""


def _one_budget(given: Collection[str]) -> str | None:
    """What is wrong with none or several."""
    if len(given) == 1:
        return None
    if given:
        return f"has {' and '.join(given)}, which are several budgets; keep one"
    ways = ", ".join(f"`{written}` ({equal})" for equal, written in BUDGETS.values())
    return f"does not say how long runs are; add one of {ways}"


def _whole_pass(epochs: float) -> float:
    if epochs < 1:
        text = f"{epochs:g} is less than one pass, so some images would never be seen; write 1 or more"
        raise PydanticCustomError("ours", "{text}", {"text": text})
    return epochs


class Pretrain(Options):
    """How long every run trains, by one rule for all, so that points differ in their axes alone; and in what steps."""

    images_seen: int | None = Field(default=None, gt=0)
    """Equal images: so many are consumed by training; n_images below it are repeated, above it are not all seen."""
    flops: Positive | None = None
    """Equal FLOPs: a run sees as many images as so many training FLOPs (multiply-add = 2) pay for, to the nearest
    batch. By the closed forms, so a correction of one of them makes other runs."""
    epochs: Annotated[float, AfterValidator(_whole_pass)] | None = None
    """Equal epochs: a run sees each of its n_images so often, with its repeats, up to the next whole batch."""
    batch_size: int = Field(default=256, ge=2)
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """auto: what a few steps show to be faster on a CPU, decided once per shape and root; bf16 on GPUs that have it."""
    checkpoint_minutes: float = Field(default=5.0, ge=0)
    """Work lost at most when a run is killed; 0 saves at every step. Not part of the run's identity."""
    online_probe: OnlineProbe = OnlineProbe()
    """Not part of the run's identity either."""
    compile: Compile = "auto"
    """Nor is this."""

    @model_validator(mode="after")
    def _has_one_budget(self) -> Pretrain:
        if wrong := _one_budget(self.given):
            raise PydanticCustomError("ours", "{text}", {"text": wrong})
        return self

    @property
    def given(self) -> dict[str, float]:
        """The key that says how long runs are, with its value."""
        return {key: value for key in BUDGETS if (value := getattr(self, key)) is not None}

    @property
    def budget(self) -> str:
        """What is equal among runs."""
        return next(BUDGETS[key][0] for key in self.given)

    def __str__(self) -> str:
        """`equal FLOPs, 1e+15 a run`."""
        (amount,) = self.given.values()
        return f"{self.budget}, {f'{amount:,}' if self.images_seen else f'{amount:g}'} a run"

    def images(self, n_images: int, flops_per_image: float | None = None) -> int:
        """Images that a run on so many unique ones sees; `flops_per_image` is needed where FLOPs are equal."""
        if self.images_seen is not None:
            return self.images_seen
        if self.epochs is not None:
            return -(-round(self.epochs * n_images) // self.batch_size) * self.batch_size
        assert self.flops is not None
        assert flops_per_image is not None
        return max(1, round(self.flops / (flops_per_image * self.batch_size))) * self.batch_size


def problems(raw: Mapping[str, Any]) -> Iterator[tuple[Location, str]]:
    """As `Pretrain` says it, which is silent where another of its keys is wrong."""
    section = raw.get("pretrain")
    if isinstance(section, dict) and (wrong := _one_budget([key for key in BUDGETS if section.get(key) is not None])):
        yield ("pretrain",), wrong
