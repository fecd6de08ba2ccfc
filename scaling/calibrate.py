"""Measures what a shape takes of a device: a few real steps of its training on random images."""

from __future__ import annotations

import os
import platform
import re
import statistics
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch

from scaling.calibration import Calibration, image_bytes, shape_key
from scaling.environment import resident_bytes
from scaling.errors import RunFailed
from scaling.options import Recipe
from scaling.planned import Job
from scaling.train import Training, build, resolve_precision

WARM_UP = 3
"""Steps before the clock starts: kernels are chosen, the allocator and the optimiser's state grow."""
CUDA_CONTEXT = 600 * 2**20
"""Bytes of CUDA's context and its libraries' handles, which torch does not count; an estimate for recent GPUs."""


def measure(job: Job, device: torch.device, *, steps: int = 8) -> Calibration:
    """What a run of this job takes, without its images and its probes. Raises RunFailed for a baseline."""
    spec, began = job.spec, time.monotonic()
    if not isinstance(spec.options, Recipe):
        raise RunFailed(f"algorithm {spec.algorithm!r} trains nothing, so there is nothing to measure")
    torch.set_num_threads(job.cpus)
    precision = resolve_precision(spec.precision, device)
    _forget_peak()
    before = resident_bytes()
    shape = (spec.batch_size, spec.channels, spec.image_size, spec.image_size)
    images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    module = build(spec, device, precision)
    training = Training(spec, spec.options, module, images, device, precision, n_micro=job.n_micro)
    indices, seconds = torch.arange(spec.batch_size), []
    for _ in range(WARM_UP + steps):
        started = time.monotonic()
        training.step(indices)
        training.loss.item()  # waits for the device
        seconds.append(time.monotonic() - started)
    peak, held = _peak_bytes(), len(images) * image_bytes(spec) // max(1, spec.n_images)
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
        precision=precision,
        memory_bytes=reserved + CUDA_CONTEXT - held if on_gpu else max(0, peak - before - held),
        host_memory_bytes=peak - held,
        images_per_second=spec.batch_size / statistics.median(seconds[WARM_UP:]),
        seconds=time.monotonic() - began,
    )


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
