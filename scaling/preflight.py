"""Refuses in seconds what can never run, before anything starts: nodes, disk, root, data, budget.

Reads the root and the plan, starts nothing. Every problem found is reported at once.
"""

from __future__ import annotations

import json
import shutil
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from scaling.calibration import Calibration, load_calibrations
from scaling.errors import Problem
from scaling.launch.launcher import Node, Resources
from scaling.live import size
from scaling.placement import Room
from scaling.plan import Plan, plan_path
from scaling.planned import PlannedRun
from scaling.probing import ProbeBase
from scaling.rundir import read_json
from scaling.sizing import Allotment, Sizer, resources_of

__all__ = ["changed_data", "node_table", "over_budget", "preflight", "resources_of", "warnings"]

RESERVE = 2**30
"""Bytes of the disk that logs, curves and the database may want beside what is counted."""
FAINT, FAINT_STEPS = 1e-4, 1000
"""A start of the blocks so faint that a run of so few steps is warned of. A guess between what was seen: DINOv2 at 1e-5
collapses in a few hundred steps, its published runs take 125,000."""


def preflight(plan: Plan, nodes: Sequence[Node], calibrations: Sequence[Calibration] | None = None) -> list[Problem]:
    """What makes the sweep, or runs of it, impossible; empty when all is well."""
    todo = [run for run in {run.dir.run: run for run in plan.runs}.values() if not run.done]
    sizer = Sizer(plan, nodes, load_calibrations(plan.root) if calibrations is None else calibrations)
    sized = [(run, sizer.size(run)) for run in todo]
    unusable = [problem] if (problem := unwritable(plan.root)) else []
    return [*_nodes(plan, nodes, sized), *unusable, *([] if unusable else _disk(plan, nodes, sized))]


Sized = Sequence[tuple[PlannedRun, Allotment]]


def _nodes(plan: Plan, nodes: Sequence[Node], sized: Sized) -> Iterator[Problem]:
    """Runs that no node could hold even if it were empty."""
    groups: dict[Resources, list[PlannedRun]] = defaultdict(list)
    for run, allotment in sized:
        groups[allotment.resources].append(run)
    room = Room(nodes)
    for resources, runs in groups.items():
        if room.place(resources) is None:
            what = f"{_named(runs)} {_verb(runs, 'wants', 'want')} {resources}, which no node has"
            yield plan.document.problem(_blamed(plan, nodes, resources), f"{what}; {_way_out(nodes, resources)}")
    big: dict[str, list[tuple[PlannedRun, Allotment]]] = defaultdict(list)
    for run, allotment in sized:
        if allotment.basis == "measured" and not allotment.fits:
            big[run.point.model].append((run, allotment))
    for found in big.values():
        most = max(found, key=lambda pair: pair[1].need)[1]
        runs = [run for run, _ in found]
        what = (
            f"{_named(runs)} {_verb(runs, 'was', 'were')} measured to need {size(most.need)} of GPU memory even with "
            f"{most.n_micro} micro-batches a step{' and activations computed anew' * most.recomputed}; the GPU has "
            f"{size(most.gpu_memory)}; leave the model out, lower pretrain.batch_size, or use a larger GPU\n"
            f"{node_table(nodes)}"
        )
        yield plan.document.problem(("resources",), what)


def _named(runs: Sequence[PlannedRun]) -> str:
    if len(runs) == 1:
        return str(runs[0].point)
    return f"{len(runs)} runs, such as {runs[0].point},"


def _verb(runs: Sequence[PlannedRun], one: str, many: str) -> str:
    return one if len(runs) == 1 else many


def _blamed(plan: Plan, nodes: Sequence[Node], wanted: Resources) -> tuple[str, ...]:
    """The key of the YAML without which a node would do."""
    room = Room(nodes)
    for key, less in (
        ("accelerator", Resources(cpus=wanted.cpus, gpus=wanted.gpus, memory=wanted.memory)),
        ("gpus", Resources(cpus=wanted.cpus, memory=wanted.memory)),
        ("memory_gb", Resources(cpus=wanted.cpus, gpus=wanted.gpus, accelerator=wanted.accelerator)),
        ("cpus", Resources(cpus=1, gpus=wanted.gpus, memory=wanted.memory, accelerator=wanted.accelerator)),
    ):
        if less != wanted and room.place(less) is not None:
            return ("resources", key)
    return ("resources",)


def _way_out(nodes: Sequence[Node], wanted: Resources) -> str:
    out = "ask for less, or join a cluster that has it (--address)"
    if wanted.gpus and not any(node.gpus for node in nodes):
        out = "write `gpus: auto` to use GPUs only where there are any, or join a cluster that has them (--address)"
    return f"{out}\n{node_table(nodes)}"


def node_table(nodes: Sequence[Node]) -> str:
    """A line per kind of node."""
    if not nodes:
        return "      there is no node"
    kinds: dict[tuple[int, int, str, int, int], list[str]] = defaultdict(list)
    for node in nodes:
        key = (node.cpus, node.gpus, node.accelerator or "", node.gpu_memory, node.memory)
        kinds[key].append(node.host or node.name)
    lines = []
    for (cpus, gpus, kind, gpu_memory, memory), names in kinds.items():
        gpu = f"{gpus} GPU{'s' * (gpus != 1)}" + (f" {kind}".rstrip() if gpus else "")
        gpu += f" of {size(gpu_memory)}" if gpus and gpu_memory else ""
        host = f", {size(memory)}" if memory else ""
        who = names[0] if len(names) == 1 else f"{len(names)} nodes ({names[0]}, ...)"
        lines.append(f"      {who}: {cpus} CPU{'s' * (cpus != 1)}, {gpu}{host}")
    return "\n".join(lines)


def unwritable(root: Path) -> Problem | None:
    """Writes a file where the runs will write theirs, or where their folder will be made."""
    there = next(folder for folder in (root, *root.parents) if folder.exists())
    probe = there / f".preflight-{uuid4().hex[:8]}"
    try:
        probe.write_text(probe.name)
        probe.unlink()
    except OSError as error:
        what = f"the root cannot be written: {error.strerror or error}; give another `root:` in the YAML"
        return Problem(where=str(root), what=what)
    return None


@dataclass(frozen=True, kw_only=True)
class Disk:
    """Bytes that runs will take."""

    encoders: int
    """For good."""
    features: int
    """For good: kept of the tasks they probe."""
    checkpoints: int
    """Meanwhile, at most: of those that run at once, twice each, because the next is written before the last goes."""

    @property
    def total(self) -> int:
        return self.encoders + self.features + self.checkpoints


def disk_bytes(runs: Sequence[PlannedRun], at_once: int, probe: ProbeBase) -> Disk:
    todo = [run for run in runs if run.spec.images_seen > 0 and not run.trained]
    largest = sorted((run.cost.checkpoint_bytes for run in todo), reverse=True)
    return Disk(
        encoders=sum(run.cost.encoder_bytes for run in todo),
        features=sum(feature_bytes(run, probe) for run in runs),
        checkpoints=2 * sum(largest[: max(1, at_once)]),
    )


def feature_bytes(run: PlannedRun, probe: ProbeBase) -> int:
    """Of the tasks still to be probed, one after the other while `probe.keep_mb` has room: class token and mean of the
    patches of each image in fp16, of bare pixels only these, and the labels. All the room where a size is not known."""
    spec, limit, kept = run.spec, probe.keep_mb * 2**20, 0
    values = spec.channels * spec.image_size**2 if spec.algorithm == "pixels" else 2 * spec.width
    for info in map(run.tasks.__getitem__, run.missing_probes()):
        if info.n_train is None or info.n_other is None:
            return limit
        n_images = min(info.n_train, probe.max_train or info.n_train) + info.n_other
        needed = n_images * (2 * values + 8 * (info.n_classes if info.kind == "multi-label" else 1))
        kept += needed if kept + needed <= limit else 0
    return kept


def free_bytes(root: Path) -> int:
    """Of the disk that holds the root, or will."""
    return shutil.disk_usage(next(folder for folder in (root, *root.parents) if folder.exists())).free


def slots(nodes: Sequence[Node], wanted: Resources) -> int:
    """Runs of this kind that fit at once on empty nodes."""
    room, n = Room(nodes), 0
    while n < 10_000 and (node := room.place(wanted)) is not None:
        room.take(node.name, wanted)
        n += 1
    return n


def _disk(plan: Plan, nodes: Sequence[Node], sized: Sized) -> Iterator[Problem]:
    if not sized:
        return
    smallest = min((allotment.resources for _, allotment in sized), key=lambda r: (r.gpus, r.cpus))
    disk = disk_bytes([run for run, _ in sized], slots(nodes, smallest), plan.sweep.probe)
    free = free_bytes(plan.root)
    if disk.total + RESERVE > free:
        what = (
            f"the sweep will write {size(disk.encoders)} of encoders, {size(disk.features)} of features and up to "
            f"{size(disk.checkpoints)} of checkpoints, and wants {size(RESERVE)} beside them; the disk has "
            f"{size(free)} free; make room (`scaling gc` says what is not needed), keep fewer features "
            "(probe.keep_mb), or give another `root:`"
        )
        yield Problem(where=str(plan.root), what=what)


# --- what is possible but wants a person's word ------------------------------------------------------------------


def changed_data(plan: Plan) -> str | None:
    """A question when the files behind an unchanged YAML are no longer those of the last `scaling run`."""
    kept = read_json(plan_path(plan.root, plan.sweep.name))
    if kept is None or kept.get("yaml") != plan.document.text:
        return None
    before = {json.dumps(run["spec"], sort_keys=True) for run in kept["runs"]}
    points = {_point_of(json.loads(text)): json.loads(text)["data_identity"] for text in before}
    now = {_point_of(vars(run.point)): run.spec.data_identity for run in plan.runs}
    other = [point for point, identity in now.items() if points.get(point, identity) != identity]
    if not other:
        return None
    done = f"{len(other)} run{'s' * (len(other) > 1)}, such as {'/'.join(map(str, other[0]))},"
    return f"the pretraining images have changed since this sweep last ran, its YAML has not: {done} would start anew"


def _point_of(values: dict[str, object]) -> tuple[object, ...]:
    return tuple(values[axis] for axis in ("model", "algorithm", "n_images", "mixture", "seed"))


def over_budget(plan: Plan, used: float, estimate: float | None, *, unit: str = "gpu") -> str | None:
    """A question when what is still to do will take more than is left of the YAML's hours; all in hours."""
    budget = plan.sweep.budget
    allowed = budget.gpu_hours if unit == "gpu" else budget.cpu_hours
    if allowed is None or estimate is None or used + estimate <= allowed:
        return None
    name = f"{unit.upper()}-hours"
    spent = f", of which {used:.3g} are used" if used else ""
    return (
        f"the runs to do are estimated at {estimate:.3g} {name}; the budget allows {allowed:.3g}{spent}; "
        "nothing new will start once it is spent"
    )


def warnings(plan: Plan, nodes: Sequence[Node]) -> Iterator[str]:
    """What may go wrong, a line each."""
    if in_memory(plan.root):
        yield f"{plan.root} lies in memory (tmpfs): a reboot takes the runs away, and they take memory from others"
    if free_bytes(plan.root) < 5 * RESERVE:
        yield f"the disk of {plan.root} has only {size(free_bytes(plan.root))} free"
    yield from _collapsing(plan)


def _collapsing(plan: Plan) -> Iterator[str]:
    """Blocks that start at almost nothing (LayerScale) have moved too little when a run is short: teachers collapse."""
    short = [
        run.spec.n_steps
        for run in plan.runs
        if (getattr(run.spec.options, "layer_scale", None) or 1) <= FAINT and 0 < run.spec.n_steps < FAINT_STEPS
    ]
    if short:
        yield (
            f"{len(short)} runs of {min(short):,} to {max(short):,} steps start their blocks at layer_scale <= "
            f"{FAINT:g}, which has been seen to collapse in a few hundred steps; `layer_scale: null` leaves it out"
        )


def in_memory(root: Path) -> bool:
    """Whether the deepest mount above `root` is tmpfs; False where the system does not say."""
    try:
        mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    except OSError:
        return False
    above = [(len(m[1]), m[2]) for m in mounts if root.resolve().is_relative_to(m[1])]
    return max(above, default=(0, ""))[1] in ("tmpfs", "ramfs")
