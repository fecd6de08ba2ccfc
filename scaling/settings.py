"""With what a run trains, in words for the observation table: its recipe, its learning rate, what sets it apart."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from pydantic import BaseModel

from scaling.grid import RunSpec
from scaling.options import Options, Recipe

FOUND = ("labels",)
"""Options that a plan fills in from the images, which the table names anyway."""


def recipe(options: Options) -> str:
    """Its name; empty where an algorithm has its defaults or none."""
    return str(getattr(options, "recipe", "") or "")


def peak_lr(spec: RunSpec) -> float | None:
    """Highest learning rate of the run; None for what does not train."""
    options = spec.options
    return options.lr.resolve(spec.batch_size) if isinstance(options, Recipe) else None


def differences(runs: Sequence[Options]) -> list[str]:
    """Of each, `name=value;...` of the options in which they are not all alike, nested ones as lr.base; by name."""
    flat = [dict(_flat(options, "")) for options in runs]
    names = sorted({name for one in flat for name in one})
    unlike = [name for name in names if len({one.get(name) for one in flat}) > 1]
    return [";".join(f"{name}={one[name]}" for name in unlike if name in one) for one in flat]


def _flat(options: BaseModel, prefix: str) -> Iterator[tuple[str, str]]:
    for name in type(options).model_fields:
        value: Any = getattr(options, name)
        if name in FOUND:
            continue
        if isinstance(value, BaseModel):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
