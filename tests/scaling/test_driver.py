"""A driver on real plans and directories, with workers that write their results in a moment."""

from __future__ import annotations

import json
import os
import subprocess
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from scaling import control
from scaling.attach import request, watch
from scaling.config import load
from scaling.control import Control, DriverBusy, Live, only_driver, sweep_folder
from scaling.driver import Driver
from scaling.failures import FailureClass
from scaling.launch.launcher import Ended, Node, Order
from scaling.live import View, published
from scaling.plan import Plan, make_plan, open_source
from scaling.planned import Job
from scaling.records import RunRecord
from scaling.runbody import RunBody, usage
from scaling.rundir import RunDir, append_line, read_lines, write_json


@dataclass
class Workers:
    """A launcher whose runs are done after `ticks` waits, or fail as `failing` says; it keeps count of everything."""

    ticks: int = 1
    slots: int = 2
    failing: dict[str, FailureClass] = field(default_factory=dict)
    """Run -> how its every attempt ends."""
    holding: bool = False
    """Nothing ends while this is set."""
    going: dict[Path, tuple[Order, int]] = field(default_factory=dict)
    started: list[str] = field(default_factory=list)
    killed: list[str] = field(default_factory=list)
    dead: list[Ended] = field(default_factory=list)
    """Killed, to come out of the next wait."""
    at_wait: Callable[[], None] = lambda: None
    closed: bool = False

    def nodes(self) -> list[Node]:
        return [Node(name="here", host="here", cpus=self.slots)]

    def submit(self, order: Order) -> None:
        RunDir(order.path).begin(order.token, "pretrain")
        self.started.append(order.path.name)
        self.going[order.path] = (order, self.ticks)

    def wait(self, timeout: float) -> list[Ended]:
        self.at_wait()
        ended, self.dead = self.dead, []
        for path, (order, left) in list(self.going.items()):
            run = RunDir(path)
            code: int | None = 0
            if run.asked_to_stop():
                code = 75
            elif self.holding:
                run.beat()
                continue
            elif left > 1:
                self.going[path] = (order, left - 1)
                continue
            elif path.name in self.failing:
                code = 1
                with run.writing(order.token):
                    run.fail(self.failing[path.name], f"{self.failing[path.name]}: made up")
            else:
                self._finish(run, order.token)
            del self.going[path]
            ended.append(Ended(path=path, token=order.token, code=code))
        return ended

    def _finish(self, run: RunDir, token: str) -> None:
        job = Job.model_validate_json((run.path / "job.json").read_text())
        record = RunRecord(
            run=run.run,
            status="done",
            n_params=1,
            n_params_total=1,
            images_seen=1,
            train_flops=1.0,
            train_seconds=1.0,
            train_loss=None,
        )
        with run.writing(token):
            for fingerprint in job.tasks:
                write_json(run.path / "probes" / f"{fingerprint}.json", [])
            write_json(run.path / "result.json", record.to_json())

    def kill(self, path: Path) -> None:
        order, _ = self.going.pop(path)
        self.killed.append(order.path.name)
        self.dead.append(Ended(path=path, token=order.token, code=None))

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def plan_of(sweep_file: Callable[..., Path]) -> Callable[..., Plan]:
    def make(*replacements: tuple[str, str]) -> Plan:
        sweep, document = load(sweep_file(*replacements))
        sweep, source = open_source(sweep, document)
        return make_plan(sweep, document, source)

    return make


@pytest.fixture
def words() -> StringIO:
    return StringIO()


def driver_for(plan: Plan, workers: Workers, words: StringIO) -> Driver:
    return Driver(plan.root, workers, View(Console(file=words, width=200)), lambda plan: None)


def test_every_run_is_carried_out_once_and_a_second_call_finds_nothing(
    plan_of: Callable[..., Plan], words: StringIO
) -> None:
    plan, workers = plan_of(), Workers()
    request(plan, cancel_removed=False)
    driver = driver_for(plan, workers, words)
    sweeping = driver.adopt(plan)
    driver.carry_out()
    assert sorted(workers.started) == sorted(run.dir.run for run in plan.runs)
    assert sweeping.exit_code() == 0
    assert workers.closed
    again = Workers()
    driver = driver_for(plan, again, words)
    assert driver.adopt(plan).outstanding() == []
    driver.carry_out()
    assert again.started == []


def test_a_failed_run_is_told_with_its_class_and_log_and_tried_again_next_time(
    plan_of: Callable[..., Plan], words: StringIO
) -> None:
    plan = plan_of()
    bad = plan.runs[2]
    driver = driver_for(plan, Workers(failing={bad.dir.run: "error"}), words)
    sweeping = driver.adopt(plan)
    driver.carry_out()
    assert sweeping.exit_code() == 3
    assert sweeping.failed == {bad.dir.run: "error"}
    assert f"failed {bad.point} ({bad.dir.run}), error: error: made up" in words.getvalue()
    assert f"log: {bad.dir.path / 'log.txt'}" in words.getvalue()

    left_alone = Workers()
    driver = driver_for(plan, left_alone, words)
    assert driver.adopt(plan, again=False).failed == {bad.dir.run: "error"}
    driver.carry_out()
    assert left_alone.started == []

    workers = Workers()
    driver = driver_for(plan, workers, words)
    sweeping = driver.adopt(plan)
    driver.carry_out()
    assert workers.started == [bad.dir.run]
    assert sweeping.exit_code() == 0


def test_attempts_are_kept_with_what_they_used(plan_of: Callable[..., Plan], words: StringIO) -> None:
    plan = plan_of()
    bad = plan.runs[0].dir
    driver = driver_for(plan, Workers(failing={bad.run: "hang"}), words)
    driver.adopt(plan)
    driver.carry_out()
    lines = bad.attempts()
    assert [line["attempt"] for line in lines if "began" in line] == [1, 2]
    assert [line["outcome"] for line in lines if "ended" in line] == ["hang", "hang"]
    seconds = sum(line["cpu_seconds"] for run in plan.runs for line in run.dir.attempts() if "ended" in line)
    assert usage(plan.sweep.name, [run.dir for run in plan.runs]).cpu_hours == pytest.approx(seconds / 3600)
    events = list(read_lines(sweep_folder(plan.root, plan.sweep.name) / "events.jsonl"))
    assert [e["kind"] for e in events if e["run"] == bad.run] == ["started", "retry", "started", "failed"]


def test_an_attempt_whose_driver_died_is_accounted_for_until_its_last_sign_of_life(
    plan_of: Callable[..., Plan], words: StringIO
) -> None:
    plan = plan_of()
    run = plan.runs[0].dir
    run.lease("dead")
    run.begin("dead", "pretrain")
    began = (run.path / "heartbeat.json").stat().st_mtime - 100
    run.log_attempt({"attempt": 1, "began": began, "sweep": "tiny", "cpus": 2, "gpus": 0.5, "memory": 0})
    values = json.loads((run.path / "heartbeat.json").read_text())
    write_json(run.path / "heartbeat.json", {**values, "pid": 2**22 + 1})  # no such process
    os.utime(run.path / "heartbeat.json", (began + 100, began + 100))
    driver = driver_for(plan, Workers(), words)
    sweeping = driver.adopt(plan)
    driver.carry_out()
    lost = next(line for line in run.attempts() if line.get("outcome") == "lost")
    assert (lost["seconds"], lost["gpu_seconds"]) == pytest.approx((100, 50), abs=0.1)
    assert sweeping.exit_code() == 0


@pytest.mark.parametrize(("last", "expected"), [({"n_micro": 4, "recomputed": True}, (4, True)), ({}, (1, False))])
def test_a_new_driver_gives_a_step_no_more_memory_than_the_last_attempt_had(
    last: dict[str, object], expected: tuple[int, bool], plan_of: Callable[..., Plan], words: StringIO
) -> None:
    plan = plan_of()
    run = plan.runs[0].dir
    run.log_attempt({"attempt": 1, "began": 1.0, "sweep": "tiny", "cpus": 1, "gpus": 0, "memory": 0, **last})
    run.log_attempt({"ended": 2.0, "outcome": "gpu_oom", "error": "", "seconds": 1, "gpu_seconds": 0, "cpu_seconds": 1})
    driver = driver_for(plan, Workers(), words)
    driver.adopt(plan)
    driver.carry_out()
    job = Job.model_validate_json((run.path / "job.json").read_text())
    assert (job.n_micro, job.recomputed) == expected


def test_a_process_of_a_dead_driver_is_fenced_and_waited_for(plan_of: Callable[..., Plan], words: StringIO) -> None:
    plan = plan_of()
    run = plan.runs[0].dir
    run.lease("orphan")
    run.begin("orphan", "pretrain")
    orphan = subprocess.Popen(["sleep", "60"])
    values = json.loads((run.path / "heartbeat.json").read_text())
    write_json(run.path / "heartbeat.json", {**values, "pid": orphan.pid})
    workers = Workers(slots=20)
    driver = driver_for(plan, workers, words)
    driver.adopt(plan)
    driver.scheduler.tick(0)
    assert len(workers.started) == len(plan.runs) - 1
    assert run.run not in workers.started
    with pytest.raises(Exception, match="belongs to another attempt"), run.writing("orphan"):
        pass
    assert run.asked_to_stop()
    orphan.kill()
    orphan.wait()
    driver.carry_out()
    assert run.run in workers.started


def test_twenty_slow_steps_without_a_sign_are_no_hang(plan_of: Callable[..., Plan]) -> None:
    plan = plan_of()
    body = RunBody(plan, plan.runs[0], "driver")
    assert body.slow_pulse() == 0
    append_line(plan.runs[0].dir.path / "metrics.jsonl", {"step": 50, "seconds": 1000.0})
    assert body.slow_pulse() == pytest.approx(20 * 1000 / 50)


def test_the_first_forecast_already_counts_on_all_slots(plan_of: Callable[..., Plan], words: StringIO) -> None:
    plan = plan_of()
    driver = driver_for(plan, Workers(slots=2), words)
    sweeping = driver.adopt(plan)
    for run in plan.runs:
        sweeping.forecast.learn(run, 10.0, probes_only=run.cost.train_flops == 0)
    driver.look()
    now = published(sweep_folder(plan.root, "tiny"))
    assert now is not None
    assert not now.running
    assert now.eta_seconds == pytest.approx(10.0 * len(plan.runs) / 2, rel=0.01)


# --- budgets ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("on_hit", "finished"), [("drain", True), ("stop", False)])
def test_a_spent_budget_starts_nothing_new(
    plan_of: Callable[..., Plan], words: StringIO, on_hit: str, finished: bool
) -> None:
    more = f"budget: {{cpu_hours: 0.5, on_hit: {on_hit}}}\nprobe:"
    plan, workers = plan_of(("probe:", more)), Workers(holding=True)
    clock = [1.0]
    driver = Driver(plan.root, workers, View(Console(file=words, width=200)), lambda p: None, now=lambda: clock[0])
    sweeping = driver.adopt(plan)

    def pass_time() -> None:
        clock[0] += 100.0
        if sweeping.ending:
            workers.holding = False

    workers.at_wait = pass_time
    driver.carry_out()
    assert sweeping.exit_code() == 4
    assert len(workers.started) == 2
    assert len(sweeping.done) == (2 if finished else 0)
    assert len(sweeping.stopped) == (0 if finished else 2)
    assert "the budget is spent: 0.5" in words.getvalue()


# --- what people ask for ----------------------------------------------------------------------------------------


def test_pause_cancel_resume_and_stop_are_obeyed_while_the_sweep_runs(
    plan_of: Callable[..., Plan], words: StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scaling.driver.TICK_SECONDS", 0.0)
    plan, workers = plan_of(), Workers(slots=1)
    root, name = plan.root, plan.sweep.name
    request(plan, cancel_removed=False)
    driver = driver_for(plan, workers, words)
    sweeping = driver.adopt(plan)
    dear = max(plan.runs, key=lambda run: run.cost.train_flops).dir.run
    asks: dict[int, Callable[[], None]] = {
        2: lambda: control.pause(root, name),
        9: lambda: control.cancel(root, name, [dear]),
        20: lambda: control.resume(root, name, ["of another"]),
        24: lambda: control.stop(root, name, drain=True),
    }
    turn, while_paused = 0, set()

    def act() -> None:
        nonlocal turn
        turn += 1
        driver._looked = 0.0  # look at every turn
        asks.get(turn, lambda: None)()
        if sweeping.note.startswith("paused"):
            while_paused.add(len(workers.started))

    workers.at_wait = act
    driver.carry_out()
    assert len(while_paused) == 1  # nothing started
    assert sweeping.cancelled == {dear}
    assert dear not in workers.started
    assert sweeping.exit_code() == 130  # stopped with runs to do
    assert 2 < len(sweeping.done) < len(plan.runs) - 1
    assert Control.read(sweep_folder(root, name)).cancelled == (dear,)


def test_a_cancelled_run_stays_cancelled_until_it_is_resumed(plan_of: Callable[..., Plan], words: StringIO) -> None:
    plan = plan_of()
    name, victim = plan.sweep.name, plan.runs[0].dir.run
    request(plan, cancel_removed=False)
    control.cancel(plan.root, name, [victim])
    workers = Workers()
    driver = driver_for(plan, workers, words)
    driver.adopt(plan)
    driver.carry_out()
    assert victim not in workers.started
    control.resume(plan.root, name, [victim])
    driver = driver_for(plan, workers, words)
    driver.adopt(plan)
    driver.carry_out()
    assert victim in workers.started


def test_controls_of_an_unknown_sweep_say_what_there_is(plan_of: Callable[..., Plan]) -> None:
    plan = plan_of()
    request(plan, cancel_removed=False)
    with pytest.raises(ValueError, match="unknown sweep 'tinny'; did you mean 'tiny'"):
        control.pause(plan.root, "tinny")


# --- one driver per root, editing while it runs -----------------------------------------------------------------


def test_a_root_has_one_driver_and_knows_who(tmp_path: Path) -> None:
    assert control.driver_of(tmp_path) is None
    with only_driver(tmp_path):
        with pytest.raises(DriverBusy, match=f"process {os.getpid()} on "), only_driver(tmp_path):
            pass
        holder = control.driver_of(tmp_path)
        assert holder is not None
        assert holder.pid == os.getpid()
    assert control.driver_of(tmp_path) is None


def test_an_edited_sweep_is_reconciled_by_the_driver_at_work(
    plan_of: Callable[..., Plan], sweep_file: Callable[..., Path], words: StringIO
) -> None:
    plan, workers = plan_of(), Workers(slots=1, holding=True)
    request(plan, cancel_removed=False)
    driver = driver_for(plan, workers, words)
    driver.adopt(plan)
    edited = plan_of(("n_images: [16, 32]", "n_images: [16, 48]"))
    asked = []

    def edit() -> None:
        driver._looked = 0.0
        if not asked:
            asked.append(request(edited, cancel_removed=False))
        elif driver.sweeps["tiny"].answered == asked[0].id:
            workers.holding = False

    workers.at_wait = edit
    driver.carry_out()
    before, after = ({run.dir.run for run in p.runs} for p in (plan, edited))
    removed = before - after
    assert removed
    assert after - before
    assert set(workers.started) - after == set(workers.started[:1]) & removed  # what ran was let finish
    assert after <= set(workers.started)
    live = Live.read(sweep_folder(plan.root, "tiny"))
    assert live is not None
    assert (live.answered, live.finished, live.exit_code) == (asked[0].id, True, 0)


def test_removed_runs_are_ended_on_request(plan_of: Callable[..., Plan], words: StringIO) -> None:
    plan, workers = plan_of(), Workers(slots=10, holding=True)
    request(plan, cancel_removed=False)
    driver = driver_for(plan, workers, words)
    driver.adopt(plan)
    driver.scheduler.tick(0)
    edited = plan_of(("n_images: [16, 32]", "n_images: [16]"))
    request(edited, cancel_removed=True)
    workers.holding = False
    workers.ticks = 3
    driver._looked = 0.0
    driver.look()
    driver.carry_out()
    removed = {run.dir.run for run in plan.runs} - {run.dir.run for run in edited.runs}
    assert removed
    assert set(workers.killed) == removed
    assert all(run.done for run in edited.runs)


def test_two_sweeps_of_a_root_share_the_runs_they_have_in_common(plan_of: Callable[..., Plan], words: StringIO) -> None:
    first, workers = plan_of(), Workers()
    other = plan_of(("name: tiny", "name: other"), ("n_images: [16, 32]", "n_images: [32, 48]"))
    request(first, cancel_removed=False)
    driver = driver_for(first, workers, words)
    driver.adopt(first)
    asked = request(other, cancel_removed=False)
    workers.at_wait = lambda: setattr(driver, "_looked", 0.0)
    driver.carry_out()
    both = {run.dir.run for plan in (first, other) for run in plan.runs}
    assert sorted(workers.started) == sorted(both)  # each once
    assert all(sweeping.exit_code() == 0 for sweeping in driver.sweeps.values())
    assert watch(other, asked, View(Console(file=words))) == 0


def test_who_watches_learns_the_exit_code_or_that_the_driver_is_gone(
    plan_of: Callable[..., Plan], words: StringIO
) -> None:
    plan = plan_of()
    asked = request(plan, cancel_removed=False)
    view = View(Console(file=words))
    assert watch(plan, asked, view) is None  # nobody drives
    folder, held, free = sweep_folder(plan.root, "tiny"), threading.Event(), threading.Event()

    def drive() -> None:
        with only_driver(plan.root):
            held.set()
            free.wait(10)

    thread = threading.Thread(target=drive)
    thread.start()
    held.wait(10)

    def answer(seconds: float) -> None:
        Live(time=0, pid=1, answered=asked.id, finished=True, exit_code=3).write(folder)

    assert watch(plan, asked, view, sleep=answer) == 3
    free.set()
    thread.join()


def test_a_request_nobody_waits_for_any_more_is_not_taken_up(plan_of: Callable[..., Plan], words: StringIO) -> None:
    plan = plan_of()
    other = plan_of(("name: tiny", "name: other"), ("n_images: [16, 32]", "n_images: [48]"))
    asked = request(other, cancel_removed=False)
    control.change(other.root, "other", asked=control.Asked(**{**vars(asked), "pid": 2**22 + 1}))
    workers = Workers()
    driver = driver_for(plan, workers, words)
    driver.adopt(plan)
    driver.carry_out()
    assert set(driver.sweeps) == {"tiny"}


# --- what two sweeps, or two words on one sweep, do to the same run ---------------------------------------------------


def pair(plan_of: Callable[..., Plan], workers: Workers, words: StringIO) -> tuple[Driver, Plan, Plan]:
    """Two sweeps at work whose runs are the same; all on the first one's account."""
    first, second = plan_of(), plan_of(("name: tiny", "name: other"))
    driver = driver_for(first, workers, words)
    for plan in (first, second):
        request(plan, cancel_removed=False)
        driver.adopt(plan)
    return driver, first, second


def always_look(driver: Driver, workers: Workers, act: Callable[[], None] = lambda: None) -> None:
    def turn() -> None:
        driver._looked = 0.0
        act()

    workers.at_wait = turn


@pytest.mark.parametrize("how", ["stopped", "paused"])
def test_a_sweep_that_is_held_holds_no_run_that_another_wants(
    plan_of: Callable[..., Plan], words: StringIO, how: str
) -> None:
    workers = Workers(slots=1)
    driver, first, second = pair(plan_of, workers, words)
    asked = [lambda: (control.pause if how == "paused" else control.stop)(first.root, "tiny")]

    def act() -> None:
        if asked:
            asked.pop()()
        elif not driver.sweeps["other"].outstanding():
            control.resume(first.root, "tiny")

    always_look(driver, workers, act)
    driver.carry_out()
    assert driver.sweeps["other"].exit_code() == 0
    assert {run.dir.run for run in second.runs} == set(workers.started)


def test_a_run_removed_from_one_sweep_is_still_done_for_the_other(
    plan_of: Callable[..., Plan], words: StringIO
) -> None:
    workers = Workers(slots=1, holding=True)
    driver, _, second = pair(plan_of, workers, words)
    edited = plan_of(("n_images: [16, 32]", "n_images: [16]"))
    done: list[bool] = []

    def act() -> None:
        if not done:
            done.append(True)
            request(edited, cancel_removed=False)
        elif len(driver.sweeps["tiny"].plan.runs) == len(edited.runs):
            workers.holding = False

    always_look(driver, workers, act)
    driver.carry_out()
    assert all(run.done for run in second.runs)
    assert {name: sweeping.exit_code() for name, sweeping in driver.sweeps.items()} == {"tiny": 0, "other": 0}


def test_cancelling_in_one_sweep_takes_nothing_from_the_other(plan_of: Callable[..., Plan], words: StringIO) -> None:
    workers = Workers(slots=1, holding=True)
    driver, _, second = pair(plan_of, workers, words)
    victims = [second.runs[0].dir.run, *workers.started]
    done: list[bool] = []

    def act() -> None:
        if not done:
            done.append(True)
            control.cancel(second.root, "other", [*victims, *workers.started])
        elif driver.sweeps["other"].cancelled:
            workers.holding = False

    always_look(driver, workers, act)
    driver.carry_out()
    assert driver.sweeps["tiny"].exit_code() == 0
    assert driver.sweeps["tiny"].cancelled == set()
    assert len(driver.sweeps["tiny"].done) == len(second.runs)
    assert workers.killed == []


def test_a_sweep_run_again_while_it_saves_goes_on(plan_of: Callable[..., Plan], words: StringIO) -> None:
    plan, workers = plan_of(), Workers(slots=1, holding=True)
    request(plan, cancel_removed=False)
    driver = driver_for(plan, workers, words)
    driver.adopt(plan)
    driver.scheduler.tick(0)
    control.stop(plan.root, "tiny")
    driver.look()
    request(plan, cancel_removed=False)  # before the runs have gone
    driver._looked = 0.0
    driver.look()
    workers.holding = False
    always_look(driver, workers)
    driver.carry_out()
    assert driver.sweeps["tiny"].exit_code() == 0
    assert all(run.done for run in plan.runs)


def test_a_run_resumed_while_it_is_killed_comes_back(plan_of: Callable[..., Plan], words: StringIO) -> None:
    plan, workers = plan_of(), Workers(slots=1, holding=True)
    request(plan, cancel_removed=False)
    driver = driver_for(plan, workers, words)
    driver.adopt(plan)
    driver.scheduler.tick(0)
    victim = workers.started[0]
    control.cancel(plan.root, "tiny", [victim])
    driver.look()
    assert workers.killed == [victim]
    control.resume(plan.root, "tiny", [victim])
    workers.holding = False
    always_look(driver, workers)
    driver.carry_out()
    assert workers.started.count(victim) == 2
    assert driver.sweeps["tiny"].exit_code() == 0


def test_runs_ended_as_removed_stay_ended(plan_of: Callable[..., Plan], words: StringIO) -> None:
    plan, workers = plan_of(), Workers(slots=10, holding=True)
    request(plan, cancel_removed=False)
    driver = driver_for(plan, workers, words)
    driver.adopt(plan)
    driver.scheduler.tick(0)
    edited = plan_of(("n_images: [16, 32]", "n_images: [16]"))
    request(edited, cancel_removed=True)
    asks = [lambda: control.pause(plan.root, "tiny"), lambda: control.resume(plan.root, "tiny")]

    def act() -> None:
        if workers.killed and asks:
            asks.pop(0)()
        workers.holding = bool(asks)

    always_look(driver, workers, act)
    driver.carry_out()
    assert len(workers.started) == len(set(workers.started))
    assert driver.sweeps["tiny"].exit_code() == 0


def test_a_task_added_while_a_run_is_at_work_is_probed_too(plan_of: Callable[..., Plan], words: StringIO) -> None:
    offered = [info.name for info in plan_of().tasks]
    plan = plan_of(("probe: {", f"probe: {{tasks: [{offered[0]}], "))
    workers = Workers(slots=1, holding=True)
    request(plan, cancel_removed=False)
    driver = driver_for(plan, workers, words)
    driver.adopt(plan)
    driver.scheduler.tick(0)
    edited = plan_of(("probe: {", f"probe: {{tasks: [{offered[0]}, {offered[1]}], "))
    request(edited, cancel_removed=False)
    driver._looked = 0.0
    driver.look()
    workers.holding = False
    always_look(driver, workers)
    driver.carry_out()
    assert all(run.done for run in edited.runs)
    assert len(workers.started) == len(plan.runs) + 1  # the one at work came back for its new task
    assert driver.sweeps["tiny"].exit_code() == 0


def test_a_request_that_cannot_be_met_is_refused_and_costs_no_other_sweep(
    plan_of: Callable[..., Plan], words: StringIO
) -> None:
    plan, workers = plan_of(), Workers()
    request(plan, cancel_removed=False)
    driver = driver_for(plan, workers, words)
    driver.adopt(plan)
    greedy = plan_of(("name: tiny", "name: greedy"), ("probe:", "resources: {cpus: 64}\nprobe:"))
    asked = request(greedy, cancel_removed=False)
    torn = sweep_folder(plan.root, "torn")
    torn.mkdir(parents=True)
    (torn / "control.json").write_text('{"paus')
    always_look(driver, workers)
    driver.carry_out()
    assert driver.sweeps["tiny"].exit_code() == 0
    assert set(driver.sweeps) == {"tiny"}
    assert watch(greedy, asked, View(Console(file=words, width=300))) == 2
    assert "64 CPUs, which no node has" in words.getvalue()


def test_an_interrupt_in_the_middle_of_anything_is_heeded_at_the_next_look(
    plan_of: Callable[..., Plan], words: StringIO
) -> None:
    plan, workers = plan_of(), Workers(slots=2, holding=True)
    request(plan, cancel_removed=False)
    driver = driver_for(plan, workers, words)
    sweeping = driver.adopt(plan)
    workers.at_wait = driver.interrupt
    driver.carry_out()
    assert sweeping.exit_code() == 130
    assert len(sweeping.stopped) == 2
    assert len(workers.started) == 2
    other = plan_of(("name: tiny", "name: other"))
    request(other, cancel_removed=False)
    driver._looked = 0.0
    driver.look()
    assert set(driver.sweeps) == {"tiny"}  # nothing is taken up any more


def test_who_watches_follows_a_newer_request_for_the_same_sweep(plan_of: Callable[..., Plan], words: StringIO) -> None:
    plan = plan_of()
    first = request(plan, cancel_removed=False)
    second = request(plan, cancel_removed=False)
    Live(time=0, pid=1, answered=second.id, finished=True, exit_code=3).write(sweep_folder(plan.root, "tiny"))
    assert watch(plan, first, View(Console(file=words))) == 3


def test_two_cancels_at_once_are_both_kept(plan_of: Callable[..., Plan]) -> None:
    plan = plan_of()
    request(plan, cancel_removed=False)
    names = [f"run{i}" for i in range(20)]
    threads = [threading.Thread(target=control.cancel, args=(plan.root, "tiny", [name])) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(Control.read(sweep_folder(plan.root, "tiny")).cancelled) == sorted(names)
