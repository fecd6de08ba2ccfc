"""Measures what a shape takes of a device, and which kernels are fast there: a few real steps on random images."""

from __future__ import annotations

import math
import os
import platform
import re
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch

from scaling.algorithms.algorithm import Labelled
from scaling.calibration import Calibration, image_bytes, shape_key
from scaling.environment import resident_bytes
from scaling.errors import RunFailed
from scaling.execution import Compile
from scaling.grid import RunSpec
from scaling.kernels import LONG, Kernels, candidates, decide, pace
from scaling.options import Recipe
from scaling.planned import Job
from scaling.process import keep_freed_memory
from scaling.train import Training, build

WARM_UP = 3
"""Steps before the clock starts: kernels are chosen, the allocator and the optimiser's state grow."""
TRIED_BATCH, TRIED_SECONDS = 32, 0.3
"""With how many images and for how long each kernel is tried on a CPU, where products are as fast at 32 as at 256; a
GPU, which needs many to be busy, is given the run's."""
COMPILE_LIMIT = 300.0
"""Seconds of a first step beyond which compiled blocks are not taken, whatever they win: each attempt may pay anew."""
CUDA_CONTEXT = 600 * 2**20
"""Bytes of CUDA's context and its libraries' handles, which torch does not count; an estimate for recent GPUs."""


def measure(job: Job, device: torch.device, *, steps: int = 8) -> Calibration:
    """What a run of this job takes, without its images and its probes. Raises RunFailed for a baseline."""
    spec, began = job.spec, time.monotonic()
    if not isinstance(spec.options, Recipe):
        raise RunFailed(f"algorithm {spec.algorithm!r} trains nothing, so there is nothing to measure")
    torch.set_num_threads(job.cpus)
    if device.type == "cpu":
        keep_freed_memory()  # as a run does
    kernels = kernels_for(job, device)
    _forget_peak()
    before = resident_bytes()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    training = _training(spec, spec.options, device, kernels, n_micro=job.n_micro, recomputed=job.recomputed)
    indices, seconds = torch.arange(spec.batch_size), []
    for _ in range(WARM_UP + steps):
        started = time.monotonic()
        training.step(indices)
        training.loss.item()  # waits for the device
        seconds.append(time.monotonic() - started)
    peak, held = _peak_bytes(), spec.batch_size * image_bytes(spec) // max(1, spec.n_unique)
    on_gpu = device.type == "cuda"
    reserved = torch.cuda.max_memory_reserved(device) if on_gpu else 0
    return Calibration(
        device=torch.cuda.get_device_name(device) if on_gpu else f"cpu: {platform.machine()}, {job.cpus} threads",
        device_memory_bytes=torch.cuda.get_device_properties(device).total_memory if on_gpu else _machine_bytes(),
        shape_key=shape_key(spec, job.n_micro, recomputed=job.recomputed),
        model=spec.model,
        algorithm=spec.algorithm,
        batch_size=spec.batch_size,
        n_micro=training.n_micro,
        recomputed=job.recomputed,
        precision=kernels.precision,
        memory_bytes=reserved + CUDA_CONTEXT - held if on_gpu else max(0, peak - before - held),
        host_memory_bytes=peak - held,
        images_per_second=spec.batch_size / statistics.median(seconds[WARM_UP:]),
        seconds=time.monotonic() - began,
    )


def kernels_for(job: Job, device: torch.device, go_on: Callable[[], None] = lambda: None) -> Kernels:
    """`choose` for a run as it is carried out."""
    return choose(
        job.spec,
        device,
        Path(job.cache).parent,
        go_on,
        compile=job.compile,
        n_micro=job.n_micro,
        recomputed=job.recomputed,
    )


def choose(
    spec: RunSpec,
    device: torch.device,
    root: Path,
    go_on: Callable[[], None] = lambda: None,
    *,
    compile: Compile = "auto",
    n_micro: int = 1,
    recomputed: bool = False,
) -> Kernels:
    """The kernels of a run of this shape on this kind of device, decided once per root; about a second the first time,
    and a minute more where blocks are compiled, which only long runs try.

    Of a baseline, and of a precision that was asked for, those of the rule. `go_on` gives signs of life.
    """
    offered = candidates(spec.precision, device, compile)
    if not isinstance(spec.options, Recipe) or len(offered) == 1:
        return offered[0]
    at_once = min(spec.batch_size, TRIED_BATCH) if device.type == "cpu" else spec.batch_size // n_micro
    if at_once < 2:  # batch norms and contrasts need two
        return offered[0]
    few, recipe = spec.model_copy(update={"batch_size": at_once}), spec.options

    def seconds_of(kernels: Kernels) -> float:
        go_on()
        try:
            return _tried(_training(few, recipe, device, kernels, recomputed=recomputed))
        finally:
            if device.type == "cuda":
                torch.cuda.empty_cache()  # what a run's images may take is counted by the memory that is free

    folder, key = root / "kernels", shape_key(spec, 1 if device.type == "cpu" else n_micro, recomputed=recomputed)
    if any(kernels.compiled for kernels in offered):
        step = pace(folder, key, device, lambda: seconds_of(offered[0]))
        if step * n_micro * spec.n_steps < LONG:
            return offered[0]
    return decide(folder, key, offered, seconds_of, device)


def _tried(training: Training) -> float:
    """Seconds of a step; infinite where compiling fails, takes too long or leaves no memory."""
    try:
        first, step = _step_seconds(training)
    except torch.OutOfMemoryError:
        if not training.kernels.compiled:
            raise
        print("compiled blocks are not taken: a step with them does not fit", file=sys.stderr)
        return math.inf
    if training.kernels.compiled and first > COMPILE_LIMIT:
        print(f"compiled blocks are not taken: compiling took {first:.0f} s", file=sys.stderr)
        return math.inf
    return step if training.used == training.kernels else math.inf


def _step_seconds(training: Training) -> tuple[float, float]:
    """Of the first step, in which blocks are compiled, and of the fastest of a few later ones, because what else a
    machine does can only slow them. Processor seconds; on a GPU seconds until it is done."""
    on_gpu, indices, seconds = training.device.type == "cuda", torch.arange(training.spec.batch_size), list[float]()
    clock = time.monotonic if on_gpu else time.process_time
    began = warm = time.monotonic()
    while len(seconds) < 3 or (time.monotonic() - warm < TRIED_SECONDS and len(seconds) < 50):
        started = clock()
        training.step(indices)
        if on_gpu:
            torch.cuda.synchronize(training.device)
        seconds.append(clock() - started)
        if len(seconds) == 1:
            warm = time.monotonic()
    return warm - began, min(seconds[1:])


def _training(
    spec: RunSpec,
    recipe: Recipe,
    device: torch.device,
    kernels: Kernels,
    *,
    n_micro: int = 1,
    recomputed: bool = False,
) -> Training:
    """A run on one batch of random images, with labels that say nothing where it needs some."""
    shape = (spec.batch_size, spec.channels, spec.image_size, spec.image_size)
    images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    module = build(spec, device, kernels, recomputed=recomputed)
    labels = np.zeros((spec.batch_size, 1 + module.label_width), np.int64) if isinstance(module, Labelled) else None
    return Training(spec, recipe, module, images, device, kernels, n_micro=n_micro, labels=labels)


def _forget_peak() -> None:
    """So that an earlier peak of this process is not taken for the run's; where the kernel allows it."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _peak_bytes() -> int:
    """Largest resident set since `_forget_peak`."""
    with suppress(OSError):
        found = re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())
        if found:
            return int(found[1]) * 1024
    return resident_bytes()


def _machine_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
