"""The one training loop. Every random choice of a step follows from (seed, step), so a resumed run repeats its bits.

Images stay resident on the device as uint8: no loader processes, no host work between steps.
"""

from __future__ import annotations

import contextlib
import math
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from scaling import checkpoint, parallel
from scaling.algorithms.algorithm import Algorithm, Coupled
from scaling.attempt import Attempt
from scaling.catalog import ALGORITHMS
from scaling.cost import shape_of
from scaling.data.source import Images
from scaling.environment import Meter
from scaling.errors import RunFailed
from scaling.failures import Stopped
from scaling.grid import RunSpec
from scaling.models.vit import DropPath, use_fused_attention
from scaling.optim import adamw, clip, set_schedules
from scaling.options import Recipe
from scaling.parallel import Draws, Part

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
        self,
        spec: RunSpec,
        recipe: Recipe,
        module: nn.Module,
        images: Images,
        device: torch.device,
        precision: str,
        *,
        n_micro: int = 1,
    ) -> None:
        self.spec, self.recipe, self.module, self.device, self.precision = spec, recipe, module, device, precision
        self.peak_lr = recipe.lr.resolve(spec.batch_size)
        self.optimizer = adamw(module, recipe, lr=self.peak_lr, device=device)
        self.trained = [p for p in module.parameters() if p.requires_grad]
        self.resident = torch.from_numpy(images).to(device)
        self.generator = torch.Generator(device=device)
        self.dropping = [m for m in module.modules() if isinstance(m, DropPath)]
        if spec.batch_size < parallel.n_ranks():
            raise RunFailed(f"a batch of {spec.batch_size} cannot be shared by {parallel.n_ranks()} processes")
        self.n_micro = min(n_micro, spec.batch_size // parallel.n_ranks())
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
        """One optimiser step on the images at `indices` (batch_size,), all of them on every rank; waits for no result
        of the device."""
        algorithm, spec = cast(Algorithm, self.module), self.spec
        share = self.n_done / spec.n_steps
        self.lr = set_schedules(self.optimizer, self.recipe, (self.n_done + 1) / spec.n_steps, self.peak_lr)
        self._differentiate(algorithm, indices, share)
        clip(self.trained, self.recipe.clip_grad)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        algorithm.after_step(share)
        self.n_done += 1
        if self.n_done > spec.n_steps * (1 - TAIL):
            self.tail_sum += self.loss
            self.tail_steps += 1

    def _differentiate(self, algorithm: Algorithm, indices: Tensor, progress: float) -> None:
        """Gradients, loss and terms of the global batch, from this rank's micro-batches and the other ranks'."""
        if self.n_micro > 1 and isinstance(algorithm, Coupled):
            with _autocast(self.device, self.precision):
                algorithm.look_ahead(self._parts(indices), progress=progress)
        sums: dict[str, Tensor] = {}
        for images, draws in self._parts(indices):
            with _autocast(self.device, self.precision):
                loss, terms = algorithm.loss(images, progress=progress, draws=draws)
            if draws.share == 1:
                loss.backward()
                self.loss, self.terms = loss.detach(), terms
                return
            (loss * draws.share).backward()
            for name, value in {"loss": loss.detach(), **terms}.items():
                sums[name] = sums.get(name, 0) + value.float() * draws.share
        parallel.reduce_gradients(self.trained)
        means = parallel.total(torch.stack(list(sums.values())))
        self.loss, *rest = means.unbind()
        self.terms = dict(zip(list(sums)[1:], rest, strict=True))

    def _parts(self, indices: Tensor) -> Iterator[tuple[Tensor, Draws]]:
        """Images and draws of this rank's micro-batches, the same ones however often a step goes through them.

        The m-th micro-batches of all ranks are neighbours in the batch, so that gathered one after the other they are
        in its order.
        """
        seed, n_ranks = step_seed(self.spec.seed, self.n_done), parallel.n_ranks()
        for micro in range(self.n_micro):
            part = Part.of(len(indices), micro * n_ranks + parallel.rank(), self.n_micro * n_ranks)
            torch.manual_seed(seed)  # drop-path draws from the global generator
            self.generator.manual_seed(seed)
            for module in self.dropping:
                module.part = part
            images = self.resident.index_select(0, part.rows(indices).to(self.device))
            yield images, Draws(self.generator, part)

    def tail_loss(self) -> float | None:
        mean = self.tail_sum.item() / self.tail_steps if self.tail_steps else math.nan
        return mean if math.isfinite(mean) else None


def _last_state(attempt: Attempt, path: Path, device: torch.device) -> dict[str, Any] | None:
    """Of the checkpoint; None where there is none, or one that a disk or a person damaged, which is set aside."""
    try:
        return checkpoint.load(path, device)
    except (OSError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # unpickling what is no pickle raises almost anything
        aside, kind = path.with_name("checkpoint.pt.damaged"), type(error).__name__
        print(f"{path} is damaged ({kind}); kept as {aside.name}, the run starts again", file=sys.stderr)
        attempt.set_aside(path, aside)
        return None


def pretrain(
    spec: RunSpec,
    images: Images,
    attempt: Attempt,
    *,
    device: torch.device,
    checkpoint_minutes: float,
    n_micro: int = 1,
    on_step: Callable[[int], None] = lambda step: None,
) -> Trained:
    """Trains from the last checkpoint, or from the start, to the end of the budget or to a non-finite loss.

    `on_step` hears of every logged step. Raises Stopped, with its checkpoint saved, when asked to stop; LeaseLost,
    having written nothing more, when the run belongs to another attempt.
    """
    path = attempt.path / "checkpoint.pt"
    state = _last_state(attempt, path, device)
    precision = state["precision"] if state else resolve_precision(spec.precision, device)
    module = build(spec, device, precision)
    if not isinstance(spec.options, Recipe):
        return Trained(module=module, diverged=False, images_seen=0, seconds=0.0, train_loss=None, precision=precision)
    training = Training(spec, spec.options, module, images, device, precision, n_micro=n_micro)
    if state:
        training.restore(state)
    attempt.keep_metrics_until(training.n_done)
    diverged = _train(training, attempt, path, len(images), checkpoint_minutes * 60, on_step)
    return Trained(
        module=module,
        diverged=diverged,
        images_seen=training.n_done * spec.batch_size,
        seconds=training.seconds,
        train_loss=training.tail_loss(),
        precision=precision,
    )


def _train(
    training: Training,
    attempt: Attempt,
    path: Path,
    n_images: int,
    save_every: float,
    on_step: Callable[[int], None],
) -> bool:
    """Whether it diverged."""
    spec, meter = training.spec, Meter(training.device)
    every, diverged = max(1, spec.n_steps // LOGGED_STEPS), False
    order = batches(n_images, spec.batch_size, spec.seed, training.n_done)
    before, started = training.seconds, time.monotonic()
    saved_at = started
    while training.n_done < spec.n_steps and not diverged:
        training.step(next(order))
        at_end = training.n_done == spec.n_steps
        if training.n_done % every == 0 or at_end:
            diverged = not math.isfinite(training.loss.item())
            training.seconds = before + time.monotonic() - started
            attempt.append(attempt.path / "metrics.jsonl", _line(training, meter))
            on_step(training.n_done)
        stop = parallel.any_rank(attempt.pulse())  # all at the same step
        if at_end or diverged:
            break
        if stop or time.monotonic() - saved_at >= save_every:
            training.seconds = before + time.monotonic() - started
            if attempt.writes:
                checkpoint.save(path, training.state(), place=attempt.replacing)
            saved_at = time.monotonic()
        if stop:
            parallel.barrier()  # a rank that ends earlier would have the first one killed while it saves
            raise Stopped(f"asked to stop; saved at step {training.n_done} of {spec.n_steps}")
    return diverged


def _autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager[Any]:
    return torch.autocast(device.type, torch.bfloat16) if precision == "bf16" else contextlib.nullcontext()


def _line(training: Training, meter: Meter) -> dict[str, Any]:
    """What is logged of a step; values that are not finite are left out."""
    scalars = {"loss": training.loss.item(), **{name: term.item() for name, term in training.terms.items()}}
    return {
        "step": training.n_done,
        "images_seen": training.n_done * training.spec.batch_size,
        "seconds": round(training.seconds, 3),
        "time": round(time.time(), 3),
        **{name: value for name, value in scalars.items() if math.isfinite(value)},
        "lr": training.lr,
        **meter.read(),
    }
