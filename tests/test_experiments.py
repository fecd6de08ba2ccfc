"""The sweeps that ship: they plan, they are what the README says, and they run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.optima.isoflop import budget_labels
from scaling.accelerators import ACCELERATORS, REACHED
from scaling.bill import bill_of, probe_flops
from scaling.cli import main
from scaling.config import load
from scaling.errors import DataMissing
from scaling.medmnist_sets import IMAGES
from scaling.plan import Plan, load_plan, make_plan, open_source
from scaling.pricing import price, stated

ROOT = Path(__file__).resolve().parents[1]
EXPERIMENTS = sorted((ROOT / "experiments").glob("*.yaml"))


def planned(path: Path, data_root: Path | None = None) -> Plan:
    sweep, document = load(path)
    sweep, source = open_source(sweep, document, data_root=str(data_root) if data_root else None)
    return make_plan(sweep, document, source)


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_an_experiment_opens_with_question_command_cost_and_answer(path: Path) -> None:
    sweep, document = load(path)
    assert sweep.name == path.stem
    opening = "".join(line for line in document.text.splitlines(keepends=True) if line.startswith("#"))
    for part in (sweep.question, f"scaling run experiments/{path.name}", "# Cost:", "# An answer:"):
        assert part in opening


def test_the_quickstart_is_a_full_grid_of_36_runs_with_baselines() -> None:
    plan = planned(ROOT / "experiments" / "quickstart.yaml")
    grid = [run.point for run in plan.runs if run.point.n_images]
    axes = [len({getattr(point, axis) for point in grid}) for axis in ("model", "algorithm", "n_images", "mixture")]
    assert axes == [3, 2, 3, 2]
    assert len(grid) == 36
    assert {run.point.algorithm for run in plan.runs} == {"mae", "dinov2", "random", "pixels"}
    assert plan.synthetic


def test_medical28_covers_what_it_promises(shared: Path) -> None:
    plan = planned(ROOT / "experiments" / "medical28.yaml", shared / "data")
    grid = [run.point for run in plan.runs if run.point.n_images]
    assert len({point.model for point in grid}) == 4
    assert {point.n_images for point in grid} == {500, 3000, 12000, 48000}
    assert {point.mixture for point in grid} == {"all", "microscopy"}
    assert {point.seed for point in grid} == {0, 1}
    assert len(plan.tasks) == 5
    assert not plan.synthetic


def priced(name: str, monkeypatch: pytest.MonkeyPatch) -> Plan:
    """Of an experiment whose data is not here."""
    monkeypatch.delenv("SCALING_DATA_ROOT", raising=False)
    path = ROOT / "experiments" / f"{name}.yaml"
    sweep, document = load(path)
    with pytest.raises(DataMissing) as missing:
        open_source(sweep, document)
    return price(path, missing.value)


def test_the_reference_study_is_its_full_grid(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = priced("biovfm-21m", monkeypatch)
    grid = [run for run in plan.runs if run.point.n_images]
    assert len(grid) == 4 * 2 * 3
    assert {(run.point.mixture, run.point.n_images) for run in grid} == {
        ("all", 21_000_000),
        ("all", 200_000),
        ("ultrasound", 200_000),
    }
    # The paper's axis: trainable parameters of MAE at 224/16, in its notebook in millions.
    axis = {run.cost.n_params_total for run in grid if run.point.algorithm == "mae"}
    assert sorted(round(n / 1e6, 2) for n in axis) == [31.2, 47.4, 111.66, 329.24]
    assert [info.name for info in plan.tasks] == list(IMAGES)
    assert {run.spec.n_steps for run in grid} == {125_000}


def test_the_reference_studys_cost_is_what_its_plan_says(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = priced("biovfm-21m", monkeypatch)
    node = stated(plan)
    assert node is not None
    hours = bill_of(plan, [node], []).gpu_hours
    words = f"{round(hours, -1):,.0f} GPU-hours of H100 at {REACHED:.0%}".replace("%", " %")
    assert words in plan.document.text


def test_medmnist_is_all_of_it_on_one_gpu_in_a_day(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = priced("medmnist", monkeypatch)
    assert len([run for run in plan.runs if run.point.n_images]) == 4 * 2 * 3
    assert [info.name for info in plan.tasks] == list(IMAGES)
    flops = sum(run.cost.train_flops + probe_flops(run) for run in plan.runs)
    assert flops / (0.1 * ACCELERATORS["A100"].flops) < 86_400


def test_the_mixtures_of_mixture_span_what_a_law_of_them_needs() -> None:
    plan = planned(ROOT / "experiments" / "mixture.yaml")
    sets = {run.point.mixture: run.n_by_modality for run in plan.runs if run.point.n_images == 4096}
    modalities = sorted(sets["equal"])
    shares = np.array([[of.get(name, 0) / 4096 for name in modalities] for of in sets.values()])
    assert len(modalities) == 3
    assert {tuple(row) for row in np.eye(3)} <= {tuple(row) for row in shares}  # each alone
    assert len(np.unique(shares.round(2), axis=0)) == len(sets) == 9  # and no two alike


@pytest.mark.parametrize("flops", ["1e12", "2e12", "4e12"])
def test_isoflop_is_of_equal_flops_at_each_of_its_budgets(tmp_path: Path, flops: str) -> None:
    text = (ROOT / "experiments" / "isoflop.yaml").read_text()
    (tmp_path / "a.yaml").write_text(text.replace("flops: 2e12,", f"flops: {flops},"))
    grid = [run for run in planned(tmp_path / "a.yaml").runs if run.point.n_images]
    spent = [run.cost.train_flops for run in grid]
    assert len({run.point.model for run in grid}) == 5
    assert max(spent) / min(spent) < 1.05  # runs end with a whole batch
    assert float(flops) == pytest.approx(np.mean(spent), rel=0.03)
    assert all(run.spec.images_seen >= run.point.n_images for run in grid)


def readme_block(language: str, number: int = 0) -> str:
    return (ROOT / "README.md").read_text().split(f"```{language}\n")[1 + number].split("```")[0]


def test_the_sweep_in_the_readme_plans(tmp_path: Path) -> None:
    sweep = tmp_path / "sweep.yaml"
    sweep.write_text(readme_block("yaml"))
    plan = planned(sweep)
    assert len([run for run in plan.runs if run.point.n_images]) == 36 - 4
    assert len(plan.excluded) == 4


def test_budgets_and_recipes_are_what_a_yaml_can_say(tmp_path: Path) -> None:
    first = [line for line in readme_block("yaml").splitlines() if not line.startswith("pretrain:")]
    path = tmp_path / "sweep.yaml"
    path.write_text("\n".join(first) + "\n" + readme_block("yaml", 1))
    sweep, document = load(path)
    sweep, source = open_source(sweep, document)
    (run, *_) = [r for r in make_plan(sweep, document, source).runs if r.point.algorithm == "dinov2"]
    assert sweep.pretrain.budget == "equal images"
    assert (run.spec.options.prototypes, run.spec.options.layer_scale) == (1024, None)  # type: ignore[attr-defined]


def test_the_sections_for_a_week_of_gpus_are_what_a_yaml_can_say(tmp_path: Path) -> None:
    path = tmp_path / "sweep.yaml"
    path.write_text(readme_block("yaml") + readme_block("yaml", 2))
    sweep, _ = load(path)
    assert sweep.budget.wall == 7 * 86400
    assert sweep.retry.policies()["preempted"].tries == 50
    assert sweep.retry.hang_after == 1200
    assert sweep.tune is not None


def test_the_python_in_the_readme_runs(capsys: pytest.CaptureFixture[str]) -> None:
    x = np.array([[n, d] for n in np.geomspace(1e6, 1e8, 6) for d in np.geomspace(1e8, 1e10, 5)])
    noise = np.exp(0.005 * np.random.default_rng(0).standard_normal(len(x)))
    names = {"x": x, "loss": noise * (400 * x[:, 0] ** -0.34 + 2000 * x[:, 1] ** -0.37 + 1.8)}
    exec(readme_block("python"), names)
    assert "converged" in capsys.readouterr().out


def run(sweep: Path, out: Path, *more: str) -> None:
    command = [sys.executable, "-m", "scaling.cli", "run", str(sweep), "--out", str(out), *more]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=1500, cwd=ROOT)
    assert ended.returncode == 0, ended.stdout + ended.stderr


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(1600)
def test_the_quickstart_runs_to_the_end(tmp_path: Path) -> None:
    sweep, root = tmp_path / "quickstart.yaml", tmp_path / "state"
    sweep.write_text((ROOT / "experiments" / "quickstart.yaml").read_text() + f"root: {root}\n")
    run(sweep, tmp_path / "report")
    plan = load_plan(root, "quickstart")
    assert all(r.done for r in plan.runs)
    rows = pd.read_csv(tmp_path / "report" / "observations.csv")
    linear = rows[rows["probe"] == "linear"]
    trained = linear[linear["n_images"] > 0]
    # 36 runs x 5 tasks of chance would average 0.5 with a standard error below 0.005.
    assert trained["auc"].mean() > 0.55
    assert linear["auc"].max() < 1  # no task is solved
    for name in ("error_n_params", "error_n_images", "error_train_flops", "benefit", "correlation"):
        assert (tmp_path / "report" / "figures" / f"{name}.png").stat().st_size > 5000


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_small_medical28_runs_on_the_real_packs(tmp_path: Path, shared: Path) -> None:
    text = (ROOT / "experiments" / "medical28.yaml").read_text()
    head, rest = text.split("exclude:")[0], "mixtures:" + text.split("mixtures:")[1]
    small = (
        (head + rest)
        .replace("[vit_atto, vit_femto, vit_pico, vit_nano]", "[vit_atto]")
        .replace("[500, 3000, 12000, 48000]", "[500, 2000]")
        .replace("seed: [0, 1]", "seed: [0]")
        .replace("images_seen: 49152", "images_seen: 2048")
    )
    sweep, root = tmp_path / "medical28.yaml", tmp_path / "state"
    sweep.write_text(f"{small}\nroot: {root}\n")
    run(sweep, tmp_path / "report", "--launcher", "inline", "--data-root", str(shared / "data"))
    rows = pd.read_csv(tmp_path / "report" / "observations.csv")
    linear = rows[rows["probe"] == "linear"].groupby("task")["auc"].mean()
    # Tasks that a linear read-out of pixels nearly solves (README of the packs) stay nearly solved.
    assert linear[["mednist", "dsb2018", "bccd"]].min() > 0.97
    assert linear[["breast", "pneumonia"]].between(0.6, 0.98).all()
    assert not list((tmp_path / "report").rglob("gallery*"))  # real images are never reproduced


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_small_isoflop_budgets_together_give_a_frontier(tmp_path: Path) -> None:
    text = (ROOT / "experiments" / "isoflop.yaml").read_text()
    small = (
        text.replace("vit_nano, vit_micro]", "vit_nano]")
        .replace("n_images: [2048]", "n_images: [512]")
        .replace("n_test: 640", "n_test: 160")
        .replace("seed: [0, 1]", "seed: [0]")
    )
    tables = []
    for flops in ("1e11", "4e11"):
        name, root = f"isoflop-{flops}", tmp_path / "state"
        sweep = tmp_path / f"{name}.yaml"
        sweep.write_text(
            small.replace("name: isoflop", f"name: {name}").replace("2e12,", f"{flops},") + f"root: {root}\n"
        )
        run(sweep, tmp_path / name, "--launcher", "inline", "--tracking", "none")
        tables.append(pd.read_csv(tmp_path / name / "observations.csv"))
    pd.concat(tables).to_csv(tmp_path / "isoflops.csv", index=False)
    command = ["report", "--observations", str(tmp_path / "isoflops.csv"), "--out", str(tmp_path / "report")]
    assert main(command) == 0
    grid = pd.concat(tables).query("n_images > 0").drop_duplicates("run")
    labels = budget_labels(grid["n_params"].to_numpy(float), grid["train_flops"].to_numpy(float))
    assert np.bincount(labels).tolist() == [4, 4]  # each budget is found, with every size
    split = pd.read_csv(tmp_path / "report" / "frontier.csv")
    assert {"1 envelope", "2 parabola", "3 chinchilla"} <= set(split["approach"])
