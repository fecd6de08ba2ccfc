"""The tuning stage: which values are tried, what directories say of them, what is chosen, and what a crash costs."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scaling.choice import Best, best_of, conclude, finished, fit_line, save, tuned_options, tuning_path
from scaling.config import Sweep, load, parse
from scaling.document import Document
from scaling.errors import RunFailed, SpecError
from scaling.launch.launcher import Ended, Node, Order, Resources
from scaling.options import Recipe
from scaling.plan import Plan, load_plan, make_plan, open_source
from scaling.records import ProbeResult, RunRecord
from scaling.rundir import RunDir, append_line, write_json
from scaling.trialrun import Assignment, TrialRun, bundle, resources_of, rungs_of
from scaling.trials import (
    Trial,
    Tried,
    algorithms_of,
    all_trials,
    groups_of,
    key_of,
    list_trials,
    log_path,
    look,
    models_of,
    root_of,
    smoothed,
    stopped_early,
    trial_dirs,
    trial_of,
    trial_plan,
    validation_error,
)
from scaling.tuning import Setting, Tune, settings

SWEEP = """\
name: tiny
grid:
  model: [vit_atto, vit_femto, vit_pico]
  algorithm: [mae, dinov2]
  n_images: [16, 32]
  mixture: [all, ct_only]
mixtures:
  all: natural
  ct_only: {ct: 1}
data: {source: phantoms, image_size: 32, n_train: 64, n_val: 64, n_test: 64}
encoder: {patch_size: 8}
pretrain: {images_seen: 640, batch_size: 16, precision: fp32}
algorithms:
  dinov2: {prototypes: 16, head_hidden: 16, head_bottleneck: 8, n_local: 1}
probe: {bootstrap: 20, linear: {n_c: 2}}
tune:
  at: [vit_atto, vit_pico]
  lr: {between: [1.0e-4, 1.0e-2]}
"""
ONE_ALGORITHM = SWEEP.replace("[mae, dinov2]", "[mae]").replace("  dinov2: {pro", "  mae: {}\n# {")
BETWEEN = "{between: [1.0e-4, 1.0e-2]}"


def tune_of(**values: Any) -> Tune:
    return Tune.model_validate_json(json.dumps({"at": ["vit_atto"], "lr": {"between": [1e-4, 1e-2]}, **values}))


def sweep_of(root: Path, *replacements: tuple[str, str]) -> tuple[Sweep, Document]:
    text = SWEEP
    for old, new in replacements:
        assert old in text
        text = text.replace(old, new, 1)
    document = Document("sweep.yaml", f"{text}root: {root}\n")
    return parse(document), document


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., tuple[Sweep, Plan]]:
    """The sweep above, after the replacements given, and the plan of its trials; its root is the test's folder."""

    def made(*replacements: tuple[str, str]) -> tuple[Sweep, Plan]:
        sweep, document = sweep_of(tmp_path, *replacements)
        sweep, source = open_source(sweep, document)
        return sweep, trial_plan(sweep, document, source)

    return made


# --- which values -----------------------------------------------------------------------------------------------


def test_drawn_values_are_the_same_at_every_call_and_others_for_another_anchor() -> None:
    tune = tune_of(trials=5, weight_decay={"values": [0.05, 0.1]})
    assert settings(tune, "mae/vit_atto/0") == settings(tune, "mae/vit_atto/0")
    assert settings(tune, "mae/vit_atto/0") != settings(tune, "mae/vit_pico/0")


def test_drawn_values_are_these() -> None:
    """Fixed once by hand: another draw would repeat every trial of every sweep that was ever tuned."""
    assert [s.lr for s in settings(tune_of(trials=4), "mae/vit_atto/0")] == [0.00292, 0.000292, 0.00922, 0.000922]


@pytest.mark.parametrize("name", ["a", "b", "c", "d"])
def test_eight_drawn_learning_rates_fall_one_into_each_eighth_of_the_range(name: str) -> None:
    shares = [math.log(s.lr / 1e-4) / math.log(100) for s in settings(tune_of(), name)]
    gaps = np.diff(sorted(shares))
    assert min(shares) >= 0
    assert max(shares) <= 1
    # 1/8 apart, but for the rounding to three digits: at most 0.5 % of a value, 0.001 of the range on each side
    np.testing.assert_allclose(gaps, 1 / 8, atol=0.0023)


def test_more_trials_keep_those_that_were_run() -> None:
    assert settings(tune_of(trials=12), "x")[:7] == settings(tune_of(trials=7), "x")


def test_listed_values_are_combined_without_repeats_and_cut_to_the_number_of_trials() -> None:
    tune = tune_of(lr={"values": [1e-3, 2e-3, 4e-3]}, weight_decay={"values": [0.0, 0.1]}, trials=5)
    found = settings(tune, "x")
    assert len(found) == len(set(found)) == 5
    assert {s.lr for s in found} <= {1e-3, 2e-3, 4e-3}


def test_a_grid_takes_every_combination_of_listed_values_and_spreads_a_range_evenly() -> None:
    listed = tune_of(method="grid", lr={"values": [1e-3, 2e-3]}, weight_decay={"values": [0.05, 0.1]})
    assert [(s.lr, s.weight_decay) for s in settings(listed, "x")] == [
        (1e-3, 0.05),
        (1e-3, 0.1),
        (2e-3, 0.05),
        (2e-3, 0.1),
    ]
    assert [s.lr for s in settings(tune_of(method="grid", trials=3), "x")] == [1e-4, 1e-3, 1e-2]


def test_asha_looks_at_an_eighth_of_the_steps_and_from_there_on_at_multiples() -> None:
    assert rungs_of(800, 3) == (100, 300)
    assert rungs_of(800, 2) == (100, 200, 400)
    assert rungs_of(5, 4) == (1, 4)
    assert rungs_of(1, 2) == ()


# --- mistakes of the YAML -----------------------------------------------------------------------------------------

MISTAKES = [
    (
        "[vit_atto, vit_pico]\n",
        "[vit_atto, vit_pic]\n",
        "17: tune.at[1]: unknown model 'vit_pic'; did you mean 'vit_pico'",
    ),
    ("at: [vit_atto, vit_pico]", "at: [vit_atto, vit_atto]", "17: tune.at[1]: lists vit_atto twice"),
    ("at: [vit_atto, vit_pico]", "at: []", "17: tune.at: list should have at least 1 item"),
    (
        BETWEEN,
        "{between: [1.0e-2, 1.0e-4]}",
        "18: tune.lr.between: runs from 0.01 to 0.0001; give the smaller end first",
    ),
    (BETWEEN, "{between: [0, 1.0e-4]}", "18: tune.lr.between[0]: should be greater than 0 (got 0"),
    (
        BETWEEN,
        "{beween: [1.0e-4, 1.0e-2]}",
        "18: tune.lr.beween: unknown key 'beween'; did you mean 'between'? known: betw",
    ),
    (BETWEEN, "{values: []}", "18: tune.lr.values: list should have at least 1 item"),
    (BETWEEN, "{values: [1.0e-3, 0.0]}", "18: tune.lr.values[1]: is 0, which trains nothing; give values above 0"),
    (BETWEEN, "{values: [1.0e-3, 1.0e-3]}", "18: tune.lr.values: lists a value twice; give each once"),
    (BETWEEN, f"{BETWEEN}\n  n_images: 641", "19: tune.n_images: 641 is more than pretrain.images_seen 640, so some"),
    (
        BETWEEN,
        f"{BETWEEN}\n  mixture: al",
        "19: tune.mixture: unknown mixture 'al'; did you mean 'all'? known: all, ct_only",
    ),
    (BETWEEN, f"{BETWEEN}\n  method: ahsa", "19: tune.method: should be 'asha', 'optuna' or 'grid' (got \"ahsa\")"),
    (BETWEEN, f"{BETWEEN}\n  criterion: probe", "tune.method: asha stops trials by their loss, which criterion: probe"),
    (
        BETWEEN,
        f"{BETWEEN}\n  method: grid\n  weight_decay: {BETWEEN}",
        "20: tune.weight_decay: is a range, of which a grid takes no points; list them as `values`",
    ),
    (
        BETWEEN,
        "{values: [1.0e-3]}\n  method: grid\n  trials: 3",
        "20: tune.trials: follows from the listed values of a grid; remove it",
    ),
    (
        BETWEEN,
        "{values: [1.0e-3]}\n  method: optuna",
        "18: tune.lr: lists values, of which optuna learns nothing; give `between`, or use method: asha or grid",
    ),
]


@pytest.mark.parametrize(("old", "new", "said"), MISTAKES, ids=[said[:40] for _, _, said in MISTAKES])
def test_a_mistake_is_reported_with_its_line_and_the_way_out(tmp_path: Path, old: str, new: str, said: str) -> None:
    with pytest.raises(SpecError) as caught:
        sweep_of(tmp_path, (old, new))
    assert any(said in str(problem) for problem in caught.value.problems), str(caught.value)


# --- trials are runs ----------------------------------------------------------------------------------------------


def test_a_trial_with_the_grids_own_values_is_the_grids_run(make: Callable[..., tuple[Sweep, Plan]]) -> None:
    sweep, plan = make()
    own = sweep.algorithms.mae.lr.base  # type: ignore[attr-defined]
    trial = trial_of(plan, ("mae", "vit_pico"), Setting(lr=own))
    grid = make_plan(sweep, plan.document, open_source(sweep, plan.document)[1])
    same = [run for run in grid.runs if run.dir == trial.run.dir]
    assert [str(run.point) for run in same] == ["vit_pico/mae/32xall/s0"]


def test_every_anchor_and_algorithm_has_its_trials_and_none_of_them_probes(
    make: Callable[..., tuple[Sweep, Plan]],
) -> None:
    sweep, plan = make()
    trials = all_trials(plan, sweep)
    assert len(trials) == 2 * 2 * 8
    assert all(not trial.run.tasks and not plan.job(trial.run).tasks for trial in trials)
    assert {(t.run.point.n_images, t.run.point.mixture, t.run.point.seed) for t in trials} == {(32, "all", 0)}


def test_a_tuned_weight_decay_moves_its_end_by_the_same_factor(make: Callable[..., tuple[Sweep, Plan]]) -> None:
    _, plan = make()
    options = trial_of(plan, ("dinov2", "vit_atto"), Setting(lr=1e-3, weight_decay=0.08)).run.spec.options
    assert isinstance(options, Recipe)
    assert (options.lr.base, options.weight_decay, options.weight_decay_end) == (1e-3, 0.08, 0.8)  # 0.04 -> 0.4 before


def test_the_key_of_a_stage_changes_with_its_trials_alone(make: Callable[..., tuple[Sweep, Plan]]) -> None:
    group = ("mae", "vit_atto")
    key = key_of(make()[0], group)
    for same in (
        ("at: [vit_atto, vit_pico]", "at: [vit_atto]"),
        ("lr: {b", "rule: nearest\n  lr: {b"),
        ("[vit_atto, vit_femto, vit_pico]", "[vit_atto, vit_femto]"),
        ("name: tiny", "name: other"),
    ):
        assert key_of(make(same)[0], group) == key, same
    for other in (
        ("1.0e-4, ", "2.0e-4, "),
        ("n_images: [16, 32]", "n_images: [16]"),
        ("images_seen: 640", "images_seen: 320"),
        ("all: natural", "all: {ct: 1, mr: 1}"),
        ("image_size: 32,", "image_size: 32, seed: 1,"),
    ):
        assert key_of(make(other)[0], group) != key, other


def test_trials_are_listed_before_they_start_and_stay_listed(make: Callable[..., tuple[Sweep, Plan]]) -> None:
    sweep, plan = make()
    first = all_trials(plan, sweep)
    list_trials(first[:3], plan.root, sweep.name)
    list_trials(first[2:5], plan.root, sweep.name)
    append_line(log_path(plan.root, sweep.name), {"key": "of another stage", "what": "proposed", "run": "0123456789ab"})
    expected = {trial.run.dir.run for trial in first[:5]} | {"0123456789ab"}
    assert {run.run for run in trial_dirs(plan.root, sweep.name)} == expected


# --- what directories say -----------------------------------------------------------------------------------------


def record_of(run: str, status: str = "done", loss: float | None = 0.5) -> RunRecord:
    return RunRecord(
        run=run,
        status=status,  # type: ignore[arg-type]
        n_params=1,
        n_params_total=1,
        images_seen=1,
        train_flops=1.0,
        train_seconds=1.0,
        train_loss=loss,
    )


def wrote(run: RunDir, losses: Sequence[float | None]) -> None:
    """Logged steps 1, 2, ..."""
    run.path.mkdir(parents=True, exist_ok=True)
    for step, loss in enumerate(losses, start=1):
        append_line(run.path / "metrics.jsonl", {"step": step} | ({} if loss is None else {"loss": loss}))


@pytest.fixture
def trial(make: Callable[..., tuple[Sweep, Plan]]) -> Trial:
    sweep, plan = make()
    return all_trials(plan, sweep)[0]


def test_a_trial_is_told_by_its_directory(trial: Trial) -> None:
    run, stopped = trial.run.dir, {trial.run.dir.run: 20}
    assert (look(trial, {}).status, look(trial, {}).step, look(trial, {}).loss) == ("waiting", 0, None)
    wrote(run, [3.0] * 18 + [1.0] * 2 + [0.0] * 4)
    assert (look(trial, {}).status, look(trial, {}).step) == ("waiting", 24)
    seen = look(trial, stopped)
    assert (seen.status, seen.step, seen.n_steps, seen.loss, seen.score) == ("stopped", 20, 40, 1.0, None)
    run.fail("error", "ValueError: no")
    assert (look(trial, {}).status, look(trial, {}).reason) == ("failed", "ValueError: no")
    write_json(run.path / "result.json", record_of(run.run).to_json())
    seen = look(trial, stopped)  # the grid may have gone on with it
    assert (seen.status, seen.step, seen.loss, seen.score) == ("done", 40, 0.5, 0.5)
    write_json(run.path / "result.json", record_of(run.run, "diverged", 0.1).to_json())
    assert (look(trial, stopped).status, look(trial, stopped).score) == ("diverged", None)


def test_the_smoothed_loss_is_the_mean_of_the_newest_tenth() -> None:
    lines = [{"step": step, "loss": float(step)} for step in range(1, 101)]
    assert smoothed(lines, 100) == np.mean(range(91, 101))
    assert smoothed(lines, 50) == np.mean(range(46, 51))
    assert smoothed(lines, 0) is None
    assert smoothed([{"step": 1, "loss": 1.0}, {"step": 2}], 2) is None  # a loss that was no number


def test_the_probe_criterion_is_the_validation_error_of_the_linear_read_out(
    make: Callable[..., tuple[Sweep, Plan]],
) -> None:
    sweep, plan = make((BETWEEN, f"{BETWEEN}\n  method: grid\n  criterion: probe"))
    trial = all_trials(plan, sweep)[0]
    assert len(trial.run.tasks) > 1
    write_json(trial.run.dir.path / "result.json", record_of(trial.run.dir.run).to_json())
    assert look(trial, {}, by_probe=True).status == "waiting"
    for i, (f, info) in enumerate(trial.run.tasks.items()):
        rows = [result_of(info.name, "linear", 0.9 - 0.1 * i), result_of(info.name, "knn", 0.0)]
        write_json(trial.run.dir.path / "probes" / f"{f}.json", rows)
    n = len(trial.run.tasks)
    assert validation_error(trial.run) == pytest.approx(0.1 + 0.1 * (n - 1) / 2)
    assert look(trial, {}, by_probe=True).score == validation_error(trial.run)


def result_of(task: str, probe: str, val_auc: float) -> dict[str, Any]:
    return asdict(
        ProbeResult(
            task=task,
            modality="ct",
            probe=probe,
            auc=0.0,  # of the test split: must not matter
            auc_se=0.0,
            accuracy=0.0,
            accuracy_se=0.0,
            chance_auc=0.5,
            chance_accuracy=0.5,
            n_test=64,
            settings={"val_auc": val_auc},
        )
    )


# --- what is chosen -----------------------------------------------------------------------------------------------


def tried_of(lr: float, score: float | None, *, status: str = "done", model: str = "vit_atto", **more: Any) -> Tried:
    values: dict[str, Any] = {
        "algorithm": "mae",
        "model": model,
        "n_params": 1000,
        "run": f"{lr:.6f}",
        "lr": lr,
        "weight_decay": None,
        "status": status,
        "step": 40,
        "n_steps": 40,
        "loss": score,
        "score": score,
    }
    return Tried(**{**values, **more})


def test_the_best_is_the_finished_trial_with_the_lowest_score_between_its_neighbours() -> None:
    mine = [
        tried_of(1e-4, 0.9),
        tried_of(1e-3, 0.5),
        tried_of(2e-3, 0.1, status="diverged"),
        tried_of(5e-4, None, status="stopped"),
        tried_of(1e-2, 0.7),
    ]
    best = best_of(mine)
    assert (best.lr, best.score) == (1e-3, 0.5)
    assert (best.runner_up_lr, best.runner_up_score) == (1e-2, 0.7)
    assert (best.lr_below, best.lr_above) == (5e-4, 2e-3)


def planted(sweep: Sweep, plan: Plan, exponent: float = -0.5) -> list[Tried]:
    """Finished trials whose score is lowest at the learning rate nearest to 2e-2 (N / 5e4)^exponent."""
    found = []
    for one in [look(trial, {}) for trial in all_trials(plan, sweep)]:
        optimum = 2e-2 * (one.n_params / 5e4) ** exponent
        score = math.log(one.lr / optimum) ** 2
        found.append(replace(one, status="done", score=score, loss=score, step=one.n_steps))
    return found


def listed(n: int = 60) -> tuple[str, str]:
    """Learning rates close enough for a planted optimum to be met: a grid of n over three decades."""
    return "lr: " + BETWEEN, f"lr: {{between: [1.0e-4, 1.0e-1]}}\n  method: grid\n  trials: {n}"


def test_the_power_rule_recovers_a_planted_law_at_every_size(make: Callable[..., tuple[Sweep, Plan]]) -> None:
    sweep, plan = make(("algorithm: [mae, dinov2]", "algorithm: [mae]"), ("  dinov2: {pro", "  mae: {}\n# {"), listed())
    tuning = conclude(sweep, planted(sweep, plan))
    for choice in tuning.choices:
        # the grid's points are a factor 1000^(1/59) = 1.124 apart, so each anchor misses its optimum by at most half
        assert choice.lr == pytest.approx(2e-2 * (choice.n_params / 5e4) ** -0.5, rel=0.07)
    assert [(c.model, c.how) for c in tuning.choices] == [
        ("vit_atto", "tried"),
        ("vit_femto", "between anchors"),
        ("vit_pico", "tried"),
    ]
    # two anchors, each off by at most 6 % (in logarithms 0.06), over ln(301184 / 51456) = 1.77
    assert tuning.lines[0].slope == pytest.approx(-0.5, abs=2 * 0.06 / 1.7)


def test_two_anchors_keep_their_own_best_values_so_that_the_grid_shares_their_runs(
    make: Callable[..., tuple[Sweep, Plan]],
) -> None:
    sweep, plan = make()
    tuning = conclude(sweep, planted(sweep, plan))
    best = {(b.algorithm, b.model): b.lr for b in tuning.best}
    assert {(c.algorithm, c.model): c.lr for c in tuning.choices if c.how == "tried"} == best


def test_the_other_rules_take_the_nearest_anchor_or_one_value_for_all(make: Callable[..., tuple[Sweep, Plan]]) -> None:
    for rule, expected in (
        ("nearest", lambda atto, pico: (atto, atto, pico)),
        ("constant", lambda atto, pico: (math.sqrt(atto * pico),) * 3),
    ):
        sweep, plan = make((BETWEEN, f"{BETWEEN}\n  rule: {rule}"))
        tuning = conclude(sweep, planted(sweep, plan))
        atto, pico = (b.lr for b in tuning.best if b.algorithm == "mae")
        lrs = [c.lr for c in tuning.choices if c.algorithm == "mae"]
        np.testing.assert_allclose(lrs, expected(atto, pico), rtol=0.005)  # three digits


def test_a_line_through_three_anchors_is_the_least_squares_fit() -> None:
    best = [best_of([tried_of(lr, 0.1, n_params=n)]) for n, lr in ((1e4, 1e-2), (1e5, 6e-3), (1e6, 1e-3))]
    line = fit_line(best, flat=False)
    slope, intercept = np.polyfit(np.log([1e4, 1e5, 1e6]), np.log([1e-2, 6e-3, 1e-3]), 1)
    assert (line.slope, line.intercept) == pytest.approx((slope, intercept))
    assert fit_line(best, flat=True).at(123.0) == pytest.approx((1e-2 * 6e-3 * 1e-3) ** (1 / 3))


def test_the_slope_is_bounded_by_the_neighbours_of_its_anchors_and_by_nothing_at_an_edge() -> None:
    def anchor(n_params: float, *lrs: float) -> Best:
        return best_of([tried_of(lr, abs(i - 1), n_params=n_params) for i, lr in enumerate(lrs)])

    line = fit_line([anchor(1e4, 2e-3, 4e-3, 8e-3), anchor(1e6, 1e-3, 2e-3, 4e-3)], flat=False)
    decades = math.log(100)
    assert line.slope == pytest.approx(math.log(2e-3 / 4e-3) / decades)
    assert line.slope_low == pytest.approx(math.log(1e-3 / 8e-3) / decades)
    assert line.slope_high == pytest.approx(math.log(4e-3 / 2e-3) / decades)
    edge = fit_line([anchor(1e4, 2e-3, 4e-3), anchor(1e6, 1e-3, 2e-3, 4e-3)], flat=False)
    assert (edge.slope_low, edge.slope_high) == (None, None)


@pytest.mark.parametrize(
    ("replacement", "said"),
    [
        (
            (BETWEEN, "{between: [1.0e-4, 1.0e-3]}"),
            "is the largest tried, the optimum may lie beyond it; widen tune.lr",
        ),
        ((BETWEEN, "{between: [1.0e-1, 1.0]}"), "is the smallest tried, the optimum may lie beyond it; widen tune.lr"),
        (("at: [vit_atto, vit_pico]", "at: vit_atto"), "the power rule has one anchor, so every size takes its lr"),
        (("n_images: [16, 32]", "n_images: [32]"), "dinov2's loss depends on its teacher"),
    ],
)
def test_what_is_to_be_held_against_a_choice_is_said(
    make: Callable[..., tuple[Sweep, Plan]], replacement: tuple[str, str], said: str
) -> None:
    sweep, plan = make(replacement)
    assert any(said in warning for warning in conclude(sweep, planted(sweep, plan)).warnings)


def test_a_value_far_beyond_the_anchors_is_doubted(make: Callable[..., tuple[Sweep, Plan]]) -> None:
    sweep, plan = make(("vit_pico]\n  algorithm", "vit_b]\n  algorithm"))
    said = conclude(sweep, planted(sweep, plan, exponent=-1.5)).warnings
    assert any(line.startswith("mae/vit_b: lr ") and "outside of all that was tried" in line for line in said)


def test_an_optimum_inside_the_range_is_not_called_an_edge(make: Callable[..., tuple[Sweep, Plan]]) -> None:
    sweep, plan = make((BETWEEN, "{between: [1.0e-4, 1.0]}"))
    assert not any("tried, the optimum" in warning for warning in conclude(sweep, planted(sweep, plan)).warnings)


def test_without_a_finished_trial_nothing_is_chosen_and_every_end_is_said(
    make: Callable[..., tuple[Sweep, Plan]],
) -> None:
    sweep, plan = make()
    ended = [
        replace(one, status="diverged", score=None, reason="the loss became infinite")
        if (one.algorithm, one.model) == ("mae", "vit_pico")
        else one
        for one in planted(sweep, plan)
    ]
    with pytest.raises(
        RunFailed, match=r"nothing can be chosen for mae/vit_pico: lr \S+: diverged the loss became inf"
    ):
        conclude(sweep, ended)


# --- what the grid takes ------------------------------------------------------------------------------------------


def test_chosen_values_enter_the_fingerprints_of_the_grid(make: Callable[..., tuple[Sweep, Plan]]) -> None:
    sweep, plan = make()
    assert tuned_options(sweep, root_of(sweep)) is None
    tuning = conclude(sweep, planted(sweep, plan))
    save(tuning, plan.root, sweep.name)
    assert finished(sweep, plan.root) == tuning
    tuned = tuned_options(sweep, plan.root)
    assert tuned is not None
    source = open_source(sweep, plan.document)[1]
    grid = make_plan(sweep, plan.document, source, tuned)
    chosen = {(c.algorithm, c.model): c.lr for c in tuning.choices}
    for run in grid.runs:
        if isinstance(run.spec.options, Recipe):
            assert run.spec.options.lr.base == chosen[run.point.algorithm, run.point.model]
    assert {run.dir.run for run in grid.runs} >= {best.run for best in tuning.best}
    plain = {run.dir.run for run in make_plan(sweep, plan.document, source).runs}
    assert len(plain & {run.dir.run for run in grid.runs}) == 4  # the baselines


def test_a_size_added_to_the_grid_needs_no_trial_but_an_algorithm_does(
    make: Callable[..., tuple[Sweep, Plan]],
) -> None:
    one = ("algorithm: [mae, dinov2]", "algorithm: [mae]"), ("  dinov2: {pro", "  mae: {}\n# {")
    sweep, plan = make(*one)
    save(conclude(sweep, planted(sweep, plan)), plan.root, sweep.name)
    larger, _ = make(*one, ("[vit_atto, vit_femto, vit_pico]", "[vit_atto, vit_femto, vit_pico, vit_nano]"))
    tuned = tuned_options(larger, plan.root)
    assert tuned is not None
    assert tuned.keys() == {("mae", model) for model in models_of(larger)}
    assert algorithms_of(make()[0]) == ["mae", "dinov2"]
    assert tuned_options(make()[0], plan.root) is None
    assert tuned_options(make(*one, ("1.0e-4, ", "2.0e-4, "))[0], plan.root) is None


def test_a_sweep_without_the_section_has_nothing_to_wait_for(tmp_path: Path, sweep_text: str) -> None:
    assert tuned_options(parse(Document("sweep.yaml", sweep_text)), tmp_path) == {}


# --- one trial where it is carried out ----------------------------------------------------------------------------


class Trainer:
    """A launcher whose runs train at once: they log losses, then leave what `ends` says."""

    def __init__(self, losses: Sequence[float], ends: str = "done") -> None:
        self.losses, self.ends = losses, ends
        self.orders: list[Order] = []
        self.killed: list[Path] = []
        self._ended: list[Ended] = []

    def nodes(self) -> Sequence[Node]:
        return (Node(name="here", host="here", cpus=1),)

    def submit(self, order: Order) -> None:
        self.orders.append(order)
        run = RunDir(order.path)
        wrote(run, self.losses)
        if self.ends in ("done", "diverged"):
            write_json(order.path / "result.json", record_of(run.run, self.ends).to_json())
        elif self.ends == "error":
            run.fail("error", "ValueError: no")
        if self.ends != "goes on":
            self._ended.append(Ended(path=order.path, token=order.token, code=0))

    def wait(self, timeout: float) -> list[Ended]:
        for order in self.orders:
            if self.ends == "goes on" and RunDir(order.path).asked_to_stop():
                self._ended.append(Ended(path=order.path, token=order.token, code=75))
        ended, self._ended = self._ended, []
        return ended

    def kill(self, path: Path) -> None:
        self.killed.append(path)

    def close(self) -> None:
        """Nothing is kept open."""


def assigned(plan: Plan, sweep: Sweep, trial: Trial, *, stopped_at: int | None = None) -> Assignment:
    return Assignment(
        plan=replace(plan, runs=()),
        run=trial.run,
        group=trial.group,
        key=key_of(sweep, trial.group),
        setting=trial.setting,
        rungs=rungs_of(trial.run.spec.n_steps, 3),
        stopped_at=stopped_at,
        by_probe=False,
        resources=Resources(),
        code=None,
        owner="test",
    )


def reports(work: TrialRun) -> Iterator[tuple[int, float | None, str]]:
    for step in (*work.a.rungs, work.run.spec.n_steps):
        reached = work.advance(step)
        yield reached.step, reached.score, reached.status
        if reached.status != "waiting":
            return


def test_a_new_trial_is_run_once_and_reports_at_its_rungs_and_its_end(make: Callable[..., tuple[Sweep, Plan]]) -> None:
    sweep, plan = make()
    trial, trainer = all_trials(plan, sweep)[0], Trainer([1.0 / n for n in range(1, 41)])
    work = TrialRun(assigned(plan, sweep, trial), trainer)
    assert list(reports(work)) == [
        (5, pytest.approx(1 / 5), "waiting"),
        (15, pytest.approx((1 / 15 + 1 / 14) / 2), "waiting"),
        (40, 0.5, "done"),
    ]
    assert [order.path for order in trainer.orders] == [trial.run.dir.path]
    assert [line.get("outcome", "began") for line in trial.run.dir.attempts()] == ["began", "done"]
    assert (
        json.loads((trial.run.dir.path / "job.json").read_text())["spec"]["options"]["lr"]["base"] == trial.setting.lr
    )


def test_a_finished_trial_is_replayed_without_work(make: Callable[..., tuple[Sweep, Plan]]) -> None:
    sweep, plan = make()
    trial, trainer = all_trials(plan, sweep)[0], Trainer([])
    wrote(trial.run.dir, [1.0] * 40)
    write_json(trial.run.dir.path / "result.json", record_of(trial.run.dir.run).to_json())
    assert list(reports(TrialRun(assigned(plan, sweep, trial), trainer))) == [
        (5, 1.0, "waiting"),
        (15, 1.0, "waiting"),
        (40, 0.5, "done"),
    ]
    assert trainer.orders == []


def test_a_trial_that_was_stopped_early_reports_so_far_and_no_further(make: Callable[..., tuple[Sweep, Plan]]) -> None:
    sweep, plan = make()
    trial, trainer = all_trials(plan, sweep)[0], Trainer([])
    wrote(trial.run.dir, [1.0] * 9)  # it went on a little until it was asked to stop
    append_line(
        log_path(plan.root, sweep.name),
        {"key": key_of(sweep, trial.group), "what": "stopped", "run": trial.run.dir.run, "step": 5},
    )
    append_line(log_path(plan.root, sweep.name), {"key": "another stage", "what": "stopped", "run": "other", "step": 1})
    stopped = stopped_early(sweep)
    assert stopped == {trial.run.dir.run: 5}
    work = TrialRun(assigned(plan, sweep, trial, stopped_at=5), trainer)
    assert list(reports(work)) == [(5, 1.0, "waiting"), (5, 1.0, "stopped")]
    assert trainer.orders == []


@pytest.mark.parametrize(("ends", "score", "attempts"), [("diverged", None, 1), ("error", None, 1)])
def test_a_trial_without_a_result_is_worse_than_all(
    make: Callable[..., tuple[Sweep, Plan]], ends: str, score: float | None, attempts: int
) -> None:
    sweep, plan = make()
    trial, trainer = all_trials(plan, sweep)[0], Trainer([1.0, 1.0], ends)
    *_, last = reports(TrialRun(assigned(plan, sweep, trial), trainer))
    assert last[1:] == (score, "failed" if ends == "error" else ends)
    assert len(trainer.orders) == attempts


def test_a_trial_that_is_left_saves_and_goes(make: Callable[..., tuple[Sweep, Plan]]) -> None:
    sweep, plan = make()
    trial, trainer = all_trials(plan, sweep)[0], Trainer([1.0] * 7, "goes on")
    work = TrialRun(assigned(plan, sweep, trial), trainer)
    assert work.advance(5).status == "waiting"
    work.leave()
    assert [line.get("outcome", "began") for line in trial.run.dir.attempts()] == ["began", "stopped"]
    assert trainer.killed == []


NODES = [{"CPU": 4.0, "memory": 8e9}, {"CPU": 16.0, "GPU": 2.0, "memory": 64e9, "accelerator_type:H100": 1.0}]


@pytest.mark.parametrize(
    ("asked", "nodes", "expected"),
    [
        ("{}", NODES[:1], {"CPU": 1}),
        ("{cpus: 4}", NODES, {"CPU": 4, "GPU": 1.0}),
        ("{gpus: packed}", NODES, {"CPU": 1, "GPU": 1.0}),
        ("{gpus: 0}", NODES, {"CPU": 1}),
        ("{gpus: 2, accelerator: H100}", NODES, {"CPU": 1, "GPU": 2.0, "accelerator_type:H100": 0.001}),
        ("{memory_gb: 2, gpus: 0}", NODES, {"CPU": 1, "memory": 2 * 2**30}),
    ],
)
def test_a_trial_asks_for_what_the_yaml_gives_a_run(
    tmp_path: Path, asked: str, nodes: list[dict[str, float]], expected: dict[str, float]
) -> None:
    sweep, document = sweep_of(tmp_path, ("tune:", f"resources: {asked}\ntune:"))
    assert bundle(resources_of(sweep, document, nodes)) == expected


@pytest.mark.parametrize("asked", ["{gpus: 1}", "{cpus: 5}", "{gpus: 1, accelerator: A100}"])
def test_what_no_node_has_is_refused_instead_of_waited_for(tmp_path: Path, asked: str) -> None:
    sweep, document = sweep_of(tmp_path, ("tune:", f"resources: {asked}\ntune:"))
    with pytest.raises(SpecError, match=r"16: resources: a trial wants .*; no node has that \(4 CPUs, 0 GPUs\); lower"):
        resources_of(sweep, document, NODES[:1])


# --- the whole stage ----------------------------------------------------------------------------------------------

STAGE = """\
import sys
from pathlib import Path
from rich.console import Console
from scaling.config import load
from scaling.live import View
from scaling.plan import open_source
from scaling.tune import run_tuning

if __name__ == "__main__":
    sweep, document = load(Path(sys.argv[1]))
    sweep, source = open_source(sweep, document)
    run_tuning(sweep, document, source, say=View(Console()).say)
"""


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Callable[[str], subprocess.Popen[str]]]:
    """Starts the stage of a YAML text in a process and a Ray cluster of its own."""
    sessions = tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True)  # short: sockets lie in it
    started: list[subprocess.Popen[str]] = []

    def start(text: str) -> subprocess.Popen[str]:
        (tmp_path / "sweep.yaml").write_text(text)
        (tmp_path / "stage.py").write_text(STAGE)
        process = subprocess.Popen(
            [sys.executable, tmp_path / "stage.py", tmp_path / "sweep.yaml"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "RAY_TMPDIR": sessions.name},
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        if process.stdout:
            process.stdout.close()
    sessions.cleanup()


@pytest.mark.ray
@pytest.mark.slow
def test_optuna_goes_on_from_the_trials_of_a_stage_that_was_cut_off(
    tmp_path: Path, stage: Callable[[str], subprocess.Popen[str]]
) -> None:
    pytest.importorskip("optuna", reason="optuna is an optional extra")
    text = ONE_ALGORITHM.replace(BETWEEN, BETWEEN + "\n  trials: 3\n  method: optuna")
    text = text.replace("at: [vit_atto, vit_pico]", "at: vit_atto") + f"root: {tmp_path / 'state'}\n"
    assert stage(text).wait(timeout=250) == 0
    log = log_path(tmp_path / "state", "tiny")
    *kept, last = log.read_text().splitlines(keepends=True)
    assert len(kept) == 2
    log.write_text("".join(kept))
    shutil.rmtree(tmp_path / "state" / "runs" / json.loads(last)["run"])
    tuning_path(tmp_path / "state", "tiny").unlink()
    assert stage(text).wait(timeout=250) == 0
    lines = log.read_text().splitlines(keepends=True)
    assert lines[:2] == kept
    assert len(lines) == 3
    runs = list((tmp_path / "state" / "runs").iterdir())
    assert {run.name for run in runs} == {json.loads(line)["run"] for line in lines}
    assert [ended(run) for run in runs] == [1, 1, 1]


def ended(run: Path) -> int:
    """Attempts that ended with a result."""
    return sum(line.get("outcome") == "done" for line in RunDir(run).attempts())


@pytest.mark.ray
@pytest.mark.slow
def test_a_stage_killed_midway_repeats_no_finished_trial_and_comes_to_its_end(
    tmp_path: Path, stage: Callable[[str], subprocess.Popen[str]]
) -> None:
    pytest.importorskip("ray")
    text = ONE_ALGORITHM.replace("images_seen: 640", "images_seen: 6400")
    text = text.replace("precision: fp32", "precision: fp32, checkpoint_minutes: 0.01").replace(
        BETWEEN, BETWEEN + "\n  trials: 4"
    )
    text += f"root: {tmp_path / 'state'}\n"
    runs = tmp_path / "state" / "runs"
    first = stage(text)
    until = time.monotonic() + 200
    while not list(runs.glob("*/result.json")):
        assert first.poll() is None, first.stdout and first.stdout.read()
        assert time.monotonic() < until, "no trial came to its end"
        time.sleep(0.05)
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    time.sleep(1.0)  # its children die with it
    before = {path.parent.name: path.stat().st_mtime_ns for path in runs.glob("*/result.json")}
    attempts = {path.name: len(RunDir(path).attempts()) for path in runs.iterdir()}
    assert not tuning_path(tmp_path / "state", "tiny").exists()

    out, _ = stage(text).communicate(timeout=250)
    sweep, document = load(tmp_path / "sweep.yaml")
    sweep, source = open_source(sweep, document)
    tuning = finished(sweep, root_of(sweep))
    assert tuning is not None, out
    for name, written in before.items():
        assert (runs / name / "result.json").stat().st_mtime_ns == written
        assert len(RunDir(runs / name).attempts()) <= attempts[name] + 1  # at most the end of one whose driver was gone
        assert ended(runs / name) <= 1
    planned = {trial.run.dir.run for trial in all_trials(trial_plan(sweep, document, source), sweep)}
    assert {path.name for path in runs.iterdir()} == {one.run for one in tuning.tried} == planned
    assert {one.status for one in tuning.tried} <= {"done", "stopped"}
    assert all(b.run in {t.run for t in tuning.tried if t.status == "done"} for b in tuning.best)
    assert len(groups_of(sweep)) == len(tuning.best) == 2


@pytest.mark.ray
@pytest.mark.slow
def test_scaling_run_tunes_first_and_its_grid_goes_on_from_the_best_trials(tmp_path: Path) -> None:
    text = ONE_ALGORITHM.replace(BETWEEN, BETWEEN + "\n  trials: 3")
    text = text.replace("mixture: [all, ct_only]", "mixture: [all]").replace("  ct_only: {ct: 1}\n", "")
    text = text.replace("n_images: [16, 32]", "n_images: [32]")
    sweep, state = tmp_path / "sweep.yaml", tmp_path / "state"
    sweep.write_text(f"{text}baselines: []\nroot: {state}\n")
    command = ["run", str(sweep), "--launcher", "inline", "--tracking", "none", "--out", str(tmp_path / "report")]
    with tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True) as session:
        done = subprocess.run(
            [sys.executable, "-m", "scaling.cli", *command],
            capture_output=True,
            text=True,
            timeout=280,
            env={**os.environ, "RAY_TMPDIR": session},
        )
    assert done.returncode == 0, done.stdout + done.stderr
    plan = load_plan(state, "tiny")
    tuning = finished(plan.sweep, state)
    assert tuning is not None
    lrs = {run.point.model: run.spec.options.lr.base for run in plan.runs if isinstance(run.spec.options, Recipe)}
    assert lrs == {choice.model: choice.lr for choice in tuning.choices}
    shared = {best.run for best in tuning.best}
    assert shared <= {run.dir.run for run in plan.runs}
    for run in plan.runs:
        assert run.done
        # the best trials were trained as trials, and the grid only probed them
        assert ended(run.dir.path) == (2 if run.dir.run in shared else 1)
    assert "## Tuning" in (tmp_path / "report" / "report.md").read_text()
    assert (tmp_path / "report" / "figures" / "tuning.png").exists()
