"""Measures what a shape takes of a device, and which kernels are fast there: a few real steps on random images."""

from __future__ import annotations

import os
import platform
import re
import statistics
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
from scaling.grid import RunSpec
from scaling.kernels import Kernels, by_rule, candidates, decide
from scaling.options import Recipe
from scaling.planned import Job
from scaling.train import Training, build

WARM_UP = 3
"""Steps before the clock starts: kernels are chosen, the allocator and the optimiser's state grow."""
TRIED_BATCH, TRIED_SECONDS = 32, 0.3
"""With how many images and for how long each kernel is tried: at 32 the products are as fast as at 256."""
CUDA_CONTEXT = 600 * 2**20
"""Bytes of CUDA's context and its libraries' handles, which torch does not count; an estimate for recent GPUs."""


def measure(job: Job, device: torch.device, *, steps: int = 8) -> Calibration:
    """What a run of this job takes, without its images and its probes. Raises RunFailed for a baseline."""
    spec, began = job.spec, time.monotonic()
    if not isinstance(spec.options, Recipe):
        raise RunFailed(f"algorithm {spec.algorithm!r} trains nothing, so there is nothing to measure")
    torch.set_num_threads(job.cpus)
    kernels = choose(spec, device, Path(job.cache).parent)
    _forget_peak()
    before = resident_bytes()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    training = _training(spec, spec.options, device, kernels, n_micro=job.n_micro)
    indices, seconds = torch.arange(spec.batch_size), []
    for _ in range(WARM_UP + steps):
        started = time.monotonic()
        training.step(indices)
        training.loss.item()  # waits for the device
        seconds.append(time.monotonic() - started)
    peak, held = _peak_bytes(), spec.batch_size * image_bytes(spec) // max(1, spec.n_images)
    on_gpu = device.type == "cuda"
    reserved = torch.cuda.max_memory_reserved(device) if on_gpu else 0
    return Calibration(
        device=torch.cuda.get_device_name(device) if on_gpu else f"cpu: {platform.machine()}, {job.cpus} threads",
        device_memory_bytes=torch.cuda.get_device_properties(device).total_memory if on_gpu else _machine_bytes(),
        shape_key=shape_key(spec, job.n_micro),
        model=spec.model,
        algorithm=spec.algorithm,
        batch_size=spec.batch_size,
        n_micro=training.n_micro,
        precision=kernels.precision,
        memory_bytes=reserved + CUDA_CONTEXT - held if on_gpu else max(0, peak - before - held),
        host_memory_bytes=peak - held,
        images_per_second=spec.batch_size / statistics.median(seconds[WARM_UP:]),
        seconds=time.monotonic() - began,
    )


def choose(spec: RunSpec, device: torch.device, root: Path, go_on: Callable[[], None] = lambda: None) -> Kernels:
    """The kernels of a run of this shape on this kind of device, decided once per root; about a second the first time.

    Of a baseline, and of a precision that was asked for, those of the rule. `go_on` gives signs of life.
    """
    if not isinstance(spec.options, Recipe):
        return by_rule(spec.precision, device)
    few = spec.model_copy(update={"batch_size": min(spec.batch_size, TRIED_BATCH)})
    recipe = spec.options

    def seconds_of(kernels: Kernels) -> float:
        go_on()
        return _step_seconds(_training(few, recipe, device, kernels))

    return decide(root / "kernels", shape_key(spec, 1), candidates(spec.precision, device), seconds_of)


def _step_seconds(training: Training) -> float:
    """Of processors; of the fastest of a few steps, because what else a machine does can only slow them."""
    indices, seconds = torch.arange(training.spec.batch_size), list[float]()
    began = time.monotonic()
    while len(seconds) < 3 or (time.monotonic() - began < TRIED_SECONDS and len(seconds) < 50):
        started = time.process_time()
        training.step(indices)
        seconds.append(time.process_time() - started)
    return min(seconds[1:])


def _training(spec: RunSpec, recipe: Recipe, device: torch.device, kernels: Kernels, *, n_micro: int = 1) -> Training:
    """A run on one batch of random images, with labels that say nothing where it needs some."""
    shape = (spec.batch_size, spec.channels, spec.image_size, spec.image_size)
    images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    module = build(spec, device, kernels)
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
