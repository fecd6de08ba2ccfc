"""How a sweep stands by its directories: counts that add up, failures grouped by cause, runs found by name."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from typing import Any

import pytest

from scaling import control
from scaling.control import only_driver
from scaling.errors import SpecError
from scaling.live import Snapshot, headline, publish
from scaling.plan import Plan
from scaling.standings import chosen, failure_groups, find, look

Make = Callable[..., Plan]


@pytest.fixture
def plan(plan_of: Make) -> Plan:
    made = plan_of()
    made.save()
    return made


def test_every_run_is_counted_once(plan: Plan, pretend: Any) -> None:
    runs = plan.runs
    pretend.done(runs[0])
    pretend.trained(runs[1], status="diverged")
    pretend.failed(runs[2], "io", "OSError: disk full")
    pretend.at_work(runs[3])
    pretend.stepped(runs[3], 2)
    pretend.stepped(runs[4], 1)
    control.cancel(plan.root, plan.sweep.name, [runs[5].dir.run])
    now = look(plan).snapshot
    assert headline(now) == (
        "2/10 done, 1 running, 5 waiting, 1 diverged, 1 failed (io), 1 cancelled | ETA estimating"
        " | nobody works on it; `scaling run " + plan.document.path + "` goes on"
    )
    assert now.done + len(now.running) + sum(now.waiting.values()) + sum(now.failed.values()) + now.cancelled == 10
    row = now.running[0]
    assert (row.phase, row.step, row.n_steps, row.loss) == ("pretrain", 2, 4, 0.25)
    assert row.images_per_second == 32.0
    assert row.eta_seconds == 1.0  # two steps took a second, two are left


def test_hours_are_those_of_the_sweep(plan: Plan, pretend: Any) -> None:
    pretend.used(plan.runs[0], "tiny", cpu_hours=1.5)
    pretend.used(plan.runs[1], "another", cpu_hours=7)
    assert look(plan).snapshot.cpu_hours == 1.5


def test_a_paused_sweep_says_so(plan: Plan) -> None:
    control.pause(plan.root, "tiny")
    assert look(plan).snapshot.note == f"paused; `scaling resume {plan.document.path}` goes on"


def test_a_finished_sweep_needs_nobody(plan: Plan, pretend: Any) -> None:
    for run in plan.runs:
        pretend.done(run)
    assert headline(look(plan).snapshot) == "10/10 done, 0 running"


def test_a_driver_at_work_has_the_word(plan: Plan) -> None:
    told = Snapshot(total=10, done=3, waiting={"room": 7})
    publish(plan.folder, told)
    assert look(plan).snapshot != told
    with only_driver(plan.root):
        assert look(plan).snapshot == told
        long_ago = time.time() - 60
        os.utime(plan.folder / "snapshot.json", (long_ago, long_ago))
        assert look(plan).snapshot != told


def test_the_json_has_every_run(plan: Plan, pretend: Any) -> None:
    pretend.failed(plan.runs[0], "hang", "no sign of life for 600 s")
    pretend.done(plan.runs[1])
    values = json.loads(json.dumps(look(plan).to_json(), allow_nan=False))
    assert values["counts"] == {"failed": 1, "done": 1, "waiting": 8}
    assert values["driver"] is None
    first, second = values["runs"][:2]
    assert (first["state"], first["failure"], first["model"]) == ("failed", "hang", "vit_atto")
    assert (second["state"], second["step"], second["train_seconds"]) == ("done", 4, 10.0)


# --- failures ----------------------------------------------------------------------------------------------------


def test_failures_of_one_cause_are_one_group_the_largest_first(plan: Plan, pretend: Any) -> None:
    runs = plan.runs
    pretend.failed(runs[0], "error", "ValueError: shape (3, 4) in /mnt/runs/0123456789ab/x.py")
    pretend.failed(runs[1], "gpu_oom", "OutOfMemoryError: tried to allocate 2.50 GiB")
    pretend.failed(runs[2], "gpu_oom", "OutOfMemoryError: tried to allocate 7 GiB")
    pretend.failed(runs[3], "host_oom", "OutOfMemoryError: tried to allocate 7 GiB")
    long_ago = time.time() - 100
    os.utime(runs[2].dir.path / "failed.json", (long_ago, long_ago))
    first, *rest = failure_groups(plan, plan.standings())
    assert (first.kind, first.error, len(first.runs)) == ("gpu_oom", "OutOfMemoryError: tried to allocate 2.50 GiB", 2)
    assert first.log == str(runs[1].dir.path / "log.txt")
    assert first.to_json()["runs"][1] == {"run": runs[2].dir.run, "point": str(runs[2].point)}
    assert sorted(group.kind for group in rest) == ["error", "host_oom"]


def test_what_failed_once_and_is_done_now_is_no_failure(plan: Plan, pretend: Any) -> None:
    pretend.failed(plan.runs[0], "io", "OSError: disk full")
    pretend.done(plan.runs[0])
    assert failure_groups(plan, plan.standings()) == []


# --- runs by name ------------------------------------------------------------------------------------------------


def test_a_run_is_found_by_a_fingerprints_beginning_or_by_its_point(plan: Plan) -> None:
    run = plan.runs[2]
    assert find(plan, run.dir.run[:6]) == run
    assert find(plan, str(run.point)) == run
    assert find(plan, "mae/32xall") == run


def test_a_name_of_several_runs_lists_them(plan: Plan) -> None:
    with pytest.raises(SpecError, match=r"'mae' may be any of 4 runs: vit_atto/mae/16xall/s0 \(.{12}\), .* give more"):
        find(plan, "mae")


def test_a_name_of_no_run_gets_the_nearest(plan: Plan) -> None:
    with pytest.raises(SpecError, match="unknown run 'vit_atto/mea/16xall/s0'; did you mean 'vit_atto/mae/16xall/s0'"):
        find(plan, "vit_atto/mea/16xall/s0")


def points(plan: Plan, runs: list[str]) -> list[str]:
    return [str(plan.unique()[run].point) for run in runs]


def test_pairs_narrow_down_and_values_of_one_axis_widen(plan: Plan) -> None:
    assert points(plan, chosen(plan, ["algorithm=mae", "n_images=16"])) == [
        "vit_atto/mae/16xall/s0",
        "vit_atto/mae/16xct_only/s0",
    ]
    assert len(chosen(plan, ["algorithm=mae", "algorithm=dinov2"])) == 8


def test_fingerprints_and_pairs_add_up(plan: Plan) -> None:
    baseline = plan.runs[-1]
    picked = chosen(plan, ["algorithm=random", baseline.dir.run[:7]])
    assert points(plan, picked) == ["vit_atto/random/s0", "none/pixels/s0"]


def test_no_selection_is_no_run(plan: Plan) -> None:
    assert chosen(plan, []) == []


def test_every_word_that_names_nothing_is_told(plan: Plan) -> None:
    with pytest.raises(SpecError) as caught:
        chosen(plan, ["zz", "modle=vit_s", "model=vit_at"])
    said = [problem.what for problem in caught.value.problems]
    assert said[0].startswith("'zz' begins no fingerprint of this sweep; give one, or axis=value, axes: model,")
    assert said[1].startswith("unknown axis 'modle'; did you mean 'model'?")
    assert said[2].startswith("unknown model 'vit_at'; did you mean 'vit_atto'?")


def test_pairs_that_no_run_has_together_are_told(plan: Plan) -> None:
    with pytest.raises(SpecError, match="no run has algorithm=pixels n_images=16; drop a pair"):
        chosen(plan, ["algorithm=pixels", "n_images=16"])
