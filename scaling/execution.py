"""What a YAML may say about how its runs are carried out. None of it is part of a run's identity.

Row 2: sections of `config.Sweep`; standard library and pydantic only.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field
from pydantic_core import PydanticCustomError

from scaling.failures import POLICIES, FailureClass, Policy
from scaling.options import BY_TYPE, Options, Other, Positive, Text

SHORTEST_SILENCE = 30.0
UNITS = {"s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0}

Compile = Literal["auto", "always", "never"]
"""Whether transformer blocks are compiled for training. auto: on a GPU, where a few steps show it to be worth its time
in a run of 20 minutes or more whose precision is `auto` and that one process computes. Words, as YAML's `on` is true.
"""


class OnlineProbe(Options):
    """Validation AUC of a ridge read-out along each run, as `probe_auc/TASK` beside its loss."""

    tasks: Annotated[Annotated[Literal["auto", "none"], Text] | Annotated[list[str], Other], BY_TYPE] = "auto"
    """auto: one or two of the sweep's, with as many images as 1 % of the training's FLOPs buy, none in a run too short
    for that; tasks that are named here are followed whatever it costs."""
    points: int = Field(default=10, ge=1, le=100)
    """Read-outs, spread evenly over the run."""


def _seconds(value: Any) -> Any:
    """`90 min`, `48h` -> seconds."""
    if value is None:
        return None
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(s|min|h|d)\s*", value) if isinstance(value, str) else None
    if not found:
        text = f"{value!r} is no duration; write a number and its unit (s, min, h, d), as in 90min, 48h or 7d"
        raise PydanticCustomError("ours", "{text}", {"text": text})
    return float(found[1]) * UNITS[found[2]]


def _long_enough(seconds: float) -> float:
    if seconds < SHORTEST_SILENCE:
        what = f"would end healthy runs, which give a sign of life every few seconds; at least {SHORTEST_SILENCE:g}s"
        raise PydanticCustomError("ours", "{text}", {"text": what})
    return seconds


Duration = Annotated[float, BeforeValidator(_seconds)]
"""Seconds, written as `48h`."""


def _share(gpus: float) -> float:
    """Whole GPUs, or 1/k of one: other shares leave a rest that no run can use."""
    k = round(1 / gpus) if 0 < gpus < 1 else 1
    if gpus == round(gpus) or (gpus < 1 and abs(gpus * k - 1) < 0.02):
        return gpus
    near = sorted({1 / k, 1 / (k + 1), 1 / max(1, k - 1)}, key=lambda share: abs(share - gpus))[:2]
    allowed = near if gpus < 1 else [int(gpus), int(gpus) + 1]
    words = " and ".join(f"{share:.3g}" for share in sorted(allowed))
    text = f"{gpus:g} is neither a whole number of GPUs nor 1/k of one; the nearest that are: {words}"
    raise PydanticCustomError("ours", "{text}", {"text": text})


class Resources(Options):
    """What one run gets."""

    gpus: Annotated[
        Annotated[Literal["auto", "packed"], Text]
        | Annotated[Annotated[float, Field(ge=0), AfterValidator(_share)], Other],
        BY_TYPE,
    ] = "auto"
    """auto: one GPU where there are any, else none; packed: as many runs share a GPU as their measured memory allows
    (`scaling calibrate`); a number: that many whole GPUs, or 1/k for one of k runs that share one."""
    cpus: int = Field(default=1, ge=1)
    memory_gb: Annotated[float, Field(gt=0)] | None = None
    """Host memory of a run, GiB; null is not counted."""
    accelerator: str | None = None
    """GPU type a node must have, e.g. H100; null takes any."""
    processes: int | None = Field(default=None, ge=1)
    """Ranks that share one run under torchrun; null = one per whole GPU."""


class Schedule(Options):
    """Which run goes first."""

    order: Literal["cheapest", "longest"] = "cheapest"
    """cheapest: mistakes and first fits show early; longest: the whole sweep ends sooner."""
    priority: int = 0
    """Among sweeps that share a root; the higher goes first."""
    patience: Duration = 3600.0
    """A run that has waited this long is overtaken by nothing that came later, and a node is kept free for it."""


class Budget(Options):
    """What the sweep may use over its life, measured, all attempts of all calls together; null is no limit."""

    gpu_hours: Positive | None = None
    cpu_hours: Positive | None = None
    wall: Duration | None = None
    """Of one call of `scaling run`."""
    on_hit: Literal["drain", "stop"] = "drain"
    """drain: what runs may finish; stop: it saves its checkpoint and goes. Neither starts anything new."""


class Retry(Options):
    """Further attempts per class of failure, within one call of `scaling run`."""

    gpu_oom: int = Field(default=POLICIES["gpu_oom"].tries, ge=0)
    """Each with half the micro-batch at the same batch, on a whole GPU; behind single images, with activations computed
    anew."""
    host_oom: int = Field(default=POLICIES["host_oom"].tries, ge=0)
    """Each with 1.5 x the host memory."""
    preempted: int = Field(default=POLICIES["preempted"].tries, ge=0)
    hang: int = Field(default=POLICIES["hang"].tries, ge=0)
    io: int = Field(default=POLICIES["io"].tries, ge=0)
    error: int = Field(default=POLICIES["error"].tries, ge=0)
    hang_after: Annotated[Duration, AfterValidator(_long_enough)] = 600.0
    """A run without a sign of life for this long, or for 20 of its steps if that is longer, hangs."""

    def policies(self) -> dict[FailureClass, Policy]:
        return {
            kind: Policy(tries=getattr(self, kind), backoff=known.backoff, longest=known.longest)
            for kind, known in POLICIES.items()
        }
