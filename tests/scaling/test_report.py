"""The observation table of a sweep: every count of every run, also of runs from before it was written down."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable

import pytest

from scaling.plan import Plan
from scaling.planned import PlannedRun
from scaling.records import COLUMNS
from scaling.report import observations

ADDED = {"n_params_heads", "n_params_non_embedding", "paper_axis", "flops_per_image", "gpu_seconds", "peak_lr"}


@pytest.fixture
def plan(answered: Callable[..., Plan]) -> Plan:
    """Whose records say no more than older versions of the program wrote."""
    plan = answered()
    for run in plan.runs:
        path = run.dir.path / "result.json"
        values = json.loads(path.read_text())
        assert ADDED | {"recipe"} <= values.keys()
        path.write_text(json.dumps({name: values[name] for name in values.keys() - ADDED - {"recipe"}}))
    return plan


def test_an_older_record_is_counted_by_what_its_run_is(plan: Plan) -> None:
    rows = observations(plan)
    assert list(rows) == list(COLUMNS)
    for run in plan.runs:
        mine = rows[rows["run"] == run.dir.run]
        for name, value in run.cost.counts.items():
            assert (mine[name] == value).all(), name
    trained = rows[rows["n_images"] > 0]
    assert (trained["peak_lr"] == 1.5e-4 * 16 / 256).all()
    assert (trained["n_params_total"] == trained["n_params"] + trained["n_params_heads"]).all()
    assert rows.loc[rows["n_images"] == 0, "peak_lr"].isna().all()


def test_gpu_seconds_that_nobody_wrote_down_are_missing(plan: Plan) -> None:
    assert observations(plan)["gpu_seconds"].isna().all()


def test_what_a_record_says_goes_before_the_closed_form(plan: Plan) -> None:
    run = plan.runs[0]
    path = run.dir.path / "result.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "n_params_heads": 7, "gpu_seconds": 2.5}))
    mine = observations(plan).set_index("run").loc[[run.dir.run]]
    assert set(mine["n_params_heads"]) == {7}
    assert set(mine["gpu_seconds"]) == {2.5}


def test_runs_of_one_recipe_are_not_set_apart(plan: Plan) -> None:
    rows = observations(plan)
    assert set(rows["settings"]) == {""}
    assert set(rows["recipe"]) == {""}


def test_options_that_differ_by_size_stand_in_the_table(plan: Plan) -> None:
    tuned = {"vit_atto": 1e-3, "vit_femto": 5e-4}

    def with_lr(run: PlannedRun) -> PlannedRun:
        options, base = run.spec.options, tuned.get(run.point.model)
        if base is None or run.point.algorithm != "mae":
            return run
        changed = options.model_copy(update={"lr": options.lr.model_copy(update={"base": base})})
        return dataclasses.replace(run, spec=run.spec.model_copy(update={"options": changed}))

    rows = observations(dataclasses.replace(plan, runs=tuple(map(with_lr, plan.runs))))
    by_model = rows[rows["algorithm"] == "mae"].groupby("model")["settings"].unique().map(list).to_dict()
    assert by_model == {
        "vit_atto": ["lr.base=0.001"],
        "vit_femto": ["lr.base=0.0005"],
        "vit_pico": ["lr.base=0.00015"],
        "vit_nano": ["lr.base=0.00015"],
    }
    assert set(rows.loc[rows["algorithm"] == "random", "settings"]) == {""}
