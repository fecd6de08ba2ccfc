"""Plans, standings and failures as tables for a terminal. Imports rich."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence

from rich.table import Table

from scaling.accelerators import REACHED, REACHED_BETWEEN
from scaling.bill import Bill, Line, flops_left
from scaling.calibration import Calibration
from scaling.grid import Excluded
from scaling.live import duration, size
from scaling.plan import Plan
from scaling.planned import PlannedRun, Standing
from scaling.preflight import node_table

MANY = 200
"""Rows beyond which a table of runs is grouped, unless all are asked for."""


def quantity(value: float) -> str:
    """Three digits and an SI prefix: 5.49M, 1.20T."""
    for prefix, unit in (("E", 1e18), ("P", 1e15), ("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= unit:
            return f"{value / unit:.3g}{prefix}"
    return f"{value:.3g}"


def state(run: PlannedRun, standing: Standing) -> str:
    """In a few words."""
    if standing.state == "to probe":
        return f"{standing.n_to_probe} tasks to probe"
    if standing.state == "failed" and standing.failure:
        return f"failed ({standing.failure['kind']})"
    step = f"step {standing.last['step']}/{run.spec.n_steps}" if standing.last else ""
    if standing.state == "running" and standing.beat:
        return f"running: {standing.beat.phase}" + (f", {step}" if standing.beat.phase == "pretrain" and step else "")
    return step if standing.state == "begun" else "" if standing.state == "waiting" else standing.state


def _table(left: Sequence[str], right: Sequence[str], last: str) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for heading in left:
        table.add_column(heading, no_wrap=heading == "run")
    for heading in right:
        table.add_column(heading, justify="right")
    table.add_column(last)
    return table


# --- scaling plan ------------------------------------------------------------------------------------------------


def plan_table(bill: Bill, *, everything: bool = False) -> Table:
    """A row per point in the order of the grid, then what is excluded; grouped when there are very many."""
    if len(bill.lines) > MANY and not everything:
        return _grouped_plan(bill)
    table = _table(
        ("run", "model", "algorithm", "mixture"),
        ("n_images", "seed", "n_params", "in total", "FLOPs", "batch", "GPUs", "memory", "time"),
        "state",
    )
    for line in bill.lines:
        point, cost = line.run.point, line.run.cost
        table.add_row(
            line.name or "?",
            point.model,
            point.algorithm,
            point.mixture,
            f"{point.n_images:,}",
            str(point.seed),
            quantity(cost.n_params),
            quantity(cost.n_params_total),
            quantity(cost.train_flops),
            _batch(line),
            gpus(line.allotment.resources.gpus),
            _memory(line),
            _time(line),
            _plan_state(line),
            style="dim" if line.same_as else None,
        )
    for rule, left_out in _by_rule(bill.plan.excluded).items():
        for excluded in left_out:
            point = excluded.point
            row = ("-", point.model, point.algorithm, point.mixture, f"{point.n_images:,}", str(point.seed))
            table.add_row(*row, *[""] * 7, f"excluded by {rule}", style="dim")
    return table


def _plan_state(line: Line) -> str:
    """`done, held out`."""
    words = [f"same as {line.same_as}" if line.same_as else state(line.run, line.standing)]
    return ", ".join(filter(None, [*words, "held out" if line.run.holdout else ""]))


def _by_rule(excluded: Sequence[Excluded]) -> Mapping[str, list[Excluded]]:
    rules: dict[str, list[Excluded]] = defaultdict(list)
    for one in excluded:
        rules[one.rule].append(one)
    return rules


def _batch(line: Line) -> str:
    """Images a step; how it is split into micro-batches and ranks where it is, and whether activations are computed
    anew."""
    if not line.run.spec.images_seen:
        return "-"
    given, batch = line.allotment, line.run.spec.batch_size
    again = " recomputed" * given.recomputed
    if given.n_micro * given.n_ranks == 1:
        return f"{batch}{again}"
    ranks = f" x {given.n_ranks} ranks" if given.n_ranks > 1 else ""
    return f"{batch // (given.n_micro * given.n_ranks)} x {given.n_micro}{ranks}{again}"


def gpus(n: float) -> str:
    """2, 1, 1/4, 0."""
    return f"1/{round(1 / n)}" if 0 < n < 1 else f"{n:g}"


def _memory(line: Line) -> str:
    return ("" if line.allotment.basis == "measured" else "~") + size(line.allotment.need)


def _time(line: Line) -> str:
    if line.seconds is None or line.standing.over or line.same_as:
        return ""
    return {"other runs": "~", "calibration": "*", "assumed": "?"}.get(line.seconds_basis, "") + duration(line.seconds)


def _grouped_plan(bill: Bill) -> Table:
    """A row per model, algorithm and mixture."""
    table = _table(
        ("model", "algorithm", "mixture"),
        ("runs", "n_images", "seeds", "n_params", "FLOPs", "batch", "GPUs", "memory", "time"),
        "state",
    )
    groups: dict[tuple[str, str, str], list[Line]] = defaultdict(list)
    for line in bill.own:
        groups[line.run.point.model, line.run.point.algorithm, line.run.point.mixture].append(line)
    for kind, lines in groups.items():
        images = sorted({line.run.point.n_images for line in lines})
        todo = [line for line in lines if not line.standing.over]
        known = [line.seconds for line in todo if line.seconds is not None]
        largest = max(lines, key=lambda line: line.allotment.need)
        table.add_row(
            *kind,
            str(len(lines)),
            f"{quantity(images[0])} to {quantity(images[-1])}" if len(images) > 1 else f"{images[0]:,}",
            str(len({line.run.point.seed for line in lines})),
            quantity(lines[0].run.cost.n_params),
            quantity(sum(line.run.cost.train_flops for line in lines)),
            _batch(largest),
            gpus(max(line.allotment.resources.gpus for line in lines)),
            _memory(largest),
            duration(sum(known)) if known and len(known) == len(todo) else "",
            counts(line.standing for line in lines) + _held_out(lines),
        )
    for rule, left_out in _by_rule(bill.plan.excluded).items():
        table.add_row("-", "", "", str(len(left_out)), *[""] * 8, f"excluded by {rule}", style="dim")
    return table


def _held_out(lines: Sequence[Line]) -> str:
    n = sum(line.run.holdout for line in lines)
    return f"; {n} held out" if n else ""


def counts(standings: Iterator[Standing]) -> str:
    """`12 done, 1 failed, 3 waiting`."""
    there = Counter(standing.state for standing in standings)
    return ", ".join(f"{n} {name}" for name, n in there.most_common())


def plan_summary(bill: Bill) -> Iterator[str]:
    """The totals, a line each."""
    n_same, n_held = len(bill.lines) - len(bill.own), sum(line.run.holdout for line in bill.own)
    flops = sum(flops_left(line) for line in bill.to_do)
    done = "how many are done is unknown" if bill.plan.missing else f"{len(bill.own) - len(bill.to_do)} done"
    parts = [
        f"{len(bill.own)} runs",
        done,
        f"{len(bill.to_do)} to do" + (f" ({quantity(flops)}FLOPs)" if flops else ""),
        f"{len(bill.plan.excluded)} points excluded",
        f"{len(bill.plan.tasks)} tasks probed",
        *([f"{n_same} points are the same run as another"] if n_same else []),
        *([f"{n_held} held out of the fits"] if n_held else []),
    ]
    yield f"{bill.plan.sweep.name}: {', '.join(parts)}"
    yield f"training: {_lengths(bill)}"
    if bill.to_do:
        yield _time_in_all(bill)
        disk, free = bill.disk, f"{size(bill.disk_free)} free"
        good = f"{size(disk.encoders)} of encoders and {size(disk.features)} of kept features for good"
        yield f"disk: {good}, up to {size(disk.checkpoints)} of checkpoints meanwhile; {free}"
    yield from _budget(bill)
    yield from _missing(bill)
    for problem in bill.problems if not bill.plan.missing else ():
        yield f"`scaling run` would refuse on this machine: {problem}"
    for warning in bill.warnings:
        yield f"note: {warning}"


def _lengths(bill: Bill) -> str:
    """The budget of a run, and what it comes to where that differs: `equal FLOPs, 1e+15 a run: 960 to 4,096 images`."""
    seen = sorted({line.run.spec.images_seen for line in bill.own} - {0})
    pretrain = bill.plan.sweep.pretrain
    if pretrain.images_seen is not None or not seen:
        return str(pretrain)
    return f"{pretrain}: {' to '.join(f'{n:,}' for n in dict.fromkeys((seen[0], seen[-1])))} images seen"


def _time_in_all(bill: Bill) -> str:
    if bill.untimed == len(bill.to_do):
        return f"time: nothing of the kind was timed yet; `scaling calibrate {bill.plan.document.path}` measures it"
    spent = f"{hours(bill.gpu_hours)} GPU-hours" if bill.gpu_hours else f"{hours(bill.cpu_hours)} CPU-hours"
    text = f"time: {spent}, {duration(bill.slot_hours * 3600)} of one slot"
    if bill.assumed:
        return f"{text} ({_assumed(bill)})"
    if bill.wall_seconds is not None:
        text += f", about {duration(bill.wall_seconds)} here with {bill.at_once} at a time"
    bases = {line.seconds_basis for line in bill.to_do if line.seconds is not None}
    words = {"runs": "finished runs", "calibration": "calibrated steps", "other runs": "finished runs of other kinds"}
    text += f" (by {', '.join(words[basis] for basis in words if basis in bases)})"
    return text + (f"; of {bill.untimed} more nothing is known" if bill.untimed else "")


def _assumed(bill: Bill) -> str:
    """What a price rests on that nobody measured."""
    low, high = (bill.gpu_hours * REACHED / share for share in reversed(REACHED_BETWEEN))
    return (
        f"at {REACHED:.0%} of {bill.plan.sweep.resources.accelerator}'s peak, a guess: {hours(low)} to "
        f"{hours(high)} at the {REACHED_BETWEEN[1]:.0%} to {REACHED_BETWEEN[0]:.0%} of published codes; "
        f"`scaling calibrate {bill.plan.document.path}` there measures it"
    )


def _missing(bill: Bill) -> Iterator[str]:
    """That this is a price alone, why, and what to do."""
    if bill.plan.missing:
        yield (
            "its data is not here, so this is a price from the YAML alone and `scaling run` refuses: fingerprints, and "
            "with them which runs are done, follow from the images"
        )
        for problem in bill.plan.missing:
            yield f"missing: {problem}"


def hours(value: float) -> str:
    """Three digits; below a hundredth it does not matter how many."""
    return f"{value:.3g}" if value >= 0.01 or value == 0 else "<0.01"


def _budget(bill: Bill) -> Iterator[str]:
    budget, used = bill.plan.sweep.budget, bill.used
    parts = []
    for unit, allowed, spent, more in (
        ("GPU-hours", budget.gpu_hours, used.gpu_hours, bill.gpu_hours),
        ("CPU-hours", budget.cpu_hours, used.cpu_hours, bill.cpu_hours),
    ):
        if allowed is not None:
            rest = "" if bill.untimed else f", {hours(more)} to come"
            parts.append(f"{hours(spent)} of {allowed:g} {unit} used{rest}")
    if budget.wall is not None:
        parts.append(f"{duration(budget.wall)} for one call")
    if parts:
        yield f"budget: {'; '.join(parts)}" + ("; not enough" if bill.question else "")


def plan_legend(bill: Bill) -> Iterator[str]:
    """What the marks in the table mean, where there are any; where things go."""
    lines = bill.to_do or bill.own
    device = "GPU" if any(line.allotment.resources.gpus for line in lines) else "host"
    marks = []
    if any(line.allotment.basis == "estimated" for line in lines):
        marks.append(f"memory ~ estimated in closed form ({device})")
    if any(line.allotment.basis == "measured" for line in lines):
        marks.append(f"memory without ~ measured ({device})")
    if any(line.seconds_basis == "other runs" for line in lines):
        marks.append("time ~ from runs of other kinds")
    if any(line.seconds_basis == "calibration" for line in lines):
        marks.append("time * from calibrated steps")
    if bill.assumed:
        marks.append("time ? at an assumed share of the GPU's peak")
    if marks:
        yield "; ".join(marks)
    tracking = bill.plan.sweep.tracking
    yield f"runs: {bill.plan.root / 'runs'}; MLflow: {bill.plan.tracking_uri}, experiment {tracking.experiment}"
    yield f"machine: {node_table(bill.nodes).strip()}"


def calibration_table(found: Sequence[Calibration]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for heading in ("device", "model", "algorithm"):
        table.add_column(heading)
    for heading in ("batch", "memory", "host memory", "images/s"):
        table.add_column(heading, justify="right")
    for c in sorted(found, key=lambda c: (c.device, c.algorithm, c.memory_bytes)):
        table.add_row(
            c.device,
            c.model,
            c.algorithm,
            (f"{c.batch_size // c.n_micro} x {c.n_micro}" if c.n_micro > 1 else str(c.batch_size))
            + " recomputed" * c.recomputed,
            size(c.memory_bytes),
            size(c.host_memory_bytes),
            f"{c.images_per_second:,.0f}",
        )
    return table


# --- scaling status ----------------------------------------------------------------------------------------------


def status_table(
    plan: Plan, standings: Mapping[str, Standing], *, everything: bool = False, cancelled: Collection[str] = ()
) -> Table:
    """A row per run; grouped when there are very many."""
    runs = plan.unique()
    if len(runs) > MANY and not everything:
        return _grouped_status(plan, standings)
    table = _table(("run", "model", "algorithm", "mixture"), ("n_images", "seed", "loss", "time"), "state")
    for fingerprint, run in runs.items():
        point, standing = run.point, standings[fingerprint]
        record, last = standing.record, standing.last or {}
        loss = record.train_loss if record else last.get("loss")
        seconds = record.train_seconds if record else last.get("seconds")
        table.add_row(
            fingerprint,
            point.model,
            point.algorithm,
            point.mixture,
            f"{point.n_images:,}",
            str(point.seed),
            "" if loss is None else f"{loss:.4g}",
            duration(seconds) if seconds else "",
            "cancelled" if fingerprint in cancelled and not standing.over else state(run, standing) or "waiting",
        )
    return table


def _grouped_status(plan: Plan, standings: Mapping[str, Standing]) -> Table:
    table = _table(("model", "algorithm", "mixture"), ("runs",), "state")
    groups: dict[tuple[str, str, str], list[Standing]] = defaultdict(list)
    for fingerprint, run in plan.unique().items():
        groups[run.point.model, run.point.algorithm, run.point.mixture].append(standings[fingerprint])
    for kind, found in groups.items():
        table.add_row(*kind, str(len(found)), counts(iter(found)))
    return table
