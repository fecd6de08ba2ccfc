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


class Progress:
    """What survives a restart beside weights and optimiser."""

    def __init__(self) -> None:
        self.step = 0
        self.seconds = 0.0
        self.tail_sum = 0.0
        self.tail_steps = 0


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
    recipe, progress = spec.options, Progress()
    peak = recipe.lr.resolve(spec.batch_size)
    optimizer = adamw(module, recipe, lr=peak, device=device)
    if state:
        module.load_state_dict(state["module"])
        optimizer.load_state_dict(state["optimizer"])
        vars(progress).update(state["progress"])
    guard()
    run_dir.keep_metrics_until(progress.step)
    resident = torch.from_numpy(images).to(device)
    generator = torch.Generator(device=device)
    every = max(1, spec.n_steps // LOGGED_STEPS)
    saved_at = time.monotonic()
    trained = [p for p in module.parameters() if p.requires_grad]
    order = batches(len(images), spec.batch_size, spec.seed, progress.step)
    diverged = False
    while progress.step < spec.n_steps and not diverged:
        started = time.monotonic()
        share = progress.step / spec.n_steps
        lr = set_schedules(optimizer, recipe, (progress.step + 1) / spec.n_steps, peak)
        seed = step_seed(spec.seed, progress.step)
        torch.manual_seed(seed)  # drop-path draws from the global generator
        generator.manual_seed(seed)
        batch = resident.index_select(0, next(order).to(device))
        with _autocast(device, precision):
            loss, terms = cast(Algorithm, module).loss(batch, progress=share, generator=generator)
        loss.backward()
        clip(trained, recipe.clip_grad)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        cast(Algorithm, module).after_step(share)
        progress.step += 1
        if progress.step > spec.n_steps * (1 - TAIL):
            progress.tail_sum += loss.item()
            progress.tail_steps += 1
        progress.seconds += time.monotonic() - started
        if progress.step % every == 0 or progress.step == spec.n_steps:
            value = loss.item()
            diverged = not math.isfinite(value)
            guard()
            _log(run_dir, progress, spec, value, lr, terms)
            on_step(progress.step)
        due = time.monotonic() - saved_at >= checkpoint_minutes * 60
        if due and progress.step < spec.n_steps and not diverged:
            guard()
            _save(run_dir, module, optimizer, progress, precision)
            saved_at = time.monotonic()
    tail = progress.tail_sum / progress.tail_steps if progress.tail_steps else None
    return Trained(
        module=module,
        diverged=diverged,
        images_seen=progress.step * spec.batch_size,
        seconds=progress.seconds,
        train_loss=tail if tail is not None and math.isfinite(tail) else None,
        precision=precision,
    )


def _autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager[Any]:
    return torch.autocast(device.type, torch.bfloat16) if precision == "bf16" else contextlib.nullcontext()


def _log(run_dir: RunDir, progress: Progress, spec: RunSpec, loss: float, lr: float, terms: dict[str, Tensor]) -> None:
    values = {"loss": loss, **{name: term.item() for name, term in terms.items()}, "lr": lr}
    line = {
        "step": progress.step,
        "images_seen": progress.step * spec.batch_size,
        "seconds": round(progress.seconds, 3),
        **{name: value for name, value in values.items() if math.isfinite(value)},
    }
    with open(run_dir.path / "metrics.jsonl", "a") as file:
        file.write(json.dumps(line) + "\n")


def _save(
    run_dir: RunDir, module: nn.Module, optimizer: torch.optim.Optimizer, progress: Progress, precision: str
) -> None:
    state = {"module": module.state_dict(), "optimizer": optimizer.state_dict(), "progress": vars(progress)}
    checkpoint.save(run_dir.path / "checkpoint.pt", {**state, "precision": precision})
