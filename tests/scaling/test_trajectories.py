"""What was seen along runs, as one table: complete, read once, thinned so that thousands of runs stay quick."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from scaling import rundir
from scaling.plan import Plan
from scaling.planned import PlannedRun
from scaling.records import TRAJECTORY_COLUMNS
from scaling.rundir import append_line
from scaling.trajectories import POINTS, trajectories

LONG = ("images_seen: 64, batch_size: 16", "images_seen: 1600, batch_size: 16")
"""A hundred steps."""


def logged(run: PlannedRun, steps: range, *, every: int = 10, task: str = "ct_lesion") -> None:
    """A line a step with a loss of 1 / step, and every so many a read-out of step / 1000."""
    for step in steps:
        read = {f"probe_auc/{task}": step / 1000} if step % every == 0 else {}
        append_line(run.dir.path / "metrics.jsonl", {"step": step, "loss": 1 / step, "lr": 0.1, **read})


def trained(plan: Plan) -> Iterator[PlannedRun]:
    return (run for run in plan.runs if run.point.n_images)


def test_a_run_that_logged_nothing_has_no_row(plan_of: Callable[..., Plan]) -> None:
    table = trajectories(plan_of())
    assert table.empty
    assert list(table) == list(TRAJECTORY_COLUMNS)


def test_read_outs_stand_with_their_task_and_the_images_seen_by_then(plan_of: Callable[..., Plan]) -> None:
    plan = plan_of(LONG)
    run = next(trained(plan))
    logged(run, range(1, 101))
    table = trajectories(plan)
    assert set(table["run"]) == {run.dir.run}
    read = table[table["task"] == "ct_lesion"]
    assert read["images_seen"].tolist() == [160 * i for i in range(1, 11)]
    assert read["progress"].tolist() == pytest.approx([i / 10 for i in range(1, 11)])
    assert read["auc"].tolist() == pytest.approx([i / 100 for i in range(1, 11)])
    assert read["loss"].isna().all()
    point = read[["model", "algorithm", "n_images", "mixture", "seed"]].iloc[0]
    assert point.to_dict() == vars(run.point)
    assert set(table["n_params"]) == {run.cost.n_params}


def test_the_loss_is_thinned_to_means_of_what_was_logged_since(plan_of: Callable[..., Plan]) -> None:
    plan = plan_of(LONG)
    logged(next(trained(plan)), range(1, 101))
    losses = trajectories(plan).query("task == ''")
    assert len(losses) == POINTS
    assert losses["auc"].isna().all()
    assert losses["loss"].iloc[0] == pytest.approx((1 + 1 / 2 + 1 / 3 + 1 / 4) / 4)
    assert losses["images_seen"].iloc[-1] == 1600


def test_read_outs_at_every_step_are_thinned_too_and_keep_the_last(plan_of: Callable[..., Plan]) -> None:
    plan = plan_of(LONG)
    logged(next(trained(plan)), range(1, 101), every=1)
    read = trajectories(plan).query("task == 'ct_lesion'")
    assert len(read) == POINTS
    assert read["progress"].iloc[-1] == 1


def test_what_a_resumed_run_wrote_twice_stands_once(plan_of: Callable[..., Plan]) -> None:
    plan = plan_of(LONG)
    run = next(trained(plan))
    logged(run, range(1, 11))
    logged(run, range(9, 21))
    losses = trajectories(plan).query("task == ''")
    assert losses["images_seen"].tolist() == [16 * i for i in range(1, 21)]


def test_a_run_under_way_is_there_as_far_as_it_came(plan_of: Callable[..., Plan]) -> None:
    plan = plan_of(LONG)
    logged(next(trained(plan)), range(1, 51))
    assert trajectories(plan)["progress"].max() == pytest.approx(0.5)


def test_each_file_of_logged_steps_is_read_once(plan_of: Callable[..., Plan], monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_of(LONG)
    for run in trained(plan):
        logged(run, range(1, 21))
    opened: Counter[Path] = Counter()
    read_lines = rundir.read_lines

    def counted(path: Path) -> Iterator[dict[str, Any]]:
        opened[path] += 1
        return read_lines(path)

    monkeypatch.setattr(rundir, "read_lines", counted)
    trajectories(plan)
    assert set(opened.values()) == {1}
    assert len(opened) == len(plan.unique())
