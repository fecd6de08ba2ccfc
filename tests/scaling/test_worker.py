"""An attempt at a run: what it writes, how it ends, and that a fenced one writes nothing."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from scaling import checkpoint, worker
from scaling.algorithms.mae import MAE
from scaling.config import load
from scaling.cost import Counts, cost_of
from scaling.data.phantoms import Phantoms
from scaling.errors import RunFailed
from scaling.failures import EXIT_DONE, EXIT_FAILED, EXIT_FENCED, EXIT_IO, EXIT_STOPPED, FailureClass, classify_exit
from scaling.models.vit import Encoder
from scaling.parallel import Member
from scaling.plan import Plan, make_plan, source_of
from scaling.planned import Job, PlannedRun
from scaling.probe_options import RidgeOptions
from scaling.probes.linear import Linear
from scaling.rundir import RunDir, write_json
from scaling.worker import attempt, calibrate

SWEEP = """\
name: one
question: Does a run hold?
grid: {model: [vit_atto], algorithm: [mae], n_images: [32], mixture: [all], seed: [0]}
baselines: []
data: {source: phantoms, image_size: 32, n_train: 32, n_val: 32, n_test: 32}
encoder: {patch_size: 8}
pretrain: {images_seen: 192, batch_size: 16, precision: fp32, checkpoint_minutes: 0.0001}
probe: {bootstrap: 20, linear: {n_c: 2}}
"""
N_STEPS = 12


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def made(sweep_file: Callable[..., Path]) -> Callable[..., RunDir]:
    """The directory of a run, with its job and a lease of token `mine`."""

    def make(*replacements: tuple[str, str], token: str = "mine", **changed: Any) -> RunDir:
        sweep, document = load(sweep_file(*replacements, text=SWEEP))
        plan: Plan = make_plan(sweep, document, source_of(sweep.data))
        run: PlannedRun = plan.runs[0]
        job = plan.job(run).model_copy(update={"use_gpu": False, **changed})
        run.dir.path.mkdir(parents=True, exist_ok=True)
        write_json(run.dir.path / "job.json", job.model_dump(mode="json"))
        run.dir.lease(token)
        return run.dir

    return make


def contents(run_dir: RunDir) -> dict[str, bytes]:
    """All that stands in the directory, by its name in it."""
    found = (path for path in run_dir.path.rglob("*") if path.is_file())
    return {str(path.relative_to(run_dir.path)): path.read_bytes() for path in found}


# --- a run that ends well -------------------------------------------------------------------------------------------


def test_an_attempt_leaves_record_encoder_probes_and_provenance_and_no_checkpoint(made: Callable[..., RunDir]) -> None:
    run_dir = made()
    assert attempt(run_dir.path, "mine") == EXIT_DONE
    record = run_dir.record()
    assert record is not None
    assert record.status == "done"
    spec = job_in(run_dir).spec
    assert {name: getattr(record, name) for name in Counts.__annotations__} == cost_of(spec).counts
    assert record.train_flops == record.flops_per_image * record.images_seen
    assert (record.gpu_seconds, record.peak_lr) == (0, spec.options.lr.resolve(spec.batch_size))
    names = {name.split("/")[0] for name in contents(run_dir)}
    assert names == {
        *("job.json", "lease.json", ".lock", "heartbeat.json", "provenance", "metrics.jsonl"),
        *("encoder.pt", "picture.png", "result.json", "probes"),
        *(f"features-{info.name}.npz" for info in source_of(job_in(run_dir).data).tasks()),
    }
    assert len(list((run_dir.path / "probes").iterdir())) == 5


def test_every_attempt_says_with_what_it_computes(made: Callable[..., RunDir]) -> None:
    run_dir = made(n_micro=2, recomputed=True)
    run_dir.lease("second")
    assert attempt(run_dir.path, "second") == EXIT_DONE
    (path,) = (run_dir.path / "provenance").iterdir()
    assert path.name == "2.json"
    said = json.loads(path.read_text())
    assert (said["attempt"], said["pid"], said["seed"], said["n_micro"], said["n_ranks"]) == (2, os.getpid(), 0, 2, 1)
    assert (said["recomputed"], said["compiled"]) == (True, False)
    assert said["torch"] == torch.__version__
    assert said["code"] == str(Path(worker.__file__).parents[1])
    assert said["data_identity"] == json.loads((run_dir.path / "job.json").read_text())["spec"]["data_identity"]
    assert {"host", "user", "device", "gpu", "python", "numpy", "timm", "threads", "precision", "argv"} <= set(said)


def test_each_logged_step_carries_the_time_and_the_load(made: Callable[..., RunDir]) -> None:
    run_dir, before = made(), time.time()
    assert attempt(run_dir.path, "mine") == EXIT_DONE
    lines = list(run_dir.metrics())
    assert len(lines) == N_STEPS
    times = [line["time"] for line in lines]
    assert times == sorted(times)
    assert before - 0.001 <= times[0] <= times[-1] <= time.time() + 0.001
    assert all(line["system/cpu_percent"] >= 0 for line in lines)
    assert all(line["system/rss_gb"] > 0.05 for line in lines)  # torch alone takes more


def test_the_worker_names_its_phases(made: Callable[..., RunDir], monkeypatch: pytest.MonkeyPatch) -> None:
    run_dir, phases = made(), []
    begin = RunDir.begin
    monkeypatch.setattr(RunDir, "begin", lambda self, token, phase: phases.append(phase) or begin(self, token, phase))
    assert attempt(run_dir.path, "mine") == EXIT_DONE
    assert phases[:2] == ["data", "pretrain"]
    assert {phase.split()[0] for phase in phases[2:]} == {"probe"}
    assert len(phases) == 2 + 5
    beat = run_dir.last_beat()
    assert beat is not None
    assert (beat.pid, beat.token, beat.phase) == (os.getpid(), "mine", phases[-1])


# --- stopping ---------------------------------------------------------------------------------------------------


def stop_after(run_dir: RunDir, step: int) -> Callable[[int], None]:
    def on_step(done: int) -> None:
        if done == step:
            run_dir.ask_to_stop()

    return on_step


@pytest.fixture
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looks for orders at every step instead of once a second."""
    monkeypatch.setattr("scaling.attempt.EVERY", 0.0)


@pytest.mark.usefixtures("_impatient")
def test_a_run_asked_to_stop_saves_goes_and_later_ends_with_the_same_bits(made: Callable[..., RunDir]) -> None:
    run_dir = made(("checkpoint_minutes: 0.0001", "checkpoint_minutes: 60"))
    assert attempt(run_dir.path, "mine", stop_after(run_dir, 5)) == EXIT_STOPPED
    assert run_dir.failure() is None
    state = checkpoint.load(run_dir.path / "checkpoint.pt", torch.device("cpu"))
    assert state is not None
    assert state["n_done"] == 5
    run_dir.lease("next")
    heard: list[int] = []
    assert attempt(run_dir.path, "next", heard.append) == EXIT_DONE
    assert heard == list(range(6, N_STEPS + 1))
    stopped, encoder = list(run_dir.metrics()), (run_dir.path / "encoder.pt").read_bytes()
    for name in ("result.json", "encoder.pt"):
        (run_dir.path / name).unlink()
    run_dir.lease("whole")
    assert attempt(run_dir.path, "whole") == EXIT_DONE
    assert [line["loss"] for line in run_dir.metrics()] == [line["loss"] for line in stopped]
    assert (run_dir.path / "encoder.pt").read_bytes() == encoder


@pytest.mark.usefixtures("_impatient")
def test_a_run_asked_to_stop_while_probed_keeps_the_probes_it_has(
    made: Callable[..., RunDir], monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir, predict = made(), Linear.predict

    def stop_at_the_third(self: Linear, *args: Any, **kwargs: Any) -> Any:
        if len(list((run_dir.path / "probes").glob("*.json"))) == 2:
            run_dir.ask_to_stop()
        return predict(self, *args, **kwargs)

    monkeypatch.setattr(Linear, "predict", stop_at_the_third)
    assert attempt(run_dir.path, "mine") == EXIT_STOPPED
    assert run_dir.record() is not None
    assert len(list((run_dir.path / "probes").glob("*.json"))) == 2


def probed_anew(run_dir: RunDir, token: str, **changed: Any) -> dict[str, list[dict[str, Any]]]:
    """Task -> read-outs of another attempt, after its settings changed, so that the probes have other fingerprints."""
    job = job_in(run_dir)
    tasks = {f"{token}-{i}": info for i, info in enumerate(job.tasks.values())}
    probe = type(job.probe).model_validate(job.probe.model_copy(update=changed).model_dump())
    write_json(
        run_dir.path / "job.json", job.model_copy(update={"tasks": tasks, "probe": probe}).model_dump(mode="json")
    )
    run_dir.lease(token)
    assert attempt(run_dir.path, token) == EXIT_DONE
    return {info["name"]: [asdict(r) for r in run_dir.probes(f) or []] for f, info in tasks.items()}


def test_another_pool_or_read_out_costs_no_forward_pass_and_no_image(
    made: Callable[..., RunDir], monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir = made()
    assert attempt(run_dir.path, "mine") == EXIT_DONE
    for path in (run_dir.path.parents[1] / "cache").glob("task-*"):
        path.unlink()
    monkeypatch.setattr(Encoder, "forward", lambda *_, **__: pytest.fail("the encoder was called"))
    monkeypatch.setattr(Phantoms, "task", lambda *_: pytest.fail("a task's images were read"))
    anew = probed_anew(run_dir, "second", pool="mean", ridge=RidgeOptions())
    assert len(anew) == 5
    assert {result["probe"] for result in anew["ct_lesion"]} == {"linear", "knn", "ridge"}
    monkeypatch.undo()
    for path in run_dir.path.glob("features-*.npz"):
        path.write_bytes(path.read_bytes()[:-100])  # damaged: computed again, to the same bits
    assert probed_anew(run_dir, "third") == anew


def test_features_that_may_not_be_kept_are_not(made: Callable[..., RunDir]) -> None:
    run_dir = made(("probe: {", "probe: {keep_mb: 0, "))
    assert attempt(run_dir.path, "mine") == EXIT_DONE
    assert not list(run_dir.path.glob("features-*"))


def test_orders_are_looked_for_once_a_second(made: Callable[..., RunDir], monkeypatch: pytest.MonkeyPatch) -> None:
    run_dir = made(("images_seen: 192", "images_seen: 960"))
    looks: list[None] = []
    asked = RunDir.asked_to_stop
    monkeypatch.setattr(RunDir, "asked_to_stop", lambda self: looks.append(None) or asked(self))
    began = time.monotonic()
    assert attempt(run_dir.path, "mine") == EXIT_DONE
    assert len(looks) <= time.monotonic() - began + 1


# --- failing ----------------------------------------------------------------------------------------------------


class OutOfMemoryError(RuntimeError):
    """As torch names it."""


FAILURES: dict[str, tuple[BaseException, FailureClass]] = {
    "gpu": (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), "gpu_oom"),
    "by name": (OutOfMemoryError("the GPU is full"), "gpu_oom"),
    "host": (MemoryError(), "host_oom"),
    "allocator": (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate"), "host_oom"),
    "reading": (OSError(errno.EIO, "Input/output error"), "io"),
    "code": (ValueError("a mistake\nin two lines"), "error"),
}


@pytest.mark.parametrize(("error", "kind"), FAILURES.values(), ids=FAILURES)
def test_a_failure_is_written_with_its_class_and_one_line(
    error: BaseException, kind: FailureClass, made: Callable[..., RunDir], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any, **kwargs: Any) -> Tensor:
        raise error

    monkeypatch.setattr(MAE, "loss", fail)
    run_dir = made()
    assert attempt(run_dir.path, "mine") == EXIT_FAILED
    failure = run_dir.failure()
    assert failure is not None
    assert failure["kind"] == kind
    assert failure["error"].startswith(type(error).__name__)
    assert "\n" not in failure["error"]
    assert run_dir.record() is None


def test_a_loss_that_is_not_a_number_is_a_result_and_no_failure(
    made: Callable[..., RunDir], monkeypatch: pytest.MonkeyPatch
) -> None:
    loss = MAE.loss

    def nan(self: MAE, *args: Any, **kwargs: Any) -> tuple[Tensor, dict[str, Tensor]]:
        return loss(self, *args, **kwargs)[0] * torch.nan, {}

    monkeypatch.setattr(MAE, "loss", nan)
    run_dir = made()
    assert attempt(run_dir.path, "mine") == EXIT_DONE
    record = run_dir.record()
    assert record is not None
    assert record.status == "diverged"
    assert run_dir.failure() is None
    assert not (run_dir.path / "probes").exists()
    assert not (run_dir.path / "checkpoint.pt").exists()


def test_a_collapsed_representation_is_a_result_that_is_not_probed(made: Callable[..., RunDir]) -> None:
    ruinous = "algorithms: {mae: {lr: {base: 1.0, rule: constant}}}\nprobe:"
    run_dir = made(("probe:", ruinous))
    assert attempt(run_dir.path, "mine") == EXIT_DONE
    record = run_dir.record()
    assert record is not None
    assert record.status == "collapsed"
    assert "at initialisation" in record.reason
    assert record.images_seen < 192
    assert run_dir.failure() is None
    assert not (run_dir.path / "probes").exists()
    assert not (run_dir.path / "checkpoint.pt").exists()


def test_a_full_disk_fails_the_run_as_io_and_leaves_the_checkpoint_before(
    made: Callable[..., RunDir], monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir, save, saves = made(), torch.save, []

    def full_at_the_fourth(state: Any, file: Any) -> None:
        saves.append(None)
        if len(saves) == 4:
            file.write(b"half of it")
            raise OSError(errno.ENOSPC, "No space left on device")
        save(state, file)

    monkeypatch.setattr(torch, "save", full_at_the_fourth)
    assert attempt(run_dir.path, "mine") == EXIT_FAILED
    failure = run_dir.failure()
    assert failure is not None
    assert (failure["kind"], failure["error"]) == ("io", "OSError: [Errno 28] No space left on device")
    state = checkpoint.load(run_dir.path / "checkpoint.pt", torch.device("cpu"))
    assert state is not None
    assert state["n_done"] == 3
    assert not list(run_dir.path.glob(".checkpoint.pt.*"))


def test_a_disk_too_full_to_say_so_is_told_by_the_exit_code(
    made: Callable[..., RunDir], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    monkeypatch.setattr(RunDir, "fail", full)
    monkeypatch.setattr("traceback.print_exc", full)  # the log lies there too
    assert attempt(made().path, "mine") == EXIT_IO
    assert classify_exit(EXIT_IO, "")[0] == "io"


def test_torch_says_that_a_disk_is_full(tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full on this system")
    (tmp_path / "c.pt").symlink_to("/dev/full")

    class Here:
        def __enter__(self) -> Path:
            return tmp_path / "c.pt"

        def __exit__(self, *_: object) -> None: ...

    with pytest.raises(OSError, match="No space left"):
        checkpoint.save(tmp_path / "c.pt", {"a": torch.zeros(100_000)}, place=lambda path: Here())


# --- fencing ----------------------------------------------------------------------------------------------------


def test_an_attempt_that_never_held_the_run_writes_nothing(made: Callable[..., RunDir]) -> None:
    run_dir = made()
    before = contents(run_dir)
    assert attempt(run_dir.path, "another") == EXIT_FENCED
    assert contents(run_dir) == before


@pytest.mark.parametrize("step", [1, 6, N_STEPS])
def test_an_orphan_changes_nothing_after_the_lease_is_gone(step: int, made: Callable[..., RunDir]) -> None:
    run_dir, seen = made(), {}

    def on_step(done: int) -> None:
        if done == step:
            run_dir.lease("next")
            seen.update(contents(run_dir))

    assert attempt(run_dir.path, "mine", on_step) == EXIT_FENCED
    assert contents(run_dir) == seen


WRITES = ("begin", "append", "replacing", "remove", "keep_metrics_until", "clear_drafts")


@pytest.mark.parametrize("name", WRITES)
def test_no_write_of_a_worker_goes_past_the_fence(
    name: str, made: Callable[..., RunDir], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lease is lost at the worst moment: as the write begins, its draft (where it has one) ready."""
    run_dir, seen = made(), {}
    writing, calls = RunDir.writing, []

    def lost_at(self: RunDir, token: str) -> Any:
        caller = sys._getframe(1).f_code.co_name
        if caller == name and token == "mine":
            calls.append(name)
            self.lease("next")
            seen.update(contents(self))
        return writing(self, token)

    monkeypatch.setattr(RunDir, "writing", lost_at)
    assert attempt(run_dir.path, "mine") == EXIT_FENCED
    assert calls == [name]
    drafts = {name for name in seen if Path(name).name.startswith(".") and name != ".lock"}
    assert contents(run_dir) == {n: content for n, content in seen.items() if n not in drafts}


def test_a_failure_of_an_orphan_is_not_written(made: Callable[..., RunDir], monkeypatch: pytest.MonkeyPatch) -> None:
    run_dir = made()

    def fail(*args: Any, **kwargs: Any) -> Tensor:
        run_dir.lease("next")
        raise ValueError("too late to matter")

    monkeypatch.setattr(MAE, "loss", fail)
    assert attempt(run_dir.path, "mine") == EXIT_FENCED
    assert run_dir.failure() is None


def test_drafts_of_attempts_that_were_killed_are_cleared(made: Callable[..., RunDir]) -> None:
    run_dir = made()
    draft, other = run_dir.path / ".checkpoint.pt.0123abcd", run_dir.path / ".mlflow.json.0123abcd"
    for path in (draft, other):
        path.write_bytes(b"cut off")
    assert attempt(run_dir.path, "mine") == EXIT_DONE
    assert not draft.exists()
    assert other.exists()  # the driver's


# --- a process of its own ---------------------------------------------------------------------------------------


def started(run_dir: RunDir, *more: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "scaling.worker", str(run_dir.path), "mine", *more]
    return subprocess.Popen(command, cwd=Path(worker.__file__).parents[1])


def wait_for(condition: Callable[[], Any], process: subprocess.Popen[bytes], seconds: float = 120) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, "the worker ended early"
        assert time.monotonic() < until, "waited too long"
        time.sleep(0.05)


@pytest.mark.slow
def test_sigterm_saves_and_ends_with_75(made: Callable[..., RunDir]) -> None:
    run_dir = made(("images_seen: 192", "images_seen: 1600000"), ("0.0001", "60"))
    process = started(run_dir)
    try:
        wait_for(lambda: (run_dir.last_metrics() or {}).get("step", 0) > 0, process)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == EXIT_STOPPED
    finally:
        process.kill()
        process.wait()
    state = checkpoint.load(run_dir.path / "checkpoint.pt", torch.device("cpu"))
    assert state is not None
    assert state["n_done"] > 0
    assert run_dir.failure() is None
    assert f"asked to stop; saved at step {state['n_done']}" in run_dir.log_tail()


def test_a_worker_dies_with_the_process_that_started_it(made: Callable[..., RunDir]) -> None:
    if sys.platform != "linux":
        pytest.skip("the kernel kills orphans on Linux alone")
    run_dir = made(("images_seen: 192", "images_seen: 1600000"))
    command = [sys.executable, "-m", "scaling.worker", str(run_dir.path), "mine"]
    program = f"import subprocess; subprocess.Popen({command!r}).wait()"
    parent = subprocess.Popen([sys.executable, "-c", program], cwd=Path(worker.__file__).parents[1])
    try:
        wait_for(lambda: run_dir.last_beat(), parent)
    finally:
        parent.kill()
        parent.wait()
    beat, until = run_dir.last_beat(), time.monotonic() + 30
    assert beat is not None
    while beat.process_lives():
        assert time.monotonic() < until, "the orphan lives on"
        time.sleep(0.05)


# --- calibrating ------------------------------------------------------------------------------------------------


def test_a_calibration_goes_to_the_store_of_the_root(made: Callable[..., RunDir]) -> None:
    from scaling.calibration import load_calibrations

    run_dir = made()
    assert calibrate(run_dir.path, "mine") == EXIT_DONE
    root = run_dir.path.parents[1]
    (measured,) = load_calibrations(root)
    assert measured.model == "vit_atto"
    assert measured.images_per_second > 0
    (path,) = (root / "calibration").glob("*/*.json")
    assert json.loads(path.read_text()) == asdict(measured)


def test_a_calibration_that_fails_says_why(made: Callable[..., RunDir], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any, **kwargs: Any) -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(MAE, "loss", fail)
    run_dir = made()
    assert calibrate(run_dir.path, "mine") == EXIT_FAILED
    failure = run_dir.failure()
    assert failure is not None
    assert failure["kind"] == "gpu_oom"


# --- the device -------------------------------------------------------------------------------------------------


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Two GPUs that are not there; what was asked of torch about them."""
    asked: dict[str, Any] = {}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: asked.update(device=device))
    monkeypatch.setattr(
        torch.cuda, "set_per_process_memory_fraction", lambda share, device: asked.update(share=share, of=device)
    )
    return asked


def job_in(run_dir: RunDir, **changed: Any) -> Job:
    return Job.model_validate_json((run_dir.path / "job.json").read_text()).model_copy(update=changed)


def test_runs_that_share_a_gpu_are_held_to_their_share(made: Callable[..., RunDir], gpus: dict[str, Any]) -> None:
    first = torch.device("cuda", 0)
    assert worker._device(job_in(made(), use_gpu=True, gpu_share=0.25), Member()) == first
    assert gpus == {"device": first, "share": 0.25, "of": first}


def test_a_whole_gpu_is_not_limited(made: Callable[..., RunDir], gpus: dict[str, Any]) -> None:
    worker._device(job_in(made(), use_gpu=True), Member())
    assert gpus == {"device": torch.device("cuda", 0)}


def test_each_rank_has_a_gpu_of_its_own(made: Callable[..., RunDir], gpus: dict[str, Any]) -> None:
    job = job_in(made(), use_gpu=True)
    assert worker._device(job, Member(rank=1, size=2, local_rank=1, local_size=2)) == torch.device("cuda", 1)
    with pytest.raises(RunFailed, match="3 processes on this machine see 2 GPUs; one each"):
        worker._device(job, Member(rank=2, size=3, local_rank=2, local_size=3))


def test_a_run_without_a_gpu_leaves_those_it_sees_alone(made: Callable[..., RunDir], gpus: dict[str, Any]) -> None:
    assert worker._device(job_in(made(), use_gpu=False), Member()) == torch.device("cpu")
    assert gpus == {}
