"""Is a root in order, and what in it is of no use: nothing a sweep may still need is ever called needless."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from scaling import housekeeping
from scaling.control import only_driver
from scaling.errors import SpecError
from scaling.housekeeping import checks, delete, needless, spare
from scaling.plan import Plan
from scaling.planned import PlannedRun
from scaling.rundir import RunDir, write_json

Make = Callable[..., Plan]


@pytest.fixture
def plan(plan_of: Make) -> Plan:
    made = plan_of()
    made.save()
    return made


@pytest.fixture(autouse=True)
def _light(monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch, ray and mlflow take seconds to import; a package of the standard library is told in the same way."""
    monkeypatch.setattr(housekeeping, "PACKAGES", ("numpy", "no_such_package"))


def told(root: Path) -> dict[str, list[tuple[str, str]]]:
    found: dict[str, list[tuple[str, str]]] = {}
    for check in checks(root):
        found.setdefault(check.name, []).append((check.state, check.what))
    return found


# --- doctor ------------------------------------------------------------------------------------------------------


def test_packages_are_imported_and_their_versions_told(plan: Plan) -> None:
    found = told(plan.root)
    assert found["numpy"][0][0] == "good"
    assert found["no_such_package"] == [
        ("bad", "does not import: ModuleNotFoundError: No module named 'no_such_package'")
    ]


def test_a_root_in_order_is_told_so(plan: Plan, pretend: Any) -> None:
    pretend.done(plan.runs[0])
    found = told(plan.root)
    assert found["root"] == [("good", f"{plan.root} can be written")]
    assert found["driver"] == [("good", "no `scaling run` is at work here")]
    assert found["runs"] == [("good", "1 directories")]
    assert "CPUs" in found["machine"][0][1]


def test_a_root_that_is_not_there_yet_is_no_fault(tmp_path: Path) -> None:
    state, what = told(tmp_path / "state")["root"][0]
    assert (state, "is not there yet" in what) == ("note", True)
    assert not (tmp_path / "state").exists()


def test_a_driver_at_work_is_named_and_a_silent_one_is_bad(plan: Plan) -> None:
    with only_driver(plan.root):
        assert told(plan.root)["driver"] == [("good", f"process {os.getpid()} on {os.uname().nodename} is at work")]
        holder = json.loads((plan.root / "driver.lock").read_text())
        (plan.root / "driver.lock").write_text(json.dumps({**holder, "since": time.time() - 600}))
        state, what = told(plan.root)["driver"][0]
        assert (state, "has been silent for 10 min" in what) == ("bad", True)


def test_a_process_without_a_driver_is_an_orphan(plan: Plan, pretend: Any) -> None:
    pretend.at_work(plan.runs[0])
    what = f"1 are worked on without a driver: {plan.runs[0].dir.run}: process {os.getpid()}; the next"
    assert any(said.startswith(what) for _, said in told(plan.root)["runs"])
    with only_driver(plan.root):
        assert len(told(plan.root)["runs"]) == 1


def test_an_attempt_that_was_cut_off_is_counted(plan: Plan) -> None:
    plan.runs[0].dir.lease("token")
    assert ("note", "1 were cut off; `scaling run` goes on from their checkpoints") in told(plan.root)["runs"]


def test_a_file_that_cannot_be_read_is_named(plan: Plan, pretend: Any) -> None:
    pretend.done(plan.runs[0])
    (plan.runs[0].dir.path / "result.json").write_text("{")
    state, what = told(plan.root)["runs"][1]
    assert state == "bad"
    assert what.startswith(f"1 have an unreadable file: {plan.runs[0].dir.run} (")


def test_the_mirrors_database_is_looked_into(plan: Plan) -> None:
    assert told(plan.root)["MLflow"][0][0] == "note"
    with closing(sqlite3.connect(plan.root / "mlflow.db")) as database, database:
        database.execute("create table runs (status text)")
        database.executemany("insert into runs values (?)", [("FINISHED",), ("RUNNING",)])
    state, what = told(plan.root)["MLflow"][0]
    assert (state, "2 runs, 1 of them running, journal delete" in what) == ("good", True)
    (plan.root / "mlflow.db").write_text("no database at all, but long enough to be looked at" * 100)
    state, what = told(plan.root)["MLflow"][0]
    assert (state, "`scaling sync NAME` makes it again from disk" in what) == ("bad", True)


def test_a_server_that_does_not_answer_is_bad(plan_of: Make) -> None:
    plan = plan_of(("probe: {", "tracking: {uri: 'http://127.0.0.1:9'}\nprobe: {"))
    plan.save()
    assert any(state == "bad" and "http://127.0.0.1:9" in what for state, what in told(plan.root)["MLflow"])


# --- gc ----------------------------------------------------------------------------------------------------------


def why(root: Path) -> dict[str, str]:
    return {str(item.path.relative_to(root)): item.why for item in needless(root)}


def test_a_root_in_use_has_nothing_to_delete(plan: Plan, pretend: Any) -> None:
    pretend.done(plan.runs[0])
    pretend.stepped(plan.runs[1], 1)
    (plan.runs[1].dir.path / "checkpoint.pt").write_bytes(b"x")
    cache = plan.root / "cache"
    cache.mkdir()
    info, spec = plan.tasks[0], plan.runs[0].spec
    for name in (
        f"task-{info.name}-{info.identity}.npz",
        f"features-{info.name}-{info.identity}.json",
        f"images-{spec.data_identity[:24]}-32x1.npz",
        "gallery-tiny.png",
    ):
        (cache / name).write_bytes(b"x")
    assert why(plan.root) == {}


def test_what_no_sweep_names_can_go(plan: Plan, pretend: Any) -> None:
    pretend.done(plan.runs[0])
    (plan.runs[0].dir.path / "checkpoint.pt").write_bytes(b"x" * 100)
    stranger = RunDir(plan.root / "runs" / "0123456789ab")
    stranger.lease("token")
    cache = plan.root / "cache"
    cache.mkdir()
    (cache / "task-old-0123456789abcdef.npz").write_bytes(b"x")
    (cache / "gallery-gone.png").write_bytes(b"x")
    draft = cache / ".task-x.npz.0a1b2c3d"
    draft.write_bytes(b"x")
    long_ago = time.time() - 7200
    os.utime(draft, (long_ago, long_ago))
    (cache / ".fresh.npz.0a1b2c3d").write_bytes(b"x")
    assert why(plan.root) == {
        f"runs/{plan.runs[0].dir.run}/checkpoint.pt": "checkpoint of a finished run",
        "runs/0123456789ab": "run of no sweep",
        "cache/task-old-0123456789abcdef.npz": "cache that no plan refers to",
        "cache/gallery-gone.png": "cache that no plan refers to",
        "cache/.task-x.npz.0a1b2c3d": "draft that a crash left",
    }
    found = needless(plan.root)
    assert delete(plan.root, found) == 5
    assert why(plan.root) == {}
    assert plan.runs[0].done


def test_a_run_that_any_file_of_a_sweep_names_stays(plan: Plan) -> None:
    trial = RunDir(plan.root / "runs" / "0123456789ab")
    trial.lease("token")
    (plan.folder / "trials.jsonl").write_text('{"run": "0123456789ab"}\n')
    assert why(plan.root) == {}


def test_a_run_that_a_process_works_on_stays(plan: Plan) -> None:
    stranger = RunDir(plan.root / "runs" / "0123456789ab")
    stranger.lease("token")
    stranger.begin("token", "pretrain")
    assert why(plan.root) == {}


def test_nothing_is_deleted_while_a_driver_works(plan: Plan) -> None:
    (plan.root / "runs" / "0123456789ab").mkdir(parents=True)
    found = needless(plan.root)
    assert len(found) == 1
    code = (
        "import sys, time; from pathlib import Path; from scaling.control import only_driver\n"
        "with only_driver(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(plan.root)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(SpecError, match="is at work here and may want what looks needless"):
            delete(plan.root, found)
    assert found[0].path.exists()


# --- kept features ----------------------------------------------------------------------------------------------


@pytest.fixture
def featured(plan: Plan, pretend: Any) -> PlannedRun:
    """A finished run of the sweep with features of its first task, and the task's images in the cache."""
    run, task = plan.runs[0], plan.tasks[0]
    pretend.done(run)
    write_json(run.dir.path / "job.json", plan.job(run).model_dump(mode="json"))
    (run.dir.path / "encoder.pt").write_bytes(b"x")
    (run.dir.path / f"features-{task.name}.npz").write_bytes(b"x" * 100)
    (plan.root / "cache").mkdir()
    (plan.root / "cache" / f"task-{task.name}-{task.identity}.npz").write_bytes(b"x")
    return run


def features(plan: Plan) -> list[Path]:
    return [item.path for item in spare(plan.root)]


def test_kept_features_are_spared_until_they_are_asked_for(plan: Plan, featured: PlannedRun) -> None:
    kept = featured.dir.path / f"features-{plan.tasks[0].name}.npz"
    assert why(plan.root) == {}
    (item,) = spare(plan.root)
    assert (item.path, item.bytes) == (kept, 100)
    assert delete(plan.root, [item]) == 1
    assert not kept.exists()
    assert (featured.dir.path / "encoder.pt").exists()


@pytest.mark.parametrize("missing", ["encoder.pt", "result.json", "job.json"])
def test_features_of_a_run_that_could_not_compute_them_again_stay(
    missing: str, plan: Plan, featured: PlannedRun
) -> None:
    (featured.dir.path / missing).unlink()
    assert features(plan) == []


def test_features_of_images_that_are_gone_stay(plan: Plan, featured: PlannedRun) -> None:
    cached = plan.root / "cache" / f"task-{plan.tasks[0].name}-{plan.tasks[0].identity}.npz"
    cached.rename(cached.with_name(f"task-{plan.tasks[0].name}-0123456789abcdef.npz"))
    assert features(plan) == []


def test_features_of_images_that_can_go_stay(plan: Plan, featured: PlannedRun) -> None:
    text = plan.path.read_text()
    plan.path.write_text(text.replace(plan.tasks[0].identity, "0" * 16))
    cached = f"cache/task-{plan.tasks[0].name}-{plan.tasks[0].identity}.npz"
    assert why(plan.root) == {cached: "cache that no plan refers to"}
    assert features(plan) == []


def test_features_of_a_task_that_the_run_does_not_probe_stay(plan: Plan, featured: PlannedRun) -> None:
    kept = featured.dir.path / f"features-{plan.tasks[0].name}.npz"
    kept.rename(kept.with_name("features-another.npz"))
    assert features(plan) == []


def test_features_of_a_run_at_work_or_of_no_sweep_are_not_listed(
    plan: Plan, featured: PlannedRun, pretend: Any
) -> None:
    pretend.at_work(featured, "probe")
    assert features(plan) == []
    (featured.dir.path / "heartbeat.json").unlink()
    assert len(features(plan)) == 1
    featured.dir.path.rename(plan.root / "runs" / "0123456789ab")  # goes as a whole
    assert features(plan) == []
