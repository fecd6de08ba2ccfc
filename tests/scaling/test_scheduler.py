"""Order, room, retries and endings, on a clock that jumps and a launcher of sixty lines."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from scaling.failures import FAILURE_CLASSES, FailureClass, Policy
from scaling.launch.launcher import Ended, Node, Order, Resources
from scaling.scheduler import HANG_GRACE, ORPHAN_GRACE, START_GRACE, STOP_GRACE, Scheduler
from scaling.task import Effort, Event, Outcome, Task


@dataclass
class FakeBody:
    """A run that takes `seconds` and ends as its list of outcomes says, then well; it beats unless it hangs."""

    seconds: float = 10.0
    outcomes: list[Outcome] = field(default_factory=list)
    hangs: int = 0
    """Attempts that show no sign of life and never end."""
    obeys: bool = True
    slow: float = 0.0
    loads: bool = False
    """A hanging attempt never gives a first sign of life."""
    orphan_until: float = 0.0
    efforts: list[Effort] = field(default_factory=list)
    prepared_at: float = 0.0
    stop_asked: bool = False
    world: World | None = None

    def prepare(self, token: str, effort: Effort, node: Node) -> None:
        assert self.world is not None
        self.prepared_at = self.world.clock
        self.efforts.append(effort)
        self.stop_asked = False

    def outcome(self, ended: Ended) -> Outcome:
        if ended.code == 75:
            return Outcome(kind="stopped")
        if ended.code is None:
            return Outcome(kind="preempted", error="lost", progressed=False)
        return self.outcomes.pop(0) if self.outcomes else Outcome(kind="done")

    @property
    def hanging(self) -> bool:
        return len(self.efforts) <= self.hangs

    def pulse(self) -> object:
        assert self.world is not None
        begun = self.loads or (self.world.clock > self.prepared_at and len(self.efforts))
        return begun if self.hanging else self.world.clock

    def slow_pulse(self) -> float:
        return self.slow

    def ask_to_stop(self) -> None:
        self.stop_asked = True

    def occupied(self) -> bool:
        assert self.world is not None
        return self.world.clock < self.orphan_until


@dataclass
class World:
    """Launcher, clock and witness. Time passes only while the scheduler waits."""

    machines: list[Node] = field(default_factory=lambda: [Node(name="a", host="a", cpus=2)])
    clock: float = 0.0
    going: dict[Path, tuple[Order, float, FakeBody]] = field(default_factory=dict)
    bodies: dict[Path, FakeBody] = field(default_factory=dict)
    orders: list[tuple[float, Order]] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    killed: set[Path] = field(default_factory=set)

    def scheduler(self) -> Scheduler:
        return Scheduler(self, now=lambda: self.clock, listen=self.events.append, chance=random.Random(0))

    def nodes(self) -> list[Node]:
        return self.machines

    def submit(self, order: Order) -> None:
        self.orders.append((self.clock, order))
        self.going[order.path] = (order, self.clock, self.bodies[order.path])
        for node in self.machines:  # what the contract promises: never more than there is
            here = [o.resources for o, _, _ in self.going.values() if o.node == node.name]
            assert sum(r.cpus for r in here) <= node.cpus
            assert sum(r.gpus for r in here) <= node.gpus + 1e-6

    def wait(self, timeout: float) -> list[Ended]:
        self.clock += timeout
        ended = []
        for path, (order, started, body) in list(self.going.items()):
            code: int | None = 0
            if path in self.killed:
                code = None
            elif body.stop_asked and body.obeys and not body.hanging:
                code = 75
            elif body.hanging or self.clock < started + body.seconds:
                continue
            del self.going[path]
            self.killed.discard(path)
            ended.append(Ended(path=path, token=order.token, code=code))
        return ended

    def kill(self, path: Path) -> None:
        self.killed.add(path)

    def close(self) -> None:
        self.going.clear()

    def task(
        self,
        key: str,
        body: FakeBody | None = None,
        *,
        gpus: float = 0,
        cpus: int = 1,
        memory: int = 0,
        sweep: str = "s",
        rank: float = 1.0,
        **more: object,
    ) -> Task:
        body = body or FakeBody()
        body.world = self
        self.bodies[Path(key)] = body
        effort = Effort(resources=Resources(cpus=cpus, gpus=gpus, memory=memory))
        return Task(key=key, path=Path(key), sweep=sweep, body=body, rank=rank, effort=effort, **more)  # type: ignore[arg-type]

    def kinds(self, key: str) -> list[str]:
        return [event.kind for event in self.events if event.task.key == key]

    def started(self, key: str) -> list[float]:
        return [at for at, order in self.orders if order.path == Path(key)]


def carry_out(scheduler: Scheduler, world: World, *, until: float = 1e6, tick: float = 1.0) -> None:
    while not scheduler.idle and world.clock < until:
        scheduler.tick(tick)
    assert world.clock < until, scheduler.why_waiting()


# --- order ------------------------------------------------------------------------------------------------------


def test_the_cheapest_goes_first_within_a_priority() -> None:
    world = World(machines=[Node(name="a", host="a", cpus=1)])
    scheduler = world.scheduler()
    for key, rank, priority in (("dear", 9.0, 0), ("cheap", 1.0, 0), ("urgent", 50.0, 1), ("middle", 5.0, 0)):
        scheduler.add(world.task(key, rank=rank, priority=priority))
    carry_out(scheduler, world)
    assert [order.path.name for _, order in world.orders] == ["urgent", "cheap", "middle", "dear"]


def test_a_big_run_is_not_starved_by_small_ones_that_keep_coming() -> None:
    world = World(machines=[Node(name="a", host="a", cpus=64, gpus=8)])
    scheduler, patience = world.scheduler(), 600.0
    scheduler.add(world.task("big", FakeBody(seconds=50), gpus=8, rank=1e9, patience=patience))
    n = 0
    while not world.started("big") and world.clock < 3600:
        while len(scheduler.waiting) < 20:
            n += 1
            # Of different lengths, so that the node never empties by itself.
            small = FakeBody(seconds=60 + 17 * (n % 9))
            scheduler.add(world.task(f"small{n}", small, gpus=1, rank=1.0, patience=patience))
        scheduler.tick(1.0)
    longest_small = 60 + 17 * 8
    assert patience < world.started("big")[0] <= patience + longest_small + 2
    assert len(world.orders) > 30  # meanwhile the small ones were not held up


def test_small_runs_fill_what_a_big_one_cannot_use_yet() -> None:
    world = World(machines=[Node(name="a", host="a", cpus=64, gpus=8)])
    scheduler = world.scheduler()
    scheduler.add(world.task("half", FakeBody(seconds=100), gpus=4, rank=0))
    scheduler.add(world.task("big", FakeBody(seconds=10), gpus=8, rank=1))
    scheduler.add(world.task("small", FakeBody(seconds=10), gpus=1, rank=2))
    carry_out(scheduler, world)
    assert world.started("small") == [0]
    assert world.started("big")[0] >= 100


def test_two_slots_are_never_idle_while_something_waits() -> None:
    world = World()
    scheduler = world.scheduler()
    for i in range(40):
        scheduler.add(world.task(str(i), FakeBody(seconds=2)))
    carry_out(scheduler, world, tick=0.05)
    assert world.clock <= 40 * 2 / 2 * 1.05


# --- room -------------------------------------------------------------------------------------------------------


def test_shares_of_a_gpu_are_packed_and_never_split_over_two() -> None:
    world = World(machines=[Node(name="a", host="a", cpus=64, gpus=2)])
    scheduler = world.scheduler()
    for i in range(5):
        scheduler.add(world.task(f"third{i}", FakeBody(seconds=10), gpus=1 / 3, rank=i))
    scheduler.add(world.task("whole", FakeBody(seconds=10), gpus=1, rank=9))
    scheduler.tick(1.0)
    assert len(world.orders) == 5  # 3 + 2: the second GPU has a third left, which is no whole
    carry_out(scheduler, world)
    assert world.kinds("whole") == ["started", "done"]


def test_runs_go_where_their_gpu_type_and_memory_are() -> None:
    nodes = [
        Node(name="old", host="old", cpus=8, gpus=1, accelerator="V100", memory=10),
        Node(name="new", host="new", cpus=8, gpus=1, accelerator="H100", memory=20),
        Node(name="cpu", host="cpu", cpus=8, memory=50),
    ]
    world = World(machines=nodes)
    scheduler = world.scheduler()
    scheduler.add(world.task("plain", rank=0))
    scheduler.add(world.task("large", rank=1, memory=40))
    typed = world.task("typed", rank=2, gpus=1)
    resources = Resources(cpus=1, gpus=1, accelerator="H100")
    scheduler.add(Task(**{**vars(typed), "effort": Effort(resources=resources)}))
    carry_out(scheduler, world)
    assert {order.path.name: order.node for _, order in world.orders} == {
        "plain": "cpu",
        "large": "cpu",
        "typed": "new",
    }


def test_a_run_that_fits_no_node_says_what_it_waits_for() -> None:
    world = World()
    scheduler = world.scheduler()
    scheduler.add(world.task("gpu", gpus=1))
    scheduler.add(world.task("held", sweep="other"))
    scheduler.hold("other", "resume (paused)")
    scheduler.tick(1.0)
    assert scheduler.why_waiting() == {"gpu": "a node with 1 CPU, 1 GPU", "held": "resume (paused)"}


def test_a_node_that_joins_is_used() -> None:
    world = World()
    scheduler = world.scheduler()
    scheduler.add(world.task("gpu", gpus=1))
    scheduler.tick(1.0)
    world.machines = [*world.machines, Node(name="b", host="b", cpus=4, gpus=1)]
    carry_out(scheduler, world)
    assert world.orders[0][1].node == "b"


# --- failures ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", FAILURE_CLASSES)
@pytest.mark.parametrize("tries", [0, 2])
def test_each_class_has_its_own_count_of_further_attempts(kind: FailureClass, tries: int) -> None:
    world = World(machines=[Node(name="a", host="a", cpus=2, gpus=1, memory=100)])
    scheduler = world.scheduler()
    failures = [Outcome(kind=kind, error="why", progressed=False)] * 9
    policies = {**dict.fromkeys(FAILURE_CLASSES, Policy(tries=9)), kind: Policy(tries=tries)}
    scheduler.add(world.task("r", FakeBody(outcomes=failures), gpus=1, policies=policies, max_micro=64))
    carry_out(scheduler, world)
    assert world.kinds("r") == ["started", "retry"] * tries + ["started", "failed"]
    assert world.events[-1].failure == kind


def test_backoff_doubles_up_to_its_limit_and_no_two_runs_come_back_together() -> None:
    world = World(machines=[Node(name="a", host="a", cpus=10)])
    scheduler = world.scheduler()
    policies = dict.fromkeys(FAILURE_CLASSES, Policy(tries=5, backoff=10, longest=60))
    for key in "ab":
        failures = [Outcome(kind="io", error="disk")] * 4
        scheduler.add(world.task(key, FakeBody(seconds=1, outcomes=failures), policies=policies))
    carry_out(scheduler, world, tick=0.1)
    delays = [event.delay for event in world.events if event.kind == "retry" and event.task.key == "a"]
    for delay, middle in zip(delays, (10, 20, 40, 60), strict=True):
        assert 0.8 * middle <= delay <= 1.2 * middle
    assert world.started("a")[1] != world.started("b")[1]


def test_a_preempted_run_that_gets_on_is_never_given_up() -> None:
    world = World()
    scheduler = world.scheduler()
    policies = dict.fromkeys(FAILURE_CLASSES, Policy(tries=2, backoff=1))
    gone = Outcome(kind="preempted", error="spot", progressed=True)
    scheduler.add(world.task("on", FakeBody(outcomes=[gone] * 30), policies=policies))
    stuck = Outcome(kind="preempted", error="spot", progressed=False)
    scheduler.add(world.task("stuck", FakeBody(outcomes=[stuck] * 30), policies=policies))
    carry_out(scheduler, world)
    assert world.kinds("on")[-1] == "done"
    assert world.kinds("stuck").count("started") == 3
    assert world.kinds("stuck")[-1] == "failed"


def test_gpu_memory_running_out_halves_the_micro_batch_on_a_whole_gpu_and_then_spares_activations() -> None:
    world = World(machines=[Node(name="a", host="a", cpus=2, gpus=1)])
    scheduler = world.scheduler()
    policies = dict.fromkeys(FAILURE_CLASSES, Policy(tries=9))
    body = FakeBody(outcomes=[Outcome(kind="gpu_oom")] * 9)
    scheduler.add(world.task("r", body, gpus=0.5, policies=policies, max_micro=4))
    carry_out(scheduler, world)
    efforts = [(e.resources.gpus, e.n_micro, e.recomputed) for e in body.efforts]
    assert efforts == [(0.5, 1, False), (1, 2, False), (1, 4, False), (1, 4, True)]
    assert world.kinds("r")[-1] == "failed"


def test_a_run_without_a_gpu_is_given_none_for_what_its_log_says() -> None:
    world = World()
    scheduler = world.scheduler()
    body = FakeBody(outcomes=[Outcome(kind="gpu_oom")])
    scheduler.add(world.task("r", body, max_micro=4))
    carry_out(scheduler, world)
    assert [(e.resources.gpus, e.n_micro) for e in body.efforts] == [(0, 1), (0, 2)]


def test_host_memory_running_out_asks_for_half_as_much_again() -> None:
    world = World(machines=[Node(name="a", host="a", cpus=2, memory=1000)])
    scheduler = world.scheduler()
    body = FakeBody(outcomes=[Outcome(kind="host_oom")] * 2)
    scheduler.add(world.task("r", body, memory=400))
    unasked = FakeBody(outcomes=[Outcome(kind="host_oom")])
    scheduler.add(world.task("u", unasked))
    carry_out(scheduler, world)
    assert [e.resources.memory for e in body.efforts] == [400, 600, 900]
    assert [e.resources.memory for e in unasked.efforts] == [0, 750]  # 1.5 x its core's share


def test_a_run_that_diverged_is_not_tried_again() -> None:
    world = World()
    scheduler = world.scheduler()
    scheduler.add(world.task("r", FakeBody(outcomes=[Outcome(kind="diverged")])))
    carry_out(scheduler, world)
    assert world.kinds("r") == ["started", "diverged"]


def test_the_same_error_three_times_in_a_row_holds_its_sweep_and_no_other() -> None:
    world = World(machines=[Node(name="a", host="a", cpus=1)])
    scheduler = world.scheduler()
    for i in range(6):
        scheduler.add(world.task(f"bad{i}", FakeBody(outcomes=[Outcome(kind="error", error="KeyError: x")]), rank=i))
        scheduler.add(world.task(f"good{i}", sweep="other", rank=100 + i))
    carry_out(scheduler, world)
    assert [event.task.key for event in world.events if event.kind == "failed"] == ["bad0", "bad1", "bad2"]
    assert sum(event.kind == "breaker" for event in world.events) == 1
    assert sum(event.kind == "done" for event in world.events) == 6
    assert set(scheduler.why_waiting()) == {"bad3", "bad4", "bad5"}


def test_different_errors_hold_nothing() -> None:
    world = World(machines=[Node(name="a", host="a", cpus=1)])
    scheduler = world.scheduler()
    for i in range(6):
        scheduler.add(world.task(f"bad{i}", FakeBody(outcomes=[Outcome(kind="error", error=f"KeyError: {i}")]), rank=i))
    carry_out(scheduler, world)
    assert sum(event.kind == "failed" for event in world.events) == 6


# --- hangs, stops, cancels --------------------------------------------------------------------------------------


def test_a_run_without_a_sign_of_life_is_ended_and_tried_once_more() -> None:
    world = World()
    scheduler = world.scheduler()
    body = FakeBody(seconds=1000, hangs=1)
    scheduler.add(world.task("r", body, hang_after=300))
    carry_out(scheduler, world)
    assert world.kinds("r") == ["started", "hang", "retry", "started", "done"]
    retried = next(event for event in world.events if event.kind == "retry")
    assert retried.failure == "hang"
    assert 300 < world.started("r")[1] <= 300 + HANG_GRACE + 5
    assert body.stop_asked is False  # of the second attempt


def test_a_run_of_slow_steps_may_be_silent_for_longer() -> None:
    world = World()
    scheduler = world.scheduler()
    scheduler.add(world.task("r", FakeBody(seconds=10, hangs=1, slow=2000), hang_after=300))
    carry_out(scheduler, world)
    assert world.kinds("r") == ["started", "hang", "retry", "started", "done"]
    assert 2000 < world.started("r")[1] <= 2000 + HANG_GRACE + 5


def test_a_run_whose_slot_still_loads_does_not_hang_yet() -> None:
    world = World()
    scheduler = world.scheduler()
    scheduler.add(world.task("r", FakeBody(seconds=10, hangs=1, loads=True), hang_after=300))
    carry_out(scheduler, world)
    assert world.kinds("r") == ["started", "hang", "retry", "started", "done"]
    assert START_GRACE < world.started("r")[1] <= START_GRACE + HANG_GRACE + 5


def test_a_cancelled_run_that_does_not_die_is_killed_again_and_never_comes_back() -> None:
    world = World()
    scheduler = world.scheduler()
    scheduler.add(world.task("r", FakeBody(seconds=1e5, hangs=1), hang_after=60))
    scheduler.tick(1.0)
    scheduler.cancel(["r"])
    world.killed.clear()  # it did not work
    carry_out(scheduler, world)
    assert world.kinds("r") == ["started", "cancelled"]
    assert HANG_GRACE <= world.clock <= HANG_GRACE + 5


def test_shares_stay_on_the_gpu_they_were_given() -> None:
    """Two halves left on two GPUs are no whole one, although they would be if runs could move."""
    world = World(machines=[Node(name="a", host="a", cpus=64, gpus=2)])
    scheduler = world.scheduler()
    for i, seconds in enumerate((10, 100, 10, 100)):  # one of each pair on each GPU ends early
        scheduler.add(world.task(f"half{i}", FakeBody(seconds=seconds), gpus=0.5, rank=i))
    scheduler.tick(1.0)
    scheduler.add(world.task("whole", FakeBody(seconds=10), gpus=1))
    carry_out(scheduler, world)
    assert world.started("whole")[0] >= 100


def test_what_an_attempt_used_is_told_as_it_was_given_and_not_as_the_next_will_be() -> None:
    world = World(machines=[Node(name="a", host="a", cpus=2, gpus=1)])
    scheduler = world.scheduler()
    scheduler.add(world.task("r", FakeBody(outcomes=[Outcome(kind="gpu_oom")]), gpus=0.25, max_micro=4))
    carry_out(scheduler, world)
    given = [event.effort.resources.gpus for event in world.events if event.seconds and event.effort]
    assert given == [0.25, 1.0]


def test_a_slow_run_that_beats_is_left_alone() -> None:
    world = World()
    scheduler = world.scheduler()
    scheduler.add(world.task("r", FakeBody(seconds=5000), hang_after=300))
    carry_out(scheduler, world)
    assert world.kinds("r") == ["started", "done"]


def test_stop_lets_runs_save_and_kills_those_that_do_not_go() -> None:
    world = World()
    scheduler = world.scheduler()
    scheduler.add(world.task("good", FakeBody(seconds=1e5)))
    scheduler.add(world.task("deaf", FakeBody(seconds=1e5, obeys=False)))
    scheduler.add(world.task("later"))
    scheduler.tick(1.0)
    scheduler.hold("s", "stopping")
    scheduler.stop("s")
    carry_out(scheduler, world)
    assert world.kinds("good") == ["started", "stopped"]
    assert world.kinds("deaf") == ["started", "stopped"]
    assert world.kinds("later") == []
    assert STOP_GRACE <= world.clock <= STOP_GRACE + 5


def test_a_run_asked_to_go_from_outside_comes_back() -> None:
    world = World()
    scheduler = world.scheduler()
    scheduler.add(world.task("r", FakeBody(outcomes=[Outcome(kind="stopped")])))
    carry_out(scheduler, world)
    assert world.kinds("r") == ["started", "retry", "started", "done"]
    assert world.events[1].failure == "preempted"


def test_cancel_ends_what_runs_and_forgets_what_waits() -> None:
    world = World(machines=[Node(name="a", host="a", cpus=1)])
    scheduler = world.scheduler()
    scheduler.add(world.task("runs", FakeBody(seconds=1e5), rank=0))
    scheduler.add(world.task("waits", rank=1))
    scheduler.add(world.task("stays", rank=2))
    scheduler.tick(1.0)
    scheduler.cancel(["runs", "waits", "unknown"])
    carry_out(scheduler, world)
    assert world.kinds("runs") == ["started", "cancelled"]
    assert world.kinds("waits") == ["cancelled"]
    assert world.kinds("stays") == ["started", "done"]


def test_a_run_that_finished_while_it_was_cancelled_is_done() -> None:
    world = World()
    scheduler = world.scheduler()
    scheduler.add(world.task("r", FakeBody(seconds=2)))
    scheduler.tick(1.0)
    scheduler.cancel(["r"])
    world.killed.clear()  # too late: its process has ended by itself
    carry_out(scheduler, world)
    assert world.kinds("r") == ["started", "done"]


def test_points_can_be_added_and_paused_while_others_run() -> None:
    world = World()
    scheduler = world.scheduler()
    scheduler.add(world.task("first", FakeBody(seconds=20)))
    scheduler.tick(1.0)
    scheduler.hold("s", "resume (paused)")
    second = world.task("second")
    scheduler.add(second)
    scheduler.add(second)  # asked for twice
    for _ in range(30):
        scheduler.tick(1.0)
    assert world.kinds("first") == ["started", "done"]
    assert world.kinds("second") == []
    scheduler.release("s")
    carry_out(scheduler, world)
    assert world.kinds("second") == ["started", "done"]


@pytest.mark.parametrize(("lives_until", "starts_by"), [(7.0, 9.0), (1e9, ORPHAN_GRACE + 2)])
def test_a_run_waits_for_the_process_of_a_dead_driver_but_not_for_ever(lives_until: float, starts_by: float) -> None:
    world = World()
    scheduler = world.scheduler()
    scheduler.add(world.task("r", FakeBody(orphan_until=lives_until)))
    scheduler.tick(1.0)
    assert scheduler.why_waiting() == {"r": "its last process to end"}
    carry_out(scheduler, world)
    assert min(lives_until, ORPHAN_GRACE) <= world.started("r")[0] <= starts_by


def test_an_end_that_belongs_to_an_older_attempt_is_ignored() -> None:
    world = World()
    scheduler = world.scheduler()
    scheduler.add(world.task("r"))
    scheduler.tick(1.0)
    scheduler._settle(Ended(path=Path("r"), token="of another", code=1))
    assert world.kinds("r") == ["started"]


def test_a_month_of_chaos_loses_no_run() -> None:
    """Nodes come and go, runs fail in every way: each ends once, none twice, nothing is ever oversubscribed."""
    chance, n_runs = random.Random(3), 400
    nodes = [Node(name=n, host=n, cpus=16, gpus=4, memory=64) for n in "abcd"]
    world = World(machines=list(nodes))
    scheduler = world.scheduler()
    kinds = [k for k in FAILURE_CLASSES if k != "error"]
    policies = dict.fromkeys(FAILURE_CLASSES, Policy(tries=9, backoff=10))
    for i in range(n_runs):
        failures = [Outcome(kind=chance.choice(kinds), error="chaos") for _ in range(chance.choice([0, 0, 0, 1, 2]))]
        gpus = chance.choice([0.25, 0.5, 1, 1, 2, 4])
        body = FakeBody(seconds=chance.uniform(60, 7200), outcomes=failures, hangs=chance.random() < 0.02)
        rank = body.seconds * gpus
        scheduler.add(world.task(str(i), body, gpus=gpus, rank=rank, policies=policies, max_micro=1024))
    while not scheduler.idle:
        if chance.random() < 0.02:
            gone = chance.choice(nodes)
            if gone in world.machines and len(world.machines) > 1:
                world.machines = [n for n in world.machines if n != gone]
                for path, (order, _, _) in world.going.items():
                    if order.node == gone.name:
                        world.kill(path)
            else:
                world.machines = list(nodes)
        scheduler.tick(60.0)
        assert world.clock < 60 * 86400
    final = [event.task.key for event in world.events if event.final]
    assert len(final) == len(set(final)) == n_runs
    assert {event.kind for event in world.events if event.final} <= {"done", "failed"}
    assert sum(event.kind == "done" for event in world.events) > 0.97 * n_runs
