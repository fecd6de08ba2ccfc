"""The one training loop. Every random choice of a step follows from (seed, step), so a resumed run repeats its bits.

Images are resident on the device as uint8, or read ahead by a thread: no loader processes.
"""

from __future__ import annotations

import contextlib
import math
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from scaling import checkpoint, parallel
from scaling.algorithms.algorithm import Algorithm, Coupled, Labelled
from scaling.attempt import Attempt
from scaling.catalog import ALGORITHMS
from scaling.cost import shape_of
from scaling.data.feed import feed_of
from scaling.data.order import batches, step_seed
from scaling.data.rows import Stored
from scaling.environment import Meter
from scaling.errors import RunFailed
from scaling.failures import Stopped
from scaling.grid import RunSpec
from scaling.health import Context, Watch, due
from scaling.kernels import Kernels, by_rule
from scaling.models.block import compile_blocks, recompute_blocks
from scaling.models.vit import DropPath, use_fused_attention
from scaling.optim import adamw, clip, set_schedules
from scaling.options import Recipe
from scaling.parallel import Draws, Part

LOGGED_STEPS = 100
"""Lines in metrics.jsonl per run: enough for any curve, cheap to read by the thousand."""
TAIL = 0.1
"""Share of the run, its end, over which train_loss is averaged."""
Status = Literal["done", "diverged", "collapsed"]
"""How training ends."""


class Follow(Protocol):
    """What is asked of the encoder along the run."""

    points: int
    """How often, evenly."""

    def __call__(self, encoder: nn.Module, context: Context) -> dict[str, float]:
        """Values by their names in metrics.jsonl; `encoder` is in training and must be left as it is."""
        ...


@dataclass(frozen=True, kw_only=True)
class Trained:
    module: nn.Module
    status: Status
    reason: str = ""
    """Of a run that is not done."""
    images_seen: int
    seconds: float
    """Of training in all attempts, without set-up."""
    gpu_seconds: float = 0.0
    """The same times the GPUs that each attempt held."""
    train_loss: float | None
    kernels: Kernels


def build(spec: RunSpec, device: torch.device, kernels: Kernels, *, recomputed: bool = False) -> nn.Module:
    """The algorithm at its seed's initialisation; `recomputed` as `Job` has it."""
    use_fused_attention(kernels.fused)
    torch.manual_seed(spec.seed)
    module: nn.Module = ALGORITHMS[spec.algorithm].load()(shape_of(spec), spec.options)
    if recomputed:
        recompute_blocks(module)
    return module.to(device)


class Training:
    """A run under way: what a step changes, so that all of it can be kept and taken up again."""

    def __init__(
        self,
        spec: RunSpec,
        recipe: Recipe,
        module: nn.Module,
        images: Stored,
        device: torch.device,
        kernels: Kernels,
        *,
        n_micro: int = 1,
        labels: NDArray[np.int64] | None = None,
        n_gpus: float = 0.0,
    ) -> None:
        self.spec, self.recipe, self.module, self.device, self.kernels = spec, recipe, module, device, kernels
        self.peak_lr = recipe.lr.resolve(spec.batch_size)
        self.optimizer = adamw(module, recipe, lr=self.peak_lr, device=device)
        self.compiling = compile_blocks(module) if kernels.compiled else None
        self.trained = [p for p in module.parameters() if p.requires_grad]
        self.labels = None if labels is None else torch.from_numpy(labels).to(device)
        self.generator = torch.Generator(device=device)
        self.dropping = [m for m in module.modules() if isinstance(m, DropPath)]
        if spec.batch_size < parallel.n_ranks():
            raise RunFailed(f"a batch of {spec.batch_size} cannot be shared by {parallel.n_ranks()} processes")
        self.n_micro, n_ranks = min(n_micro, spec.batch_size // parallel.n_ranks()), parallel.n_ranks()
        mine = range(parallel.rank(), self.n_micro * n_ranks, n_ranks)
        self.feed = feed_of(images, [Part.of(spec.batch_size, i, self.n_micro * n_ranks) for i in mine], device)
        self.n_done = 0
        """Steps."""
        self.seconds = 0.0
        self.n_gpus, self.before = n_gpus, (0.0, 0.0)
        """Of this attempt; seconds and GPU-seconds of those before it."""
        self.lr = 0.0
        self.loss = torch.zeros((), device=device)
        self.terms: dict[str, Tensor] = {}
        self.tail_sum = torch.zeros((), dtype=torch.float64, device=device)
        self.tail_steps = 0

    @property
    def used(self) -> Kernels:
        """`kernels`, or without compiling where that failed."""
        return replace(self.kernels, compiled=self.compiling is not None and not self.compiling.failed)

    def restore(self, state: dict[str, Any]) -> None:
        self.module.load_state_dict(state["module"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.n_done, self.seconds = state["n_done"], state["seconds"]
        self.before = self.seconds, state.get("gpu_seconds", self.seconds * self.n_gpus)  # older: as now
        self.tail_sum, self.tail_steps = state["tail_sum"].to(self.device), state["tail_steps"]

    @property
    def gpu_seconds(self) -> float:
        seconds, gpu_seconds = self.before
        return gpu_seconds + (self.seconds - seconds) * self.n_gpus

    def state(self) -> dict[str, Any]:
        return {
            "module": self.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "n_done": self.n_done,
            "seconds": self.seconds,
            "gpu_seconds": self.gpu_seconds,
            "tail_sum": self.tail_sum,
            "tail_steps": self.tail_steps,
            "kernels": asdict(self.kernels),
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
        if isinstance(algorithm, Labelled):
            assert self.labels is not None, "the plan finds the labels of such an algorithm, or refuses it"
            algorithm.tell(self.labels.index_select(0, indices.to(self.device)))
        if self.n_micro > 1 and isinstance(algorithm, Coupled):
            with self._autocast():
                algorithm.look_ahead(self._parts(indices), progress=progress)
        sums: dict[str, Tensor] = {}
        for images, draws in self._parts(indices):
            with self._autocast():
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
        seed = step_seed(self.spec.seed, self.n_done)
        for part, images in self.feed.take(indices):
            torch.manual_seed(seed)  # drop-path draws from the global generator
            self.generator.manual_seed(seed)
            for module in self.dropping:
                module.part = part
            yield images, Draws(self.generator, part)

    def _autocast(self) -> contextlib.AbstractContextManager[Any]:
        return autocast(self.device, self.kernels.precision)

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
        _set_aside(attempt, path, f"is damaged ({type(error).__name__})")
        return None


def _set_aside(attempt: Attempt, path: Path, why: str) -> None:
    aside = path.with_name("checkpoint.pt.damaged")
    print(f"{path} {why}; kept as {aside.name}, the run starts again", file=sys.stderr)
    attempt.set_aside(path, aside)


def _is_of(state: dict[str, Any], module: nn.Module) -> bool:
    """Whether a checkpoint's tensors are the module's; those of another version of the program may not be."""
    mine, kept = module.state_dict(), state["module"]
    return mine.keys() == kept.keys() and all(kept[name].shape == values.shape for name, values in mine.items())


def _kernels_of(state: dict[str, Any], spec: RunSpec, device: torch.device) -> Kernels:
    """Those a run began with; an older checkpoint names the precision alone."""
    return Kernels.of(state.get("kernels", {})) or by_rule(state.get("precision", spec.precision), device)


def pretrain(
    spec: RunSpec,
    images: Stored,
    attempt: Attempt,
    *,
    device: torch.device,
    checkpoint_minutes: float,
    kernels: Kernels | None = None,
    n_micro: int = 1,
    labels: NDArray[np.int64] | None = None,
    copies: NDArray[np.uint32] | None = None,
    n_gpus: float = 0.0,
    recomputed: bool = False,
    on_step: Callable[[int], None] = lambda step: None,
    follow: Follow | None = None,
) -> Trained:
    """Trains from the last checkpoint, or from the start, to the end of the budget, a non-finite loss or a collapse.

    `copies` (n,): how often each of `images` stands in the set; None is once each.
    `n_gpus`: what all ranks hold together, a share where runs share one. `on_step` hears of every logged step; `follow`
    is asked by the first rank at some of them. Raises Stopped, with its checkpoint saved, when asked to stop;
    LeaseLost, having written nothing more, when the run is another attempt's.
    """
    path = attempt.path / "checkpoint.pt"
    state = _last_state(attempt, path, device)
    kernels = _kernels_of(state, spec, device) if state else kernels or by_rule(spec.precision, device)
    module = build(spec, device, kernels, recomputed=recomputed)
    if not isinstance(spec.options, Recipe):
        return Trained(module=module, status="done", images_seen=0, seconds=0.0, train_loss=None, kernels=kernels)
    if state and not _is_of(state, module):
        _set_aside(attempt, path, "is of another version of this program")
        state = None
    watch = Watch(spec, cast(Algorithm, module).probed, images, device, lambda: autocast(device, kernels.precision))
    training = Training(
        spec, spec.options, module, images, device, kernels, n_micro=n_micro, labels=labels, n_gpus=n_gpus
    )
    if state:
        training.restore(state)
    attempt.keep_metrics_until(training.n_done)
    watch.recall(attempt.run_dir.metrics(), training.n_done)
    order = batches(len(images), spec.batch_size, spec.seed, training.n_done, copies)
    status, reason = _train(training, attempt, path, order, checkpoint_minutes * 60, on_step, watch, follow)
    return Trained(
        module=module,
        status=status,
        reason=reason,
        images_seen=training.n_done * spec.batch_size,
        seconds=training.seconds,
        gpu_seconds=training.gpu_seconds,
        train_loss=training.tail_loss(),
        kernels=training.used,
    )


def _train(
    training: Training,
    attempt: Attempt,
    path: Path,
    order: Iterator[Tensor],
    save_every: float,
    on_step: Callable[[int], None],
    watch: Watch,
    follow: Follow | None,
) -> tuple[Status, str]:
    """How it ended, and why so if it is not done."""
    spec, meter = training.spec, Meter(training.device)
    every, reason = max(1, spec.n_steps // LOGGED_STEPS), ""
    status: Status = "done"
    order = training.feed.ahead(order)
    before, started = training.seconds, time.monotonic()
    saved_at = started
    while training.n_done < spec.n_steps:
        training.step(next(order))
        at_end = training.n_done == spec.n_steps
        if training.n_done % every == 0 or at_end:
            line = _line(training, meter)
            if not math.isfinite(training.loss.item()):
                status, reason = "diverged", "the loss became infinite or not a number"
            else:
                line |= _seen_along(training, attempt, every, watch, follow)
                if due(training.n_done, every, spec.n_steps, watch.points) and parallel.any_rank(
                    attempt.writes and bool(watch.verdict())
                ):
                    status, reason = "collapsed", watch.verdict()
            training.seconds = before + time.monotonic() - started
            line["seconds"] = round(training.seconds, 3)
            attempt.append(attempt.path / "metrics.jsonl", line)
            on_step(training.n_done)
        stop = parallel.any_rank(attempt.pulse())  # all at the same step
        if at_end or status != "done":
            break
        if stop or time.monotonic() - saved_at >= save_every:
            training.seconds = before + time.monotonic() - started
            if attempt.writes:
                checkpoint.save(path, training.state(), place=attempt.replacing)
            saved_at = time.monotonic()
        if stop:
            parallel.barrier()  # a rank that ends earlier would have the first one killed while it saves
            raise Stopped(f"asked to stop; saved at step {training.n_done} of {spec.n_steps}")
    return status, reason


def _seen_along(
    training: Training, attempt: Attempt, every: int, watch: Watch, follow: Follow | None
) -> dict[str, float]:
    """The run's health and its online probes, where they are due at this logged step."""
    encoder, step, n_steps = cast(Algorithm, training.module).probed, training.n_done, training.spec.n_steps
    seen: dict[str, float] = {}
    if due(step, every, n_steps, watch.points):
        seen |= watch.measure(encoder, step, training.terms)
    if follow is not None and attempt.writes and due(step, every, n_steps, follow.points):
        seen |= follow(encoder, watch.context)
    return seen


def autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager[Any]:
    return torch.autocast(device.type, torch.bfloat16) if precision == "bf16" else contextlib.nullcontext()


def _line(training: Training, meter: Meter) -> dict[str, Any]:
    """What is logged of a step; values that are not finite are left out."""
    scalars = {"loss": training.loss.item(), **{name: term.item() for name, term in training.terms.items()}}
    return {
        "step": training.n_done,
        "images_seen": training.n_done * training.spec.batch_size,
        "seconds": training.seconds,
        "time": round(time.time(), 3),
        **{name: value for name, value in scalars.items() if math.isfinite(value)},
        "lr": training.lr,
        **meter.read(),
    }
