"""The one training loop. Every random choice of a step follows from (seed, step), so a resumed run repeats its bits.

Images stay resident on the device as uint8: no loader processes, no host work between steps.
"""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from scaling import checkpoint
from scaling.algorithms.algorithm import Algorithm
from scaling.catalog import ALGORITHMS
from scaling.cost import shape_of
from scaling.data.source import Images
from scaling.grid import RunSpec
from scaling.models.vit import use_fused_attention
from scaling.optim import adamw, clip, set_schedules
from scaling.options import Recipe
from scaling.rundir import RunDir

LOGGED_STEPS = 100
"""Lines in metrics.jsonl per run: enough for any curve, cheap to read by the thousand."""
TAIL = 0.1
"""Share of the run, its end, over which train_loss is averaged."""


@dataclass(frozen=True, kw_only=True)
class Trained:
    module: nn.Module
    diverged: bool
    images_seen: int
    seconds: float
    """Of training in all attempts, without set-up."""
    train_loss: float | None
    precision: str


def resolve_precision(wanted: str, device: torch.device) -> str:
    """`auto` is bf16 where there are matrix units for it: CUDA since Ampere, CPUs with AMX. Else fp32."""
    if wanted != "auto":
        return wanted
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    has_amx = getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    return "bf16" if device.type == "cpu" and has_amx() else "fp32"


def build(spec: RunSpec, device: torch.device, precision: str) -> nn.Module:
    """The algorithm at its seed's initialisation; attention in the kernel that is fast here.

    On CPU fused bf16 attention is several times slower than plain, fp32 the other way round at 0.5 M and more.
    """
    use_fused_attention(device.type == "cuda" or precision == "fp32")
    torch.manual_seed(spec.seed)
    module: nn.Module = ALGORITHMS[spec.algorithm].load()(shape_of(spec), spec.options)
    return module.to(device)


def step_seed(seed: int, step: int) -> int:
    """One 63-bit seed per (run seed, step): SplitMix64's finaliser, so that neighbours share nothing."""
    z = (seed * 0x9E3779B97F4A7C15 + step + 1) * 0xBF58476D1CE4E5B9 % 2**64
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
    return (z ^ (z >> 31)) >> 1


def batches(n_images: int, batch_size: int, seed: int, start: int) -> Iterator[Tensor]:
    """Indices (batch_size,) per step from step `start` on: epoch after epoch, each in an order of its own."""
    epoch, order = -1, torch.empty(0, dtype=torch.int64)
    for step in range(start, 2**62):
        wanted = torch.arange(step * batch_size, (step + 1) * batch_size)
        parts = []
        for needed in range(int(wanted[0]) // n_images, int(wanted[-1]) // n_images + 1):
            if needed != epoch:
                generator = torch.Generator().manual_seed(step_seed(seed, -1 - needed))
                epoch, order = needed, torch.randperm(n_images, generator=generator)
            parts.append(order[wanted[wanted // n_images == needed] % n_images])
        yield torch.cat(parts)


class Training:
    """A run under way: what a step changes, so that all of it can be kept and taken up again."""

    def __init__(
        self, spec: RunSpec, recipe: Recipe, module: nn.Module, images: Images, device: torch.device, precision: str
    ) -> None:
        self.spec, self.recipe, self.module, self.device, self.precision = spec, recipe, module, device, precision
        self.peak_lr = recipe.lr.resolve(spec.batch_size)
        self.optimizer = adamw(module, recipe, lr=self.peak_lr, device=device)
        self.trained = [p for p in module.parameters() if p.requires_grad]
        self.resident = torch.from_numpy(images).to(device)
        self.generator = torch.Generator(device=device)
        self.n_done = 0
        """Steps."""
        self.seconds = 0.0
        self.lr = 0.0
        self.loss = torch.zeros((), device=device)
        self.terms: dict[str, Tensor] = {}
        self.tail_sum = torch.zeros((), dtype=torch.float64, device=device)
        self.tail_steps = 0

    def restore(self, state: dict[str, Any]) -> None:
        self.module.load_state_dict(state["module"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.n_done, self.seconds = state["n_done"], state["seconds"]
        self.tail_sum, self.tail_steps = state["tail_sum"].to(self.device), state["tail_steps"]

    def state(self) -> dict[str, Any]:
        return {
            "module": self.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "n_done": self.n_done,
            "seconds": self.seconds,
            "tail_sum": self.tail_sum,
            "tail_steps": self.tail_steps,
            "precision": self.precision,
        }

    def step(self, indices: Tensor) -> None:
        """One optimiser step on the images at `indices` (batch_size,); waits for no result of the device."""
        algorithm, spec = cast(Algorithm, self.module), self.spec
        share = self.n_done / spec.n_steps
        self.lr = set_schedules(self.optimizer, self.recipe, (self.n_done + 1) / spec.n_steps, self.peak_lr)
        seed = step_seed(spec.seed, self.n_done)
        torch.manual_seed(seed)  # drop-path draws from the global generator
        self.generator.manual_seed(seed)
        batch = self.resident.index_select(0, indices.to(self.device))
        with _autocast(self.device, self.precision):
            loss, terms = algorithm.loss(batch, progress=share, generator=self.generator)
        loss.backward()
        clip(self.trained, self.recipe.clip_grad)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        algorithm.after_step(share)
        self.n_done += 1
        self.loss, self.terms = loss.detach(), terms
        if self.n_done > spec.n_steps * (1 - TAIL):
            self.tail_sum += self.loss
            self.tail_steps += 1

    def tail_loss(self) -> float | None:
        mean = self.tail_sum.item() / self.tail_steps if self.tail_steps else math.nan
        return mean if math.isfinite(mean) else None


def pretrain(
    spec: RunSpec,
    images: Images,
    run_dir: RunDir,
    *,
    device: torch.device,
    checkpoint_minutes: float,
    guard: Callable[[], None],
    on_step: Callable[[int], None] = lambda step: None,
) -> Trained:
    """Trains from the last checkpoint, or from the start, to the end of the budget or to a non-finite loss.

    `guard` is called before every write and raises when the run belongs to another attempt; `on_step` hears of every
    logged step.
    """
    path = run_dir.path / "checkpoint.pt"
    state = checkpoint.load(path, device)
    precision = state["precision"] if state else resolve_precision(spec.precision, device)
    module = build(spec, device, precision)
    if not isinstance(spec.options, Recipe):
        return Trained(module=module, diverged=False, images_seen=0, seconds=0.0, train_loss=None, precision=precision)
    training = Training(spec, spec.options, module, images, device, precision)
    if state:
        training.restore(state)
    guard()
    run_dir.keep_metrics_until(training.n_done)
    every, diverged = max(1, spec.n_steps // LOGGED_STEPS), False
    order = batches(len(images), spec.batch_size, spec.seed, training.n_done)
    before, started = training.seconds, time.monotonic()
    saved_at = started
    while training.n_done < spec.n_steps and not diverged:
        training.step(next(order))
        at_end = training.n_done == spec.n_steps
        if training.n_done % every == 0 or at_end:
            diverged = not math.isfinite(training.loss.item())
            training.seconds = before + time.monotonic() - started
            guard()
            _log(run_dir, training)
            on_step(training.n_done)
        if time.monotonic() - saved_at >= checkpoint_minutes * 60 and not at_end and not diverged:
            guard()
            training.seconds = before + time.monotonic() - started
            checkpoint.save(path, training.state())
            saved_at = time.monotonic()
    return Trained(
        module=module,
        diverged=diverged,
        images_seen=training.n_done * spec.batch_size,
        seconds=training.seconds,
        train_loss=training.tail_loss(),
        precision=precision,
    )


def _autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager[Any]:
    return torch.autocast(device.type, torch.bfloat16) if precision == "bf16" else contextlib.nullcontext()


def _log(run_dir: RunDir, training: Training) -> None:
    scalars = {"loss": training.loss.item(), **{name: term.item() for name, term in training.terms.items()}}
    line = {
        "step": training.n_done,
        "images_seen": training.n_done * training.spec.batch_size,
        "seconds": round(training.seconds, 3),
        **{name: value for name, value in scalars.items() if math.isfinite(value)},
        "lr": training.lr,
    }
    with open(run_dir.path / "metrics.jsonl", "a") as file:
        file.write(json.dumps(line) + "\n")
