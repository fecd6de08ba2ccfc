"""What orchestration costs beyond the runs themselves: per run, per plan, per tick, per question."""

from __future__ import annotations

import hashlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from scaling.control import sweep_folder
from scaling.driver import LOOK_SECONDS, Driver
from scaling.launch import machine
from scaling.launch.launcher import Ended, Launcher, LaunchOptions, Node, Order, Resources
from scaling.launch.local import LocalLauncher
from scaling.plan import Plan
from scaling.rundir import read_lines
from scaling.scheduler import Scheduler
from scaling.task import Effort, Outcome, Task
from tests.benchmarks import peers
from tests.benchmarks.rows import Benchmark, Row, compare, seconds_of, wall_and_cpu
from tests.benchmarks.sweeps import (
    MIXTURES,
    MODELS,
    fabricate,
    planned,
    silent,
    sleeping_code,
    two_thousand,
    write_sweep,
)

N_TRIVIAL = 50
N_MIRRORED = 60
N_EQUAL, SECONDS, SLOTS = 40, 2.0, 2


@contextmanager
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="bench-") as path:
        yield Path(path)


# --- per run ----------------------------------------------------------------------------------------------------


def warm_up(launcher: Launcher, code: Path, nowhere: Path) -> None:
    """An attempt without a lease on every slot there is; each ends at once."""
    node = launcher.nodes()[0]
    for i in range(node.cpus):
        path = nowhere / str(i)
        path.mkdir(parents=True)
        launcher.submit(Order(path=path, token=f"none{i}", resources=Resources(), node=node.name, code=code))
    left = node.cpus
    while left:
        left -= len(launcher.wait(60.0))


def carried_out(plan: Plan, launcher: Launcher) -> float:
    """Seconds from a plan to the end of its last run, on slots that are warm; what closing takes is left out."""
    started = time.perf_counter()
    ended, close = [], launcher.close
    launcher.close = lambda: ended.append(time.perf_counter()) or close()  # type: ignore[method-assign,func-returns-value]
    driver = Driver(plan.root, launcher, silent(), lambda plan: None)
    sweeping = driver.adopt(plan)
    driver.carry_out()
    assert sweeping.exit_code() == 0, sweeping.failed
    return ended[0] - started


def overhead_per_run() -> Iterator[Row]:
    """The same trivial runs by our driver, as Ray tasks with fresh processes, and as trials of Ray Tune."""
    from scaling.launch.ray import RayLauncher

    ours = {}
    for name, kind in (("local", LocalLauncher), ("ray", RayLauncher)):
        with folder() as place:
            plan = planned(write_sweep(place, n_seeds=N_TRIVIAL))
            code = sleeping_code(plan.root, 0.0)
            launcher = kind(LaunchOptions(root=plan.root, code=code))
            warm_up(launcher, code, place / "nowhere")
            ours[name] = carried_out(plan, launcher) / N_TRIVIAL
    tasks = peers.seconds_of(peers.TASKS, n=N_TRIVIAL, cpus=machine.cpus()) / N_TRIVIAL
    with folder() as place:
        tune = peers.seconds_of(peers.TUNE, n=N_TRIVIAL, cpus=machine.cpus(), folder=str(place)) / N_TRIVIAL
    for name, seconds in ours.items():
        for peer, theirs, note in (
            ("Ray tasks, a process each", tasks, ""),
            ("Ray Tune as it comes", tune, "aims: at most 0.1 s, ratio 20"),
        ):
            yield Row(
                what=f"overhead of a run, {N_TRIVIAL} trivial runs, warm slots, {name}",
                ours=f"{seconds * 1e3:.0f} ms",
                peer=f"{peer} {theirs * 1e3:,.0f} ms",
                ratio=theirs / seconds,
                note=note,
            )


class TwoSlots(LocalLauncher):
    """This machine as if it had room for two runs."""

    def nodes(self) -> Sequence[Node]:
        return [replace(node, cpus=SLOTS, runs=SLOTS) for node in super().nodes()]


def makespan() -> Iterator[Row]:
    """Equal runs on two slots against the time the runs alone take."""
    with folder() as place:
        plan = planned(write_sweep(place, n_seeds=N_EQUAL))
        code = sleeping_code(plan.root, SECONDS)
        launcher = TwoSlots(LaunchOptions(root=plan.root, code=code))
        warm_up(launcher, code, place / "nowhere")
        seconds = carried_out(plan, launcher)
        gaps = idle_gaps(plan)
    ideal = N_EQUAL * SECONDS / SLOTS
    yield Row(
        what=f"makespan of {N_EQUAL} runs of {SECONDS:g} s on {SLOTS} slots",
        ours=f"{seconds:.2f} s",
        peer=f"ideal {ideal:.0f} s",
        ratio=ideal / seconds,
        note=f"{seconds / ideal:.3f} of ideal, aim 1.05; slot idle {statistics.median(gaps) * 1e3:.0f} ms between runs",
    )


def idle_gaps(plan: Plan) -> list[float]:
    """Seconds from the end of a run to the start of the next one, as the driver saw them."""
    ended, gaps = [], []
    for event in read_lines(sweep_folder(plan.root, plan.sweep.name) / "events.jsonl"):
        if event["kind"] == "done":
            ended.append(event["time"])
        elif event["kind"] == "started" and ended:
            gaps.append(event["time"] - ended.pop(0))
    return gaps


def fork_against_interpreter() -> Iterator[Row]:
    """An attempt in a child of a warm slot against one in a new interpreter; both find no job and end at once."""
    with folder() as place:
        launcher = LocalLauncher(LaunchOptions(root=place))
        order = Order(path=place, token="none", resources=Resources(), node="local")

        def fork() -> None:
            launcher.submit(order)
            while not launcher.wait(60.0):
                pass

        program = "import sys; from pathlib import Path; from scaling.worker import attempt_logged as a; import timm; "
        whole = [sys.executable, "-c", program + "a(Path(sys.argv[1]), 'none')", str(place)]
        a, b = compare(fork, lambda: subprocess.run(whole, check=True, stderr=subprocess.DEVNULL), repeats=3)
        launcher.close()
    yield Row(
        what="start of a run on a warm slot", ours=f"{a * 1e3:.0f} ms", peer=f"new interpreter {b:.1f} s", ratio=b / a
    )


# --- per plan and tick ------------------------------------------------------------------------------------------


def plan_of_ten_thousand() -> Iterator[Row]:
    """A plan of 10,000 points against the canonical JSON and SHA-256 of their specs alone."""
    with folder() as place:
        path = write_sweep(
            place,
            models=MODELS,
            algorithms=("mae", "dinov2"),
            n_images=range(500, 5500, 500),
            mixtures=tuple(MIXTURES),
            n_seeds=10,
            tasks="all",
        )
        specs = [run.spec.model_dump(mode="json") for run in planned(path).runs]
        assert len(specs) == 10_000

        def digest() -> None:
            for spec in specs:
                hashlib.sha256(json.dumps(spec, sort_keys=True, separators=(",", ":")).encode()).hexdigest()

        b = statistics.median(seconds_of(digest) for _ in range(3))
        a, cpu = wall_and_cpu(lambda: planned(path))
    yield Row(
        what="plan of 10,000 points, from YAML to fingerprints and costs",
        ours=f"{a:.2f} s",
        peer=f"JSON and SHA-256 of the specs alone {b:.2f} s",
        ratio=b / a,
        note=f"{cpu:.2f} s of CPU; aim 3 s",
    )


class Idle:
    """A launcher of four nodes with eight GPUs each, whose runs end when `ending` says so."""

    def __init__(self) -> None:
        self.there = [Node(name=f"n{i}", host=f"n{i}", cpus=64, gpus=8, accelerator="H100") for i in range(4)]
        self.going: list[Order] = []
        self.ending = 0

    def nodes(self) -> Sequence[Node]:
        return self.there

    def submit(self, order: Order) -> None:
        self.going.append(order)

    def wait(self, timeout: float) -> list[Ended]:
        ended, self.going = self.going[: self.ending], self.going[self.ending :]
        return [Ended(path=order.path, token=order.token, code=0) for order in ended]

    def kill(self, path: Path) -> None: ...

    def close(self) -> None: ...


class Nothing:
    """A run that does nothing outside the scheduler."""

    def prepare(self, token: str, effort: Effort, node: Node) -> None: ...

    def outcome(self, ended: Ended) -> Outcome:
        return Outcome(kind="done")

    def pulse(self) -> object:
        return None

    def slow_pulse(self) -> float:
        return 0.0

    def ask_to_stop(self) -> None: ...

    def occupied(self) -> bool:
        return False


def ticks() -> Iterator[Row]:
    """A tick with 2,000 runs waiting, nothing to do or a run's end and the next start, against sorting them."""
    launcher, clock = Idle(), [0.0]
    scheduler = Scheduler(launcher, now=lambda: clock[0])
    effort = Effort(resources=Resources(cpus=4, gpus=1.0))
    for i in range(2_000 + 32 + 100):
        name = f"{i:05d}"
        task = Task(
            key=name, path=Path(name), sweep="bench", body=Nothing(), rank=float(i * 7919 % 2003), effort=effort
        )
        scheduler.add(task)
    scheduler.tick(0.0)
    assert len(scheduler.running) == 32

    def sort() -> None:
        sorted(scheduler.waiting.values(), key=lambda w: (-w.task.priority, w.task.rank, w.sequence))

    quiet, bare = compare(lambda: scheduler.tick(0.0), sort, repeats=20)
    launcher.ending = 1
    busy, _ = compare(lambda: scheduler.tick(0.0), sort, repeats=20)
    assert len(scheduler.running) == 31
    for what, seconds in (("nothing changes", quiet), ("one ends, one starts", busy)):
        yield Row(
            what=f"tick of the scheduler, 2,000 runs wait, {what}",
            ours=f"{seconds * 1e3:.1f} ms",
            peer=f"sorting them alone {bare * 1e3:.1f} ms",
            ratio=bare / seconds,
            note="aim 50 ms",
        )


def looks() -> Iterator[Row]:
    """What the driver does around ticks at 2,000 planned runs: taking the sweep up, looking and drawing."""
    with folder() as place:
        plan = planned(two_thousand(place))
        plan.save()
        clock = [1.0]
        driver = Driver(plan.root, Idle(), silent(), lambda plan: None, now=lambda: clock[0])
        adopting = seconds_of(lambda: driver.adopt(plan))
        starting = seconds_of(lambda: driver.scheduler.tick(0.0)) / len(driver.scheduler.running)

        def look() -> None:
            clock[0] += 2 * LOOK_SECONDS
            driver.look()

        a, _ = wall_and_cpu(look, repeats=20)
        running = len(driver.scheduler.running)
    yield Row(
        what=f"the driver's look and drawing, 2,000 runs, {running} of them at work",
        ours=f"{a * 1e3:.1f} ms",
        peer="50 ms, the aim of a tick",
        ratio=0.05 / a,
        note=f"once a second; taking the sweep up {adopting:.2f} s, starting a run {starting * 1e3:.1f} ms",
    )


# --- per question -----------------------------------------------------------------------------------------------


def command(*words: object) -> Callable[[], None]:
    """`scaling ...` in an interpreter of its own."""
    line = [sys.executable, "-m", "scaling.cli", *map(str, words)]
    return lambda: _done(line)


def _done(line: Sequence[str]) -> None:
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    if done.returncode not in (0, 3):
        raise RuntimeError(f"{' '.join(line)} ended with {done.returncode}:\n{done.stderr[-2000:]}")


def questions() -> Iterator[Row]:
    """`status` and `export` of 2,000 runs beyond an interpreter's start, against reading the same files."""
    with folder() as place:
        plan = planned(two_thousand(place))
        fabricate(plan)
        root = ("--root", plan.root)
        start, _ = wall_and_cpu(lambda: _done([sys.executable, "-c", "pass"]))
        for what, aim, probes, words in (
            ("status", 1, False, ("status", "bench", *root)),
            ("status --all", 1, False, ("status", "bench", "--all", *root)),
            ("status --json", 1, False, ("status", "bench", "--json", *root)),
            ("export to CSV", 5, True, ("export", "bench", place / "out.csv", *root)),
            ("export to Parquet", 5, True, ("export", "bench", place / "out.parquet", *root)),
        ):
            whole, cpu = wall_and_cpu(command(*words))
            bare = statistics.median(
                peers.seconds_of(peers.READ, runs=str(plan.root / "runs"), probes=probes) for _ in range(3)
            )
            seconds = whole - start
            yield Row(
                what=f"`scaling {what}`, 2,000 runs",
                ours=f"{seconds:.2f} s",
                peer=f"reading their files alone {bare:.2f} s",
                ratio=bare / seconds,
                note=f"beyond an interpreter's start of {start * 1e3:.0f} ms; {cpu:.2f} s of CPU; aim {aim} s",
            )


def mirror() -> Iterator[Row]:
    """`scaling sync` into a new store, against the same params, curve, file and end by a bare client."""
    from mlflow.entities import Metric, Param
    from mlflow.tracking import MlflowClient

    from scaling.tracking import Tracker, content

    with folder() as place:
        plan = planned(write_sweep(place, n_seeds=N_MIRRORED, tasks="all"))
        fabricate(plan)
        runs = [run for run in plan.runs if run.done]
        tracker = Tracker(plan)
        client = MlflowClient(f"sqlite:///{place / 'bare.db'}")
        experiment = client.create_experiment("bare", artifact_location=str(place / "bare"))

        def bare() -> None:
            for run in runs:
                logged = client.create_run(experiment, run_name=str(run.point)).info.run_id
                params = [Param(key, value) for key, value in content.params(run).items()]
                lines = run.dir.metrics()
                curve = [Metric(k, float(v), 0, line["step"]) for line in lines for k, v in line.items() if k != "step"]
                client.log_batch(logged, params=params, metrics=curve)
                client.log_artifact(logged, str(run.dir.path / "metrics.jsonl"))
                client.set_terminated(logged)

        theirs = seconds_of(bare) / len(runs)
        first = seconds_of(lambda: tracker.rebuild()) / len(runs)
        again = seconds_of(lambda: tracker.rebuild()) / len(runs)
    yield Row(
        what="`scaling sync`, a run with 50 logged steps and 10 read-outs",
        ours=f"{first * 1e3:.0f} ms",
        peer=f"bare client, without read-outs, tags and inputs {theirs * 1e3:.0f} ms",
        ratio=theirs / first,
        note=f"{again * 1e3:.0f} ms when the store has it all",
    )


def starts() -> Iterator[Row]:
    """`scaling run` to its first run, against the import of what that needs; and when there is nothing to do."""
    with folder() as place:
        path = write_sweep(place, n_seeds=2)
        root = place / "state"
        sleeping_code(root, 0.0)
        words = ("run", path, "--launcher", "local", "--tracking", "none", "--no-report")
        process = subprocess.Popen([sys.executable, "-m", "scaling.cli", *map(str, words)], stdout=subprocess.DEVNULL)
        began = time.perf_counter()
        events = sweep_folder(root, "bench") / "events.jsonl"
        ordered = _until(lambda: events.exists(), process) - began
        running = _until(lambda: any(root.glob("runs/*/heartbeat.json")), process) - began
        process.wait()
        whole = time.perf_counter() - began
        imports = "import torch, timm, sklearn.linear_model"
        bare, start = compare(
            lambda: _done([sys.executable, "-c", imports]), lambda: _done([sys.executable, "-c", "pass"]), repeats=1
        )
        nothing, cpu = wall_and_cpu(command(*words))
    yield Row(
        what="`scaling run --launcher local` until its first run is at work",
        ours=f"{running:.1f} s",
        peer=f"import of torch, timm and sklearn {bare:.1f} s",
        ratio=bare / running,
        note=f"ordered after {ordered:.1f} s; two trivial runs through after {whole:.1f} s",
    )
    yield Row(
        what="`scaling run` with nothing to do",
        ours=f"{nothing:.2f} s",
        peer=f"an interpreter's start {start:.2f} s",
        ratio=start / nothing,
        note=f"{cpu:.2f} s of CPU",
    )


def _until(there: Callable[[], bool], process: subprocess.Popen[bytes]) -> float:
    while not there():
        if process.poll() not in (None, 0):
            raise RuntimeError(f"`scaling run` ended with {process.returncode}")
        time.sleep(0.01)
    return time.perf_counter()


BENCHMARKS: tuple[Benchmark, ...] = (
    fork_against_interpreter,
    overhead_per_run,
    makespan,
    plan_of_ten_thousand,
    ticks,
    looks,
    questions,
    mirror,
    starts,
)
