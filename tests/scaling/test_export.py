"""A sweep's numbers as one file: complete, the same in both formats, quick at thousands of runs."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pandas as pd
import pytest

from scaling.config import load
from scaling.errors import SpecError
from scaling.export import export
from scaling.plan import Plan, make_plan, open_source
from scaling.records import COLUMNS, TRAJECTORY_COLUMNS, ProbeResult, RunRecord
from scaling.report import observations

SWEEP = """\
name: tiny
question: Does the path hold?
grid:
  model: [vit_atto]
  algorithm: [mae]
  n_images: [16]
  seed: [SEEDS]
data: {source: phantoms, image_size: 32, n_train: 64, n_val: 64, n_test: 64}
encoder: {patch_size: 8}
pretrain: {images_seen: 128, batch_size: 16}
probe: {tasks: [ct_lesion, smear_cells], linear: {n_c: 2}}
baselines: []
"""


def sweep_of(folder: Path, n_runs: int, n_lines: int) -> Plan:
    """Finished runs, made up: the auc of a run is its seed / 10,000, the loss at a step is seed + 1 / step."""
    path = folder / "tiny.yaml"
    path.write_text(SWEEP.replace("SEEDS", ", ".join(map(str, range(n_runs)))) + f"root: {folder / 'state'}\n")
    sweep, document = load(path)
    sweep, source = open_source(sweep, document)
    plan = make_plan(sweep, document, source)
    for run in plan.runs:
        probes = run.dir.path / "probes"
        probes.mkdir(parents=True)
        seed = run.point.seed
        record = RunRecord(
            run=run.dir.run,
            status="done",
            n_params=10,
            n_params_total=12,
            images_seen=128,
            train_flops=1e9,
            train_seconds=2.5,
            train_loss=0.125,
        )
        (run.dir.path / "result.json").write_text(json.dumps(record.to_json()))
        lines = [{"step": step, "loss": seed + 1 / step, "system/rss_gb": 0.5} for step in range(1, n_lines + 1)]
        (run.dir.path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        for fingerprint, info in run.tasks.items():
            result = ProbeResult(
                task=info.name,
                modality=info.modality,
                probe="linear",
                auc=seed / 10_000,
                auc_se=0.01,
                accuracy=None,
                accuracy_se=None,
                chance_auc=0.5,
                chance_accuracy=0.5,
                n_test=64,
                reason="labels of one class",
            )
            (probes / f"{fingerprint}.json").write_text(json.dumps([dataclasses.asdict(result)]))
    return plan


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    return sweep_of(tmp_path, 3, 4)


def read(path: Path) -> pd.DataFrame:
    return pd.read_csv(path) if path.suffix == ".csv" else pd.read_parquet(path)


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_the_observations_come_back_as_they_are(plan: Plan, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / "new folder" / f"table{suffix}"
    assert export(plan, path) == 6
    table = read(path)
    assert list(table.columns) == list(COLUMNS)
    assert sorted(table["auc"]) == [0.0, 0.0, 1e-4, 1e-4, 2e-4, 2e-4]
    assert table["accuracy"].isna().all()
    pd.testing.assert_series_equal(table["run"], observations(plan)["run"], check_dtype=False)


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_the_curves_have_a_row_for_each_logged_value(plan: Plan, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"curves{suffix}"
    assert export(plan, path, "curves") == 3 * 4 * 2
    table = read(path)
    assert list(table.columns) == ["run", "step", "key", "value"]
    seeds = {run.dir.run: run.point.seed for run in plan.runs}
    losses = table[table["key"] == "loss"]
    assert [row.value for row in losses.itertuples()] == [seeds[r.run] + 1 / r.step for r in losses.itertuples()]
    assert set(table["key"]) == {"loss", "system/rss_gb"}


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_the_trajectories_have_a_row_for_each_point_of_the_loss(plan: Plan, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"along{suffix}"
    assert export(plan, path, "trajectories") == 3 * 4
    table = read(path)
    assert list(table.columns) == list(TRAJECTORY_COLUMNS)
    assert table["progress"].tolist() == [0.125, 0.25, 0.375, 0.5] * 3  # of eight steps


def test_a_sweep_without_results_gives_an_empty_table_with_its_columns(plan: Plan, tmp_path: Path) -> None:
    for run in plan.runs:
        (run.dir.path / "result.json").unlink()
        (run.dir.path / "metrics.jsonl").unlink()
    assert export(plan, tmp_path / "table.csv") == 0
    assert export(plan, tmp_path / "curves.parquet", "curves") == 0
    assert list(read(tmp_path / "table.csv").columns) == list(COLUMNS)
    assert list(read(tmp_path / "curves.parquet").columns) == ["run", "step", "key", "value"]


@pytest.mark.parametrize("name", ["table.xlsx", "table"])
def test_another_suffix_is_refused_with_those_that_are_allowed(plan: Plan, tmp_path: Path, name: str) -> None:
    with pytest.raises(SpecError, match=r"give one of \.csv, \.parquet"):
        export(plan, tmp_path / name)
    assert not (tmp_path / name).exists()


def test_a_file_that_was_there_stays_whole_when_the_new_one_fails(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "table.csv"
    path.write_text("mine")

    def full(*args: object, **kwargs: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(pd.DataFrame, "to_csv", full)
    with pytest.raises(OSError, match="no space"):
        export(plan, path)
    assert path.read_text() == "mine"
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []
