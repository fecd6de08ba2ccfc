"""One run from its job to its record, the same in this process or in one of its own. Writes only its run directory."""

from __future__ import annotations

import os
import platform
import sys
import traceback
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits
from torch import Tensor, nn

from scaling import checkpoint
from scaling.algorithms.algorithm import Algorithm
from scaling.cost import cost_of
from scaling.data.cache import cached, cached_task
from scaling.data.mixture import select
from scaling.data.source import Images, Source, Task, TaskInfo
from scaling.data.views import normalise
from scaling.errors import RunFailed
from scaling.plan import Job, source_of
from scaling.probes.evaluate import probe_task
from scaling.records import RunRecord
from scaling.rundir import LeaseLost, RunDir, write_json
from scaling.train import Trained, build, pretrain, resolve_precision

FEATURE_BATCH = {"cuda": 512, "cpu": 64}
"""Images per forward pass when features are cached; on a CPU the activations of 64 stay in its cache, 1.4x as fast."""


class Data:
    """What a run reads, from the shared cache if another run was there before; else from the source."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.cache = Path(job.cache)
        self._source: Source | None = None

    @property
    def source(self) -> Source:
        if self._source is None:
            self._source = source_of(self.job.data)
        return self._source

    def images(self) -> Images:
        """Pretraining images. Raises RunFailed when the source no longer holds what was planned."""
        spec = self.job.spec
        if not spec.data_identity:
            return np.empty((0, spec.channels, spec.image_size, spec.image_size), np.uint8)
        name = f"images-{spec.data_identity[:24]}-{spec.image_size}x{spec.channels}.npz"
        return cached(self.cache / name, self._draw)["images"]

    def _draw(self) -> dict[str, NDArray]:
        assert self.job.weights is not None
        selection = select(self.source.pool(), self.job.weights, self.job.spec.n_images)
        if selection.identity != self.job.spec.data_identity:
            raise RunFailed("the source's images changed since the plan was made; run the sweep again to plan anew")
        return {"images": self.source.read(selection.indices)}

    def task(self, info: TaskInfo) -> Task:
        return cached_task(self.cache, info, lambda: self.source)


def execute(path: Path, token: str, on_step: Callable[[int], None] = lambda step: None) -> RunRecord:
    """Does what is missing of the run in `path`: pretraining, then each task's read-outs.

    Raises LeaseLost, having written nothing more, when another attempt took the run over.
    """
    run_dir = RunDir(path)
    guard = partial(run_dir.guard, token)
    job = Job.model_validate_json((path / "job.json").read_text())
    device = torch.device("cuda" if job.use_gpu and torch.cuda.is_available() else "cpu")
    torch.set_num_threads(job.cpus)
    with threadpool_limits(job.cpus):  # small problems of the probes are many times slower on threads that must share
        return _execute(job, run_dir, guard, device, on_step)


def _execute(
    job: Job, run_dir: RunDir, guard: Callable[[], None], device: torch.device, on_step: Callable[[int], None]
) -> RunRecord:
    path = run_dir.path
    data, record = Data(job), run_dir.record()
    if record is None:
        trained = pretrain(
            job.spec,
            data.images(),
            run_dir,
            device=device,
            checkpoint_minutes=job.checkpoint_minutes,
            guard=guard,
            on_step=on_step,
        )
        module = _probed(trained.module)
        record = _record(job, run_dir.run, trained, device)
        guard()
        checkpoint.save(path / "encoder.pt", module.state_dict())
        write_json(path / "result.json", record.to_json())
    else:
        module = _finished_encoder(job, path, device)
    if record.status == "done":
        _probe(job, data, module, run_dir, guard, device)
    guard()
    (path / "checkpoint.pt").unlink(missing_ok=True)
    return record


def _probed(module: nn.Module) -> nn.Module:
    return cast(Algorithm, module).probed


def _finished_encoder(job: Job, path: Path, device: torch.device) -> nn.Module:
    module = _probed(build(job.spec, device, resolve_precision(job.spec.precision, device)))
    module.load_state_dict(checkpoint.load(path / "encoder.pt", device) or {})
    return module


def _record(job: Job, run: str, trained: Trained, device: torch.device) -> RunRecord:
    cost = cost_of(job.spec)
    counted = sum(p.numel() for p in trained.module.parameters() if p.requires_grad)
    if counted != cost.n_params_total:
        raise RunFailed(f"the closed form says {cost.n_params_total} trainable parameters, torch counts {counted}")
    return RunRecord(
        run=run,
        status="diverged" if trained.diverged else "done",
        n_params=cost.n_params,
        n_params_total=cost.n_params_total,
        n_params_by_part=cost.n_params_by_part,
        images_seen=trained.images_seen,
        train_flops=cost.flops_per_image * trained.images_seen,
        train_seconds=round(trained.seconds, 3),
        train_loss=trained.train_loss,
        environment=environment(device, trained.precision),
        reason="the loss became infinite or not a number" if trained.diverged else "",
    )


def environment(device: torch.device, precision: str) -> dict[str, Any]:
    """Where and with what a run was computed."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    return {
        "host": platform.node(),
        "device": f"{device.type}: {name}",
        "precision": precision,
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def _probe(
    job: Job, data: Data, module: nn.Module, run_dir: RunDir, guard: Callable[[], None], device: torch.device
) -> None:
    module.eval()

    def encode(images_u8: Tensor) -> Tensor:
        tokens: Tensor = module(normalise(images_u8))
        cls, patches = tokens[:, 0], tokens[:, 1:]
        if patches.shape[1] == 0:
            return cls
        mean = patches.mean(dim=1)
        pooled: Tensor = {"cls": cls, "mean": mean, "both": torch.cat([cls, mean], dim=1)}[job.probe.pool]
        return pooled

    for fingerprint, values in job.tasks.items():
        if run_dir.probes(fingerprint) is not None:
            continue
        results = probe_task(
            encode,
            data.task(TaskInfo(**values)),
            job.probe.read_outs(),
            seed=job.spec.seed,
            device=device,
            batch_size=FEATURE_BATCH[device.type],
            n_boot=job.probe.bootstrap,
            max_train=job.probe.max_train,
        )
        guard()
        write_json(run_dir.path / "probes" / f"{fingerprint}.json", [asdict(result) for result in results])


def attempt(path: Path, token: str, on_step: Callable[[int], None] = lambda step: None) -> bool:
    """`execute`, with what goes wrong written to failed.json. True when the run has its record."""
    try:
        execute(path, token, on_step)
    except LeaseLost as error:
        print(error, file=sys.stderr)
        return False
    except Exception as error:  # the run is one of many: it fails alone and says why
        traceback.print_exc()
        kind = type(error).__name__
        RunDir(path).fail(kind, f"{kind}: {error}".splitlines()[0])
        return False
    return True


def attempt_logged(path: Path, token: str) -> bool:
    """`attempt` with everything it prints, also from C, in log.txt. For a process that does nothing else."""
    log = os.open(path / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(log, stream)
    return attempt(path, token)
