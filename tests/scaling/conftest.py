"""Sweeps and packs small enough for a test, made up so that no file is needed."""

from __future__ import annotations

import dataclasses
import json
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scaling.config import load
from scaling.failures import FailureClass
from scaling.plan import Plan, PlannedRun, make_plan, open_source
from scaling.records import ProbeResult, RunRecord, Status
from scaling.rundir import append_line

GOOD = """\
name: tiny
question: Does the path hold?
grid:
  model: [vit_atto]
  algorithm: [mae, dinov2]
  n_images: [16, 32]
  mixture: [all, ct_only]
  seed: [0]
mixtures:
  all: natural
  ct_only: {ct: 1}
data:
  source: phantoms
  image_size: 32
  n_train: 64
  n_val: 64
  n_test: 64
encoder: {patch_size: 8}
pretrain: {images_seen: 64, batch_size: 16, precision: fp32}
algorithms:
  dinov2: {prototypes: 16, head_hidden: 16, head_bottleneck: 8, n_local: 1}
probe: {bootstrap: 20, linear: {n_c: 2}}
"""


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Sums in one order, whatever the machine; and two cores are enough for the tests beside this one."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def sweep_text() -> str:
    return GOOD


@pytest.fixture
def sweep_file(tmp_path: Path) -> Callable[..., Path]:
    """Writes the good sweep, after the replacements given, with its root in the test's folder."""

    def write(*replacements: tuple[str, str], text: str = GOOD) -> Path:
        for old, new in replacements:
            assert old in text, f"the good sweep has no {old!r}"
            text = text.replace(old, new, 1)
        path = tmp_path / "sweep.yaml"
        path.write_text(text + f"root: {tmp_path / 'state'}\n")
        return path

    return write


@pytest.fixture
def packs(tmp_path: Path) -> Path:
    """Two packs in MedMNIST's layout: grey `shapes` with classes of two modalities, coloured `cells` of three."""
    folder = tmp_path / "packs"
    folder.mkdir()
    rng = np.random.default_rng(0)

    def pack(name: str, shape: tuple[int, ...], n_classes: int, **more: np.ndarray) -> None:
        arrays: dict[str, np.ndarray] = {}
        for split, n in (("train", 60), ("val", 30), ("test", 30)):
            labels = np.arange(n) % n_classes
            images = rng.integers(0, 100, (n, *shape), dtype=np.uint8)
            images += (labels * 40).astype(np.uint8).reshape(-1, *[1] * len(shape))
            arrays[f"{split}_images"], arrays[f"{split}_labels"] = images, labels[:, None]
        np.savez(folder / f"{name}.npz", **arrays, **more)

    pack("shapes", (28, 28), 2, classes=np.array(["slice", "film"]))
    pack("cells", (28, 28, 3), 3)
    return folder


@pytest.fixture
def plan_of(sweep_file: Callable[..., Path]) -> Callable[..., Plan]:
    """Plans the good sweep, after the replacements given."""

    def make(*replacements: tuple[str, str], text: str = GOOD) -> Plan:
        sweep, document = load(sweep_file(*replacements, text=text))
        sweep, source = open_source(sweep, document)
        return make_plan(sweep, document, source)

    return make


def written(path: Path, value: Any) -> None:
    """Not synced to disk, unlike the program's own: tests make thousands."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


class Pretend:
    """Leaves run directories as workers and drivers would, without any work."""

    def read_out(self, run: PlannedRun, fingerprint: str, error: float) -> None:
        """One linear read-out of a task, with 1 - AUC = error."""
        info = run.tasks[fingerprint]
        result = ProbeResult(
            task=info.name,
            modality=info.modality,
            probe="linear",
            auc=1 - error,
            auc_se=0.001,
            accuracy=None,
            accuracy_se=None,
            chance_auc=0.5,
            chance_accuracy=0.5,
            n_test=64,
        )
        written(run.dir.path / "probes" / f"{fingerprint}.json", [dataclasses.asdict(result)])

    def trained(self, run: PlannedRun, *, status: Status = "done", seconds: float = 10.0) -> None:
        record = RunRecord(
            run=run.dir.run,
            status=status,
            n_params=run.cost.n_params,
            n_params_total=run.cost.n_params_total,
            images_seen=run.spec.images_seen,
            train_flops=run.cost.train_flops,
            train_seconds=seconds,
            train_loss=0.5,
        )
        written(run.dir.path / "result.json", record.to_json())

    def done(self, run: PlannedRun, *, seconds: float = 10.0) -> None:
        self.trained(run, seconds=seconds)
        for fingerprint in run.tasks:
            written(run.dir.path / "probes" / f"{fingerprint}.json", [])

    def failed(self, run: PlannedRun, kind: FailureClass, error: str, log: str = "") -> None:
        run.dir.lease("token")
        run.dir.fail(kind, error)
        (run.dir.path / "log.txt").write_text(log)

    def stepped(self, run: PlannedRun, step: int, *, seconds: float = 1.0) -> None:
        line = {"step": step, "loss": 0.25, "seconds": seconds, "images_seen": step * run.spec.batch_size}
        append_line(run.dir.path / "metrics.jsonl", line)

    def at_work(self, run: PlannedRun, phase: str = "pretrain") -> None:
        """By this process."""
        run.dir.lease("token")
        run.dir.begin("token", phase)

    def used(self, run: PlannedRun, sweep: str, *, gpu_hours: float = 0.0, cpu_hours: float = 0.0) -> None:
        run.dir.log_attempt({"attempt": 1, "began": 0.0, "sweep": sweep})
        spent = {"gpu_seconds": gpu_hours * 3600, "cpu_seconds": cpu_hours * 3600}
        run.dir.log_attempt({"attempt": 1, "ended": 1.0, "outcome": "done", **spent})


@pytest.fixture
def pretend() -> Pretend:
    return Pretend()


@pytest.fixture(scope="session")
def stored() -> Callable[[Path], dict[str, Any]]:
    """Asks the tables of a root's MLflow database, without MLflow, for what must be there once.

    runs: fingerprint -> how often; running: runs that are not closed; duplicates: points sent twice; points: their
    number; losses: fingerprint -> (step, train/loss).
    """
    alive = "FROM tags JOIN runs USING (run_uuid) WHERE tags.key = 'scaling.run' AND lifecycle_stage = 'active'"

    def ask(root: Path) -> dict[str, Any]:
        with closing(sqlite3.connect(root / "mlflow.db")) as database:

            def rows(query: str) -> list[tuple]:
                return database.execute(query).fetchall()

            losses: dict[str, list[tuple[int, float]]] = {}
            for run, step, value in rows(
                f"SELECT tags.value, m.step, m.value {alive.replace('WHERE', 'JOIN metrics m USING (run_uuid) WHERE')}"
                " AND m.key = 'train/loss' ORDER BY m.step"
            ):
                losses.setdefault(run, []).append((step, value))
            return {
                "runs": dict(rows(f"SELECT tags.value, count(*) {alive} GROUP BY tags.value")),
                "running": rows("SELECT name FROM runs WHERE status = 'RUNNING'"),
                "duplicates": rows("SELECT * FROM metrics GROUP BY run_uuid, key, step HAVING count(*) > 1"),
                "points": rows("SELECT count(*) FROM metrics")[0][0],
                "losses": losses,
            }

    return ask


ANSWERED = (
    ("model: [vit_atto]", "model: [vit_atto, vit_femto, vit_pico, vit_nano]"),
    ("algorithm: [mae, dinov2]", "algorithm: [mae]"),
    ("n_images: [16, 32]", "n_images: [16, 32, 64]"),
    ("mixture: [all, ct_only]", "mixture: [all]"),
    ("  ct_only: {ct: 1}\n", ""),
    ("seed: [0]", "seed: [0, 1]"),
    ("  dinov2: {prototypes: 16, head_hidden: 16, head_bottleneck: 8, n_local: 1}\n", "  mae: {}\n"),
    ("probe: {bootstrap: 20, ", "probe: {tasks: [ct_lesion, smear_cells], bootstrap: 20, "),
)
"""Four models x three data sizes x two seeds of one algorithm, two tasks."""


@pytest.fixture(scope="session")
def planted_error() -> Callable[..., float]:
    """1 - AUC by a law of both sizes; seeds and tasks differ by a percent."""

    def error(n_params: float, n_images: float, seed: float, task: str) -> float:
        luck = 1 + 0.01 * (seed - 0.5) + 0.005 * (task == "ct_lesion")
        return (60 * n_params**-0.6 + 0.5 * n_images**-0.3 + 0.01) * luck

    return error


@pytest.fixture
def answered(
    plan_of: Callable[..., Plan], pretend: Pretend, planted_error: Callable[..., float]
) -> Callable[..., Plan]:
    """Plans the sweep of `ANSWERED`, after further replacements, as if every run had been made; `seconds` each."""

    def make(*replacements: tuple[str, str], seconds: float = 10.0) -> Plan:
        plan = plan_of(*ANSWERED, *replacements)
        for run in plan.runs:
            pretend.trained(run, seconds=seconds)
            for fingerprint, info in run.tasks.items():
                n_images, seed = run.point.n_images, run.point.seed
                wrong = planted_error(run.cost.n_params, n_images, seed, info.name) if n_images else 0.4
                pretend.read_out(run, fingerprint, wrong)
        plan.save()
        return plan

    return make
