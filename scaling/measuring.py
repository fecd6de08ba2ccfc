"""`scaling calibrate`: a few steps of each distinct shape of a sweep on each kind of device a launcher has.

One shape at a time on a node, with a whole GPU, so that nothing else slows it.
"""

from __future__ import annotations

import shutil
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from uuid import uuid4

from scaling.calibration import Calibration, load_calibrations, shape_key
from scaling.errors import SpecError
from scaling.failures import classify_exit
from scaling.launch.launcher import Ended, Launcher, Node, Order, Resources
from scaling.launch.machine import accelerator
from scaling.live import size
from scaling.plan import Plan
from scaling.planned import PlannedRun
from scaling.preflight import node_table
from scaling.rundir import RunDir, write_whole

WAIT_SECONDS = 0.5


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What is to be measured, and where."""

    key: str
    run: PlannedRun
    """One of the runs that have it."""
    parts: int
    """The batch is split into so many, one after the other: micro-batches x ranks."""
    node: Node
    on_gpu: bool
    recomputed: bool = False
    """As `Job` has it."""

    def __str__(self) -> str:
        batch = self.run.spec.batch_size
        split = f"{batch // self.parts} x {self.parts}" if self.parts > 1 else str(batch)
        split += ", recomputed" * self.recomputed
        return f"{self.run.point.model}/{self.run.point.algorithm}, batch {split}, on {self.device}"

    def lighter(self, least: int) -> Shape | None:
        """In twice as many parts; behind single images with activations computed anew, first in the `least` parts;
        None behind these."""
        parts, recomputed = 2 * self.parts, self.recomputed
        if parts > self.run.spec.batch_size:
            if recomputed:
                return None
            parts, recomputed = least, True
        key = shape_key(self.run.spec, parts, recomputed=recomputed)
        return replace(self, key=key, parts=parts, recomputed=recomputed)

    @property
    def device(self) -> str:
        return (self.node.accelerator or "GPU") if self.on_gpu else "CPU"


def measure_all(
    plan: Plan, launcher: Launcher, say: Callable[[str], None], *, again: bool = False
) -> tuple[list[Calibration], int]:
    """All measurements that this plan and these devices have then, and how many shapes could not be measured.

    A shape that does not fit a GPU is tried again in twice as many parts, then with activations computed anew. Raises
    SpecError without a device.
    """
    shapes = shapes_of(plan, launcher.nodes())
    known = {} if again else _known(plan, shapes)
    queues: dict[str, list[Shape]] = defaultdict(list)
    for shape in shapes:
        if (shape.key, shape.device) not in known:
            queues[shape.node.name].append(shape)
    n_all, n_failed = sum(map(len, queues.values())), 0
    say(f"{len(shapes)} shapes, {len(shapes) - n_all} measured before, {n_all} to measure")
    running: dict[str, Shape] = {}
    while running or any(queues.values()):
        busy = {shape.node.name for shape in running.values()}
        for name, queue in queues.items():
            if queue and name not in busy:
                shape = queue.pop(0)
                running[_start(plan, shape, launcher)] = shape
        for ended in launcher.wait(WAIT_SECONDS):
            shape = running.pop(ended.token)
            smaller = _settle(plan, shape, ended, say)
            if isinstance(smaller, Shape):
                queues[shape.node.name].insert(0, smaller)
            n_failed += smaller == "failed"
    return list(_known(plan, shapes_of(plan, launcher.nodes()), every_part=True).values()), n_failed


def shapes_of(plan: Plan, nodes: Sequence[Node]) -> list[Shape]:
    """Each shape that a run of the plan has, on the first node of each kind of device that runs would use."""
    options, devices = plan.sweep.resources, dict[str | None, Node]()
    for node in nodes:
        if node.gpus and options.gpus != 0 and options.accelerator in (None, node.accelerator):
            devices.setdefault(node.accelerator or "GPU", node)
    if not devices and (isinstance(options.gpus, str) or options.gpus == 0) and nodes:
        devices = {None: nodes[0]}
    if not devices:
        what = f"asks for GPUs, and no node has such; write `gpus: auto`, or --address\n{node_table(nodes)}"
        raise SpecError([plan.document.problem(("resources", "gpus"), what)])
    parts = _ranks(plan)
    found: dict[tuple[str, str | None], Shape] = {}
    for run in plan.unique().values():
        if run.spec.images_seen:
            key = shape_key(run.spec, parts)
            for kind, node in devices.items():
                shape = Shape(key=key, run=run, parts=parts, node=node, on_gpu=kind is not None)
                found.setdefault((key, kind), shape)
    return list(found.values())


def _ranks(plan: Plan) -> int:
    """Processes that share a run: the fewest parts of a batch."""
    options = plan.sweep.resources
    return options.processes or (1 if isinstance(options.gpus, str) else max(1, int(options.gpus)))


def _known(plan: Plan, shapes: Sequence[Shape], *, every_part: bool = False) -> dict[tuple[str, str], Calibration]:
    """(shape, device) -> its measurement; with `every_part` also those in more parts than asked for."""
    devices = {shape.device for shape in shapes}
    keys = {shape.key for shape in shapes}
    if every_part:
        for shape in shapes:
            parts = shape.parts
            while parts <= shape.run.spec.batch_size:
                keys |= {shape_key(shape.run.spec, parts, recomputed=recomputed) for recomputed in (False, True)}
                parts *= 2
    found, cpus = {}, plan.sweep.resources.cpus
    for calibration in load_calibrations(plan.root):
        device = "CPU" if calibration.device.startswith("cpu") else accelerator(calibration.device) or "GPU"
        same = device in devices and (device != "CPU" or calibration.device.endswith(f" {cpus} threads"))
        if same and calibration.shape_key in keys:
            found[calibration.shape_key, device] = calibration
    return found


def _folder(plan: Plan, token: str) -> Path:
    return plan.root / "calibration" / ".work" / token


def _start(plan: Plan, shape: Shape, launcher: Launcher) -> str:
    """Token of the order."""
    token, options = uuid4().hex, plan.sweep.resources
    path = _folder(plan, token)
    step = {"n_micro": shape.parts, "recomputed": shape.recomputed}
    settings = {**step, "use_gpu": shape.on_gpu, "gpu_share": 1.0, "cpus": options.cpus}
    write_whole(path / "job.json", plan.job(shape.run).model_copy(update=settings).model_dump_json(indent=1))
    RunDir(path).lease(token, owner="calibrate")
    given = Resources(cpus=options.cpus, gpus=float(shape.on_gpu), memory=int((options.memory_gb or 0) * 2**30))
    launcher.submit(Order(path=path, token=token, resources=given, node=shape.node.name, calibrate=True))
    return token


def _settle(plan: Plan, shape: Shape, ended: Ended, say: Callable[[str], None]) -> Shape | str:
    """What is to be tried next, or how it went."""
    folder = RunDir(ended.path)
    failure, tail = folder.failure(), folder.log_tail(8)
    measured = _known(plan, [shape]).get((shape.key, shape.device))
    if ended.code == 0 and measured is not None:
        memory = measured.gpu_bytes(shape.run.spec) if shape.on_gpu else measured.host_bytes(shape.run.spec)
        say(f"{shape}: {size(memory)}, {measured.images_per_second:,.0f} images/s, took {measured.seconds:.1f} s")
        shutil.rmtree(ended.path, ignore_errors=True)
        return "measured"
    if failure is None:
        kind, error = classify_exit(ended.code, tail, oom_killed=ended.oom_killed)
        failure = {"kind": kind, "error": error}
    if failure["kind"] == "gpu_oom" and (lighter := shape.lighter(_ranks(plan))):
        say(f"{shape}: does not fit; again in {lighter.parts} parts" + ", recomputed" * lighter.recomputed)
        shutil.rmtree(ended.path, ignore_errors=True)
        return lighter
    say(f"{shape}: {failure['kind']}: {failure['error']}\n  log: {ended.path / 'log.txt'}")
    return "failed"
