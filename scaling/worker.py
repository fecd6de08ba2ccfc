"""One run from its job to its record, the same in this process or in some of its own. Writes only its run directory.

`python -m scaling.worker PATH TOKEN` is one attempt; under torchrun, one of its ranks.
"""

from __future__ import annotations

import argparse
import functools
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import cast

import torch
from threadpoolctl import threadpool_limits
from torch import Tensor, nn

from scaling import calibration, checkpoint, parallel
from scaling.algorithms.algorithm import Algorithm
from scaling.attempt import Attempt
from scaling.calibrate import kernels_for, measure
from scaling.cost import cost_of
from scaling.data.rows import Stored
from scaling.data.source import TaskInfo
from scaling.data.views import normalise
from scaling.environment import environment, provenance
from scaling.errors import RunFailed
from scaling.failures import EXIT_DONE, EXIT_FAILED, EXIT_FENCED, EXIT_IO, EXIT_STOPPED, Stopped, classify_exception
from scaling.health import affordable
from scaling.kernels import Kernels, by_rule
from scaling.parallel import Member, PeerLost
from scaling.pictures import picture
from scaling.planned import Job
from scaling.probes.evaluate import probe_task
from scaling.probes.features import Part, parts_of, task_features
from scaling.probes.kept import Kept, digest_of
from scaling.probes.online import SHARE, Online, portion
from scaling.process import die_with_parent, keep_freed_memory
from scaling.reading import Data
from scaling.records import RunRecord
from scaling.rundir import FEATURES, LeaseLost
from scaling.settings import peak_lr, recipe
from scaling.train import Trained, autocast, build, pretrain

PICTURE = "picture.png"
FEATURE_BATCH = {"cuda": 512, "cpu": 64}
"""Images per forward pass when features are cached; on a CPU the activations of 64 stay in its cache, 1.4x as fast."""
OnStep = Callable[[int], None]


def execute(attempt: Attempt, member: Member, on_step: OnStep) -> None:
    """Does what is missing of the run: pretraining, then each task's read-outs.

    Raises LeaseLost, having written nothing more, when another attempt took the run over; Stopped, with what was done
    saved, when asked to stop.
    """
    attempt.begin("data")
    job = Job.model_validate_json((attempt.path / "job.json").read_text())
    device = _device(job, member)
    threads = max(1, job.cpus // member.local_size)
    torch.set_num_threads(threads)
    if device.type == "cpu":
        keep_freed_memory()
    with threadpool_limits(threads):  # small problems of the probes are many times slower on threads that must share
        attempt.clear_drafts("checkpoint.pt", "encoder.pt", "metrics.jsonl", PICTURE, FEATURES)
        kernels = _kernels(attempt, job, member, device)
        _note_provenance(attempt, job, member, device, kernels)
        module = _trained_encoder(attempt, job, member, device, kernels, on_step)
        if module is not None and attempt.writes:
            _probe(attempt, job, module, device)
        attempt.remove(attempt.path / "checkpoint.pt")


def _device(job: Job, member: Member) -> torch.device:
    """This rank's GPU, with the run's share of its memory, or the CPU."""
    if not (job.use_gpu and torch.cuda.is_available()):
        return torch.device("cpu")
    if member.local_rank >= torch.cuda.device_count():
        seen = torch.cuda.device_count()
        raise RunFailed(f"{member.local_size} processes on this machine see {seen} GPU{'s' * (seen != 1)}; one each")
    device = torch.device("cuda", member.local_rank)
    torch.cuda.set_device(device)
    if job.gpu_share < 1:
        torch.cuda.set_per_process_memory_fraction(job.gpu_share, device)
    return device


def _kernels(attempt: Attempt, job: Job, member: Member, device: torch.device) -> Kernels:
    """Those of a run that is over, else those that are fast here; ranks of one run share the rule's."""
    record = attempt.run_dir.record()
    if record is not None and (known := Kernels.of(record.environment)):
        return known
    if member.size > 1:
        return by_rule(job.spec.precision, device, job.compile)
    return kernels_for(job, device, attempt.go_on)


def _note_provenance(attempt: Attempt, job: Job, member: Member, device: torch.device, kernels: Kernels) -> None:
    if attempt.writes:
        spec, number = job.spec, attempt.number
        values = {
            "attempt": number,
            "time": time.time(),
            **provenance(device),
            **asdict(kernels),
            "seed": spec.seed,
            "data_identity": spec.data_identity,
            "n_ranks": member.size,
            **job.model_dump(include={"n_micro", "recomputed", "gpu_share"}),
        }
        attempt.write_json(attempt.path / "provenance" / f"{number}.json", values)


def _trained_encoder(
    attempt: Attempt, job: Job, member: Member, device: torch.device, kernels: Kernels, on_step: OnStep
) -> nn.Module | None:
    """The encoder to probe, trained now or before, its record written; None when there is nothing to probe."""
    record = attempt.run_dir.record()
    if record is not None:
        return _finished_encoder(attempt, job, device, kernels) if record.status == "done" and attempt.writes else None
    alone = member.size == 1
    data = Data(job, attempt.go_on if alone else lambda: None)  # ranks stop together, when they train
    with parallel.group(member, device):
        if not attempt.writes:
            parallel.barrier()  # the first one fills the cache
        images, labels, copies = data.images(), data.labels(), data.copies()
        follow = _follow(data, device) if attempt.writes else None
        if attempt.writes:
            parallel.barrier()
        attempt.begin("pretrain")
        trained = pretrain(
            job.spec,
            images,
            attempt,
            device=device,
            checkpoint_minutes=job.checkpoint_minutes,
            kernels=kernels,
            n_micro=job.n_micro,
            recomputed=job.recomputed,
            labels=labels,
            copies=copies,
            n_gpus=member.size * job.gpu_share if device.type == "cuda" else 0.0,
            on_step=on_step,
            follow=follow,
        )
    module = _probed(trained.module)
    if attempt.writes:
        record = _record(job, attempt.run_dir.run, trained, device)
        _picture(attempt, job, trained, images, device)
        checkpoint.save(attempt.path / "encoder.pt", module.state_dict(), place=attempt.replacing)
        attempt.write_json(attempt.path / "result.json", record.to_json())
    return module if trained.status == "done" else None


def _follow(data: Data, device: torch.device) -> Online | None:
    """The read-outs along the run; None where there are none."""
    job = data.job
    if not job.spec.n_steps:
        return None
    chosen = portion(job.online, [TaskInfo(**values) for values in job.tasks.values()], affordable(job.spec, SHARE))
    return Online(chosen, data.task, device, FEATURE_BATCH[device.type]) if chosen else None


def _picture(attempt: Attempt, job: Job, trained: Trained, images: Stored, device: torch.device) -> None:
    if trained.status == "diverged":
        return
    context = functools.partial(autocast, device, trained.kernels.precision)
    png = picture(trained.module, images, device=device, context=context, synthetic=job.synthetic)
    if png is not None:
        attempt.write(attempt.path / PICTURE, png)


def _probed(module: nn.Module) -> nn.Module:
    return cast(Algorithm, module).probed


def _finished_encoder(attempt: Attempt, job: Job, device: torch.device, kernels: Kernels) -> nn.Module:
    module = _probed(build(job.spec, device, kernels))
    module.load_state_dict(checkpoint.load(attempt.path / "encoder.pt", device) or {})
    return module


def _record(job: Job, run: str, trained: Trained, device: torch.device) -> RunRecord:
    cost = cost_of(job.spec)
    counted = sum(p.numel() for p in trained.module.parameters() if p.requires_grad)
    if counted != cost.n_params_total:
        raise RunFailed(f"the closed form says {cost.n_params_total} trainable parameters, torch counts {counted}")
    return RunRecord(
        run=run,
        status=trained.status,
        **cost.counts,
        n_params_by_part=dict(cost.n_params_by_part),
        images_seen=trained.images_seen,
        train_flops=cost.flops_per_image * trained.images_seen,
        train_seconds=round(trained.seconds, 3),
        gpu_seconds=round(trained.gpu_seconds, 3),
        peak_lr=peak_lr(job.spec),
        recipe=recipe(job.spec.options),
        train_loss=trained.train_loss,
        environment={**environment(device, trained.kernels.precision), **asdict(trained.kernels)},
        reason=trained.reason,
    )


def _probe(attempt: Attempt, job: Job, module: nn.Module, device: torch.device) -> None:
    """Read-outs of the tasks that have none yet, from features kept of this encoder where there are any."""
    missing = {f: TaskInfo(**values) for f, values in job.tasks.items() if attempt.run_dir.probes(f) is None}
    if not missing:
        return
    module.eval()
    data = Data(job, attempt.go_on)
    kept = Kept(
        folder=attempt.path,
        encoder=digest_of(module),
        max_train=job.probe.max_train,
        seed=job.spec.seed,
        limit=job.probe.keep_mb * 2**20,
        place=attempt.replacing,
    )

    def encode(images_u8: Tensor) -> Mapping[Part, Tensor]:
        attempt.go_on()
        return parts_of(module(normalise(images_u8)))

    for fingerprint, info in missing.items():
        attempt.begin(f"probe {info.name}")
        attempt.go_on()
        features = kept.read(info)
        if features is None:
            features = task_features(
                encode,
                data.task(info),
                max_train=kept.max_train,
                seed=kept.seed,
                batch_size=FEATURE_BATCH[device.type],
                device=device,
            )
            kept.write(features)
        results = probe_task(
            features,
            job.probe.read_outs(),
            pool=job.probe.pool,
            seed=job.spec.seed,
            device=device,
            n_boot=job.probe.bootstrap,
            go_on=attempt.go_on,
        )
        attempt.write_json(attempt.path / "probes" / f"{fingerprint}.json", [asdict(result) for result in results])


# --- attempts ---------------------------------------------------------------------------------------------------


def attempt(path: Path, token: str, on_step: OnStep = lambda step: None) -> int:
    """`execute`, its end as an exit code; what goes wrong is in failed.json."""
    return _carry_out(Attempt(path, token), Member(), on_step)


def attempt_logged(path: Path, token: str) -> int:
    """`attempt`, or a rank of one, in a process that does nothing else: all it prints, also from C, goes to log.txt,
    and SIGTERM asks it to stop."""
    _log_to(path)
    member = Member.from_environment()
    mine = Attempt(path, token, rank=member.rank)
    signal.signal(signal.SIGTERM, lambda *_: mine.ask())
    return _carry_out(mine, member, lambda step: None)


def calibrate(path: Path, token: str) -> int:
    """Measures the job in `path` and keeps the measurement under the root; exit code."""
    try:
        job = Job.model_validate_json((path / "job.json").read_text())
        calibration.save(Path(job.cache).parent, measure(job, _device(job, Member())))
    except Exception as error:
        return _fail(Attempt(path, token), error)
    return EXIT_DONE


def _carry_out(mine: Attempt, member: Member, on_step: OnStep) -> int:
    try:
        execute(mine, member, on_step)
    except LeaseLost as error:
        print(error, file=sys.stderr)
        return EXIT_FENCED
    except Stopped as error:
        print(error, file=sys.stderr)
        return EXIT_STOPPED
    except PeerLost:
        traceback.print_exc()  # that peer has said why, or its exit code does
        return EXIT_FAILED
    except Exception as error:  # the run is one of many: it fails alone and says why
        return _fail(mine, error)
    return EXIT_DONE


def _fail(mine: Attempt, error: Exception) -> int:
    with suppress(OSError):  # a full disk takes no log either
        traceback.print_exc()
    try:
        mine.fail(classify_exception(error), f"{type(error).__name__}: {error}".splitlines()[0])
    except LeaseLost:
        return EXIT_FENCED
    except OSError:
        return EXIT_IO
    return EXIT_FAILED


def _log_to(path: Path) -> None:
    log = os.open(path / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    for stream in (1, 2):
        os.dup2(log, stream)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m scaling.worker", description="One attempt at a run.")
    parser.add_argument("path", type=Path, help="the run's directory, with its job.json and lease.json")
    parser.add_argument("token", help="of the lease")
    parser.add_argument("--calibrate", action="store_true", help="measure memory and speed instead")
    given = parser.parse_args()
    die_with_parent(os.getppid())
    if given.calibrate:
        _log_to(given.path)
        code = calibrate(given.path, given.token)
    else:
        code = attempt_logged(given.path, given.token)
    with suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)  # no tidying up that could wait for a peer that is gone


if __name__ == "__main__":
    main()
