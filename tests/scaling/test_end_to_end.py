"""The whole path in small: YAML in, records, MLflow and a report out; what a second call and a crash do to it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

from scaling.cli import main
from scaling.config import load
from scaling.plan import Plan, load_plan
from scaling.records import COLUMNS


@dataclass(frozen=True)
class Called:
    code: int
    out: str
    err: str


def call(*arguments: str | Path) -> Called:
    """`scaling ARGUMENTS` in this process."""
    out, err = StringIO(), StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = main([str(argument) for argument in arguments])
    return Called(code, out.getvalue(), err.getvalue())


def written(root: Path, pattern: str) -> dict[str, int]:
    """File -> time of its last change, ns."""
    return {str(path): path.stat().st_mtime_ns for path in root.glob(pattern)}


@dataclass(frozen=True)
class Finished:
    sweep: Path
    root: Path
    out: Path
    called: Called

    @property
    def plan(self) -> Plan:
        return load_plan(self.root, "tiny")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, sweep_text: str) -> Finished:
    """The good sweep, run in this process with MLflow and a report."""
    folder = tmp_path_factory.mktemp("finished")
    sweep, root, out = folder / "sweep.yaml", folder / "state", folder / "report"
    sweep.write_text(sweep_text + f"root: {root}\n")
    return Finished(sweep, root, out, call("run", sweep, "--launcher", "inline", "--out", out))


# --- what a finished sweep leaves -----------------------------------------------------------------------------------


def test_a_sweep_ends_with_a_record_of_every_run(finished: Finished) -> None:
    assert finished.called.code == 0, finished.called.out + finished.called.err
    assert len(finished.plan.runs) == 8 + 1 + 1  # the grid, one encoder at initialisation, the pixels
    assert all(run.done for run in finished.plan.runs)


def test_the_observation_table_has_every_run_task_and_probe(finished: Finished) -> None:
    import pandas as pd

    rows = pd.read_csv(finished.out / "observations.csv")
    assert set(COLUMNS) <= set(rows.columns)
    assert len(rows) == 10 * 5 * 2
    assert rows["auc"].between(0, 1).all()
    assert (rows["auc_se"] > 0).all()


def test_every_run_is_counted_in_every_way(finished: Finished) -> None:
    import pandas as pd

    runs = pd.read_csv(finished.out / "observations.csv", keep_default_na=False).drop_duplicates("run").set_index("run")
    assert (runs["gpu_seconds"].astype(float) == 0).all()
    assert (runs["recipe"] == "").all()
    for run in finished.plan.runs:
        row, record = runs.loc[run.dir.run], run.dir.record()
        assert record is not None
        for name, value in run.cost.counts.items():
            assert row[name] == getattr(record, name) == value, (run.point, name)
        assert row["train_flops"] == row["flops_per_image"] * row["images_seen"]
        if run.point.n_images:
            assert float(row["peak_lr"]) == record.peak_lr == run.spec.options.lr.resolve(16)


def test_the_report_takes_another_size_of_models_and_leaves_observations_alone(
    finished: Finished, tmp_path: Path
) -> None:
    out = tmp_path / "paper"
    named = ("report", "tiny", "--root", finished.root, "--out", out)
    assert call(*named, "--size", "paper_axis").code == 0
    assert "Model sizes are trainable parameters of MAE with the paper's decoder" in (out / "report.md").read_text()
    assert (out / "observations.csv").read_text() == (finished.out / "observations.csv").read_text()
    refused = call(*named, "--size", "paper")
    assert refused.code == 2
    assert "--size: unknown model size 'paper'; did you mean 'paper_axis'?" in refused.err


def test_the_report_calls_its_images_synthetic(finished: Finished) -> None:
    assert "synthetic" in (finished.out / "report.html").read_text()
    assert "synthetic" in (finished.out / "report.md").read_text()
    assert (finished.out / "figures" / "gallery.png").stat().st_size > 1000


def test_a_second_call_does_nothing_and_says_so(finished: Finished) -> None:
    before = written(finished.root, "**/*.json") | written(finished.out, "**/*")
    again = call("run", finished.sweep, "--launcher", "inline", "--out", finished.out)
    assert again.code == 0
    assert "nothing to do" in again.out
    after = written(finished.root, "**/*.json") | written(finished.out, "**/*")
    changed = {path for path in before if before[path] != after.get(path)}
    assert changed <= {str(finished.plan.path), str(finished.plan.folder / "control.json")}


def test_a_report_is_written_again_from_the_run_directories_alone(finished: Finished, tmp_path: Path) -> None:
    called = call("report", "tiny", "--root", finished.root, "--out", tmp_path / "again")
    assert called.code == 0
    for name in ("observations.csv", "tasks.csv", "benefits.csv", "references.csv"):
        assert (tmp_path / "again" / name).read_text() == (finished.out / name).read_text()


def test_status_lists_every_run_with_its_state(finished: Finished) -> None:
    called = call("status", "tiny", "--root", finished.root)
    assert called.code == 0
    for run in finished.plan.runs:
        assert any(line.startswith(run.dir.run) and line.rstrip().endswith("done") for line in called.out.splitlines())


def test_a_report_that_is_gone_is_written_again(finished: Finished, tmp_path: Path) -> None:
    called = call("run", finished.sweep, "--launcher", "inline", "--out", tmp_path / "new")
    assert called.code == 0
    assert "nothing to do" in called.out
    assert "tracking:" not in called.out
    assert (tmp_path / "new" / "report.html").exists()


def test_a_renamed_sweep_runs_nothing_again(finished: Finished, tmp_path: Path) -> None:
    renamed = tmp_path / "renamed.yaml"
    renamed.write_text(finished.sweep.read_text().replace("name: tiny", "name: other"))
    assert "10 done, 0 to do" in call("plan", renamed).out.replace("\n", " ")


def test_a_new_probe_setting_costs_probes_and_no_pretraining(finished: Finished, tmp_path: Path) -> None:
    root = tmp_path / "state"
    subprocess.run(["cp", "-r", finished.root, root], check=True)
    sweep = tmp_path / "sweep.yaml"
    text = finished.sweep.read_text().replace(str(finished.root), str(root)).replace("n_c: 2", "n_c: 1")
    sweep.write_text(text)
    before = written(root, "runs/*/result.json")
    called = call("run", sweep, "--launcher", "inline", "--tracking", "none", "--no-report")
    assert called.code == 0, called.out + called.err
    assert written(root, "runs/*/result.json") == before
    assert all(len(list(path.glob("probes/*.json"))) == 10 for path in (root / "runs").iterdir())


# --- MLflow ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def store(finished: Finished) -> tuple[Any, list[Any], Any]:
    """Client, the runs' MLflow runs, the sweep's MLflow run."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(finished.plan.tracking_uri)
    experiments = [e.experiment_id for e in client.search_experiments() if e.name != "Default"]
    runs = client.search_runs(experiments, max_results=1000)
    parents = [run for run in runs if "scaling.sweep" in run.data.tags]
    assert len(parents) == 1
    return client, [run for run in runs if "scaling.run" in run.data.tags], parents[0]


def test_mlflow_has_one_finished_run_per_fingerprint_under_one_parent(finished: Finished, store: tuple) -> None:
    _, children, parent = store
    assert sorted(run.data.tags["scaling.run"] for run in children) == sorted(r.dir.run for r in finished.plan.runs)
    assert {run.info.status for run in [*children, parent]} == {"FINISHED"}
    assert {run.data.tags["mlflow.parentRunId"] for run in children} == {parent.info.run_id}


def test_mlflow_has_each_step_of_the_curves_once(finished: Finished, store: tuple) -> None:
    client, children, _ = store
    for run in children:
        directory = next(r.dir for r in finished.plan.runs if r.dir.run == run.data.tags["scaling.run"])
        sent = [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, "train/loss")]
        assert sorted(sent) == [(line["step"], line["loss"]) for line in directory.metrics()]


def test_mlflow_has_every_read_out_with_its_standard_error(finished: Finished, store: tuple) -> None:
    _, children, _ = store
    for run in children:
        planned = next(r for r in finished.plan.runs if r.dir.run == run.data.tags["scaling.run"])
        results = [result for f in planned.tasks for result in planned.dir.probes(f) or []]
        assert len(results) == 10
        for result in results:
            name = f"probe/{result.task}/{result.probe}"
            assert run.data.metrics[f"{name}/auc"] == pytest.approx(result.auc, abs=1e-12)
            assert run.data.metrics[f"{name}/auc_se"] == pytest.approx(result.auc_se, abs=1e-12)


def test_mlflow_has_the_parameters_the_yaml_and_the_report(finished: Finished, store: tuple) -> None:
    client, children, parent = store
    grid = [run for run in children if run.data.params["algorithm"] == "mae"]
    assert {run.data.params["n_images"] for run in grid} == {"16", "32"}
    assert all(run.data.params["options.mask_ratio"] == "0.75" for run in grid)
    artifacts = {item.path for item in client.list_artifacts(parent.info.run_id)}
    assert {"sweep.yaml", "report"} <= artifacts
    assert "report/report.html" in {item.path for item in client.list_artifacts(parent.info.run_id, "report")}


# --- what goes wrong ------------------------------------------------------------------------------------------------


def test_a_bad_sweep_ends_with_code_2_and_starts_nothing(sweep_file: Callable[..., Path]) -> None:
    path = sweep_file(("vit_atto]", "vit_x]"))
    called = call("run", path)
    assert called.code == 2
    assert "1 problem, nothing was started" in called.err
    assert "unknown model 'vit_x'" in called.err
    assert not (path.parent / "state").exists()


def test_a_run_that_fails_says_why_costs_no_other_and_is_tried_again(
    sweep_file: Callable[..., Path], tmp_path: Path
) -> None:
    dinov2 = "  dinov2: {prototypes: 16, head_hidden: 16, head_bottleneck: 8, n_local: 1}\n"
    once = "retry: {io: 0}\n"
    path = sweep_file(("[mae, dinov2]", "[mae]"), ("algorithms:\n" + dinov2, once))
    quiet = ("--launcher", "inline", "--tracking", "none", "--no-report")
    sweep, document = load(path)
    from scaling.plan import make_plan, open_source

    sweep, source = open_source(sweep, document)
    plan = make_plan(sweep, document, source)
    broken = next(run for run in plan.runs if run.point.n_images == 32)
    broken.dir.path.mkdir(parents=True)
    (broken.dir.path / "checkpoint.pt").mkdir()  # which no attempt can read or mend

    called = call("run", path, *quiet)
    assert called.code == 3
    assert f"failed {broken.point}" in called.out
    assert f"log: {broken.dir.path / 'log.txt'}" in called.out
    assert sum(run.done for run in plan.runs) == len(plan.runs) - 1
    assert call("status", "tiny", "--root", plan.root).code == 3

    (broken.dir.path / "checkpoint.pt").rmdir()
    assert call("run", path, *quiet).code == 0
    assert broken.done
    assert broken.dir.failure() is None


# --- on Ray ---------------------------------------------------------------------------------------------------------


def command(sweep: Path, *more: str) -> list[str]:
    return [
        sys.executable,
        "-m",
        "scaling.cli",
        "run",
        str(sweep),
        "--launcher",
        "ray",
        "--tracking",
        "none",
        "--no-report",
        *more,
    ]


@pytest.mark.slow
@pytest.mark.ray
def test_ray_gives_the_same_numbers_as_one_process(finished: Finished, tmp_path: Path) -> None:
    root, sweep = tmp_path / "state", tmp_path / "sweep.yaml"
    sweep.write_text(finished.sweep.read_text().replace(str(finished.root), str(root)))
    ended = subprocess.run(command(sweep), capture_output=True, text=True, timeout=240)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    for run in finished.plan.runs:
        for fingerprint in run.tasks:
            one = json.loads((run.dir.path / "probes" / f"{fingerprint}.json").read_text())
            other = json.loads((root / "runs" / run.dir.run / "probes" / f"{fingerprint}.json").read_text())
            assert one == other


def in_session(session: int) -> list[str]:
    """Commands of the living processes of a session."""
    listed = subprocess.run(["ps", "-eo", "sid,stat,args"], capture_output=True, text=True, check=True).stdout
    rows = [line.split(None, 2) for line in listed.splitlines()[1:]]
    return [args for sid, state, args in rows if sid == str(session) and not state.startswith("Z")]


@pytest.mark.slow
@pytest.mark.ray
def test_a_sweep_killed_midway_is_finished_by_the_same_command(sweep_file: Callable[..., Path], tmp_path: Path) -> None:
    path, runs = sweep_file(("images_seen: 64", "images_seen: 640")), tmp_path / "state" / "runs"
    log = open(tmp_path / "log", "w")  # noqa: SIM115 - closed below
    driver = subprocess.Popen(command(path), stdout=log, stderr=log, start_new_session=True)
    deadline = time.monotonic() + 120
    while len(list(runs.glob("*/result.json"))) < 3 and time.monotonic() < deadline and driver.poll() is None:
        time.sleep(0.05)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    log.close()
    while in_session(driver.pid) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not in_session(driver.pid)  # workers die with the driver, within seconds
    before = written(runs, "*/result.json")
    assert 3 <= len(before) < 10, (tmp_path / "log").read_text()

    ended = subprocess.run(command(path), capture_output=True, text=True, timeout=240)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    after = written(runs, "*/result.json")
    assert len(after) == 10
    assert {name: after[name] for name in before} == before
