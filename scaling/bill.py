"""What a sweep will take, run by run and in total, and what each number rests on: the content of `scaling plan`."""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from scaling.accelerators import ACCELERATORS, REACHED
from scaling.budgeting import overpaid
from scaling.calibration import Calibration, load_calibrations
from scaling.cost import RECOMPUTING, Estimate, Evidence, encode_flops
from scaling.launch.launcher import Node
from scaling.plan import Plan
from scaling.planned import PlannedRun, Standing
from scaling.preflight import Disk, changed_data, disk_bytes, free_bytes, over_budget, preflight, slots, warnings
from scaling.runbody import Usage, usage_of
from scaling.sizing import Allotment, Sizer


@dataclass(frozen=True, kw_only=True)
class Line:
    """One point of the grid."""

    run: PlannedRun
    standing: Standing
    allotment: Allotment
    seconds: float | None
    """Still to take; 0 when done, None while nothing of the kind was timed."""
    seconds_basis: str
    """As `Estimate.basis`; empty without an estimate."""
    same_as: str = ""
    """An earlier point that is the same run, so that this one costs nothing."""

    @property
    def name(self) -> str | None:
        """The run's fingerprint; None where it is unknown."""
        return None if self.standing.state == "unknown" else self.run.dir.run

    @property
    def gpu_seconds(self) -> float:
        return (self.seconds or 0.0) * self.allotment.resources.gpus

    @property
    def cpu_seconds(self) -> float:
        return (self.seconds or 0.0) * self.allotment.resources.cpus

    def to_json(self) -> dict[str, Any]:
        cost, given = self.run.cost, self.allotment
        return {
            "run": self.name,
            **vars(self.run.point),
            "n_unique": self.run.spec.n_unique,
            "repeated": dict(self.run.repeated()),
            "n_params": cost.n_params,
            "n_params_total": cost.n_params_total,
            "images_seen": self.run.spec.images_seen,
            "train_flops": cost.train_flops,
            "batch_size": self.run.spec.batch_size if self.run.spec.images_seen else 0,
            "n_ranks": given.n_ranks,
            "n_micro": given.n_micro,
            "recomputed": given.recomputed,
            "cpus": given.resources.cpus,
            "gpus": given.resources.gpus,
            "memory_bytes": given.need,
            "memory_basis": given.basis,
            "seconds": self.seconds,
            "seconds_basis": self.seconds_basis or None,
            "probe_flops": probe_flops(self.run),
            "state": self.standing.state,
            "same_as": self.same_as or None,
            "holdout": self.run.holdout,
        }


@dataclass(frozen=True, kw_only=True)
class Bill:
    plan: Plan
    nodes: Sequence[Node]
    lines: Sequence[Line]
    used: Usage
    """By the sweep so far."""
    problems: Sequence[str]
    """Why `scaling run` would refuse on these nodes."""
    warnings: Sequence[str]

    @functools.cached_property
    def own(self) -> list[Line]:
        """Each run once."""
        return [line for line in self.lines if not line.same_as]

    @functools.cached_property
    def to_do(self) -> list[Line]:
        return [line for line in self.own if not line.standing.over]

    @property
    def untimed(self) -> int:
        """Runs to do of which nobody knows how long they take."""
        return sum(line.seconds is None for line in self.to_do)

    @property
    def assumed(self) -> bool:
        """Whether times rest on a share of a GPU's peak that nobody measured."""
        return any(line.seconds_basis == "assumed" for line in self.to_do)

    @property
    def slot_hours(self) -> float:
        """Of the runs whose time is known."""
        return sum(line.seconds or 0.0 for line in self.to_do) / 3600

    @property
    def gpu_hours(self) -> float:
        return sum(line.gpu_seconds for line in self.to_do) / 3600

    @property
    def cpu_hours(self) -> float:
        return sum(line.cpu_seconds for line in self.to_do) / 3600

    @functools.cached_property
    def at_once(self) -> int:
        """Runs that these nodes hold at a time, by the smallest that is to do."""
        wanted = [line.allotment.resources for line in self.to_do]
        return slots(self.nodes, min(wanted, key=lambda r: (r.gpus, r.cpus))) if wanted else 0

    @property
    def wall_seconds(self) -> float | None:
        """At least, on these nodes; None while not all is known."""
        if self.untimed or not self.at_once:
            return None
        return max(self.slot_hours * 3600 / self.at_once, *(line.seconds or 0.0 for line in self.to_do), 0.0)

    @functools.cached_property
    def disk(self) -> Disk:
        return disk_bytes([line.run for line in self.to_do], self.at_once, self.plan.sweep.probe)

    @property
    def disk_free(self) -> int:
        return free_bytes(self.plan.root)

    @property
    def question(self) -> str | None:
        """What `scaling run` would ask about the budget."""
        if self.untimed == len(self.to_do) or self.assumed:
            return None
        return over_budget(self.plan, self.used.gpu_hours, self.gpu_hours) or over_budget(
            self.plan, self.used.cpu_hours, self.cpu_hours, unit="cpu"
        )

    def to_json(self) -> dict[str, Any]:
        sweep, disk = self.plan.sweep, self.disk
        return {
            "sweep": sweep.name,
            "yaml": self.plan.document.path,
            "root": str(self.plan.root),
            "nodes": [asdict(node) for node in self.nodes],
            "training": {"budget": sweep.pretrain.budget, **sweep.pretrain.given},
            "tasks": [info.name for info in self.plan.tasks],
            "runs": [line.to_json() for line in self.lines],
            "excluded": [{**vars(e.point), "rule": e.rule} for e in self.plan.excluded],
            "totals": {
                "runs": len(self.own),
                "done": None if self.plan.missing else len(self.own) - len(self.to_do),
                "to_do": len(self.to_do),
                "same_as_another": len(self.lines) - len(self.own),
                "excluded": len(self.plan.excluded),
                "held_out": sum(line.run.holdout for line in self.own),
                "train_flops": sum(flops_left(line) for line in self.to_do),
                "untimed": self.untimed,
                "slot_hours": self.slot_hours,
                "gpu_hours": self.gpu_hours,
                "cpu_hours": self.cpu_hours,
                "at_once": self.at_once,
                "wall_seconds": self.wall_seconds,
                "encoder_bytes": disk.encoders,
                "feature_bytes": disk.features,
                "checkpoint_bytes": disk.checkpoints,
                "disk_free_bytes": self.disk_free,
            },
            "budget": {
                **sweep.budget.model_dump(mode="json"),
                "used_gpu_hours": self.used.gpu_hours,
                "used_cpu_hours": self.used.cpu_hours,
                "question": self.question,
            },
            "mlflow": {"uri": self.plan.tracking_uri, "experiment": sweep.tracking.experiment},
            "data_missing": bool(self.plan.missing),
            "problems": list(self.problems),
            "warnings": list(self.warnings),
        }


def flops_left(line: Line) -> float:
    """What is trained is only probed, which is not counted in FLOPs."""
    return 0.0 if line.standing.record is not None else line.run.cost.train_flops


def bill_of(
    plan: Plan, nodes: Sequence[Node], calibrations: Sequence[Calibration] | None = None, *, check: bool = True
) -> Bill:
    """For these nodes, by what was finished and calibrated under the plan's root; `check` looks for problems too."""
    known = load_calibrations(plan.root) if calibrations is None else calibrations
    sizer = Sizer(plan, nodes, known)
    standings = dict.fromkeys(plan.unique(), Standing(state="unknown")) if plan.missing else plan.standings()
    evidence = Evidence(plan.measured(standings))
    lines, first = [], dict[str, str]()
    for run in plan.runs:
        standing, allotment = standings[run.dir.run], sizer.size(run)
        seconds, basis = _left(run, standing, allotment, evidence)
        same_as = first.get(run.dir.run, "")
        first.setdefault(run.dir.run, str(run.point))
        lines.append(
            Line(
                run=run,
                standing=standing,
                allotment=allotment,
                seconds=seconds,
                seconds_basis=basis,
                same_as=same_as,
            )
        )
    notes = [
        *plan.of_the_data,
        *repeats(plan.runs),
        *overpaid(plan.sweep, (run.spec for run in plan.runs)),
        *warnings(plan, nodes),
        *filter(None, [] if plan.missing else [changed_data(plan)]),
    ]
    return Bill(
        plan=plan,
        nodes=nodes,
        lines=lines,
        used=usage_of(plan),
        problems=[str(problem) for problem in plan.missing or preflight(plan, nodes, known)] if check else [],
        warnings=notes,
    )


def repeats(runs: Sequence[PlannedRun]) -> Iterator[str]:
    """What is repeated in which set, and which sizes of a mixture are one size of the data axis."""
    sets = {(run.point.mixture, run.point.n_images): run for run in runs if run.spec.repeated_from}
    of = defaultdict[tuple[str, int], list[int]](list)
    for (mixture, n_images), run in sets.items():
        each = [f"{m} {run.n_unique_by_modality[m]:,} images x {times:.4g}" for m, times in run.repeated().items()]
        yield f"{mixture} at n_images {n_images:,} repeats {', '.join(each)}: {run.spec.n_unique:,} unique images"
        of[mixture, run.spec.n_unique].append(n_images)
    for (mixture, n_unique), sizes in of.items():
        if len(sizes) > 1:
            listed = ", ".join(f"{n:,}" for n in sorted(sizes))
            yield f"{mixture} has the same {n_unique:,} unique images at n_images {listed}, which are one size in a fit"


def _left(run: PlannedRun, standing: Standing, given: Allotment, evidence: Evidence) -> tuple[float | None, str]:
    """Seconds still to take, and what says so."""
    if standing.over:
        return 0.0, ""
    spec, flops = run.spec, 0.0 if standing.record is not None else run.cost.train_flops
    rate = given.calibrated.images_per_second * given.n_ranks if given.calibrated else None
    images = spec.n_steps * spec.batch_size
    point, recomputed = run.point, given.recomputed
    found = evidence.estimate(point.model, point.algorithm, flops, rate, images, recomputed=recomputed) or assumed(
        run, flops, given
    )
    if found is None:
        return None, ""
    begun = standing.last["step"] / spec.n_steps if standing.last and flops and spec.n_steps else 0.0
    return found.seconds * max(0.0, 1 - begun), found.basis


def assumed(run: PlannedRun, flops: float, given: Allotment) -> Estimate | None:
    """By the peak of the GPU that the YAML names, where that is known: training and the probes' forward passes."""
    gpu = ACCELERATORS.get(given.resources.accelerator or "")
    if gpu is None or not given.resources.gpus:
        return None
    work = flops * (RECOMPUTING if given.recomputed else 1.0) + probe_flops(run)
    return Estimate(seconds=work / (gpu.flops * REACHED * given.resources.gpus), basis="assumed")


def probe_flops(run: PlannedRun) -> float:
    """Of the forward passes over all tasks whose sizes are known."""
    n_images = sum((info.n_train or 0) + (info.n_other or 0) for info in run.tasks.values())
    return n_images * encode_flops(run.spec)
