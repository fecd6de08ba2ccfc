"""Plans and catalogs as tables for a terminal. Imports rich."""

from __future__ import annotations

from collections.abc import Iterator

from rich.table import Table

from scaling.catalog import ALGORITHMS, MODELS, PROBES, SOURCES
from scaling.live import duration
from scaling.plan import Plan, PlannedRun


def quantity(value: float) -> str:
    """Three digits and an SI prefix: 5.49M, 1.20T."""
    for prefix, size in (("E", 1e18), ("P", 1e15), ("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:.3g}{prefix}"
    return f"{value:.3g}"


def state(run: PlannedRun) -> str:
    record = run.dir.record()
    if record is not None and run.done:
        return record.status
    if run.dir.failure():
        return "failed"
    if record is not None:
        return f"{len(run.missing_probes())} tasks to probe"
    last = run.dir.last_metrics()
    return f"step {last['step']}/{run.spec.n_steps}" if last else ""


def plan_table(plan: Plan) -> Table:
    """A row per run, in the order of the grid, and one per excluded point."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for heading in ("run", "model", "algorithm", "mixture"):
        table.add_column(heading)
    for heading in ("n_images", "seed", "n_params", "in total", "FLOPs", "time"):
        table.add_column(heading, justify="right")
    table.add_column("state")
    measured = plan.measured()
    for run in plan.runs:
        point, seconds = run.point, plan.estimate(run, measured)
        table.add_row(
            run.dir.run,
            point.model,
            point.algorithm,
            point.mixture,
            f"{point.n_images:,}",
            str(point.seed),
            quantity(run.cost.n_params),
            quantity(run.cost.n_params_total),
            quantity(run.cost.train_flops),
            "" if seconds is None else duration(seconds),
            state(run),
        )
    for left_out in plan.excluded:
        point = left_out.point
        row = ("-", point.model, point.algorithm, point.mixture, f"{point.n_images:,}", str(point.seed))
        table.add_row(*row, "", "", "", "", f"excluded by {left_out.rule}", style="dim")
    return table


def plan_summary(plan: Plan) -> Iterator[str]:
    """What will be done, in a few lines."""
    unique = {run.dir.run: run for run in plan.runs}.values()
    todo = [run for run in unique if not run.done]
    flops = sum(run.cost.train_flops for run in todo)
    yield (
        f"{plan.sweep.name}: {len(unique)} runs, {len(unique) - len(todo)} done, {len(todo)} to do "
        f"({quantity(flops)}FLOPs), {len(plan.excluded)} points excluded, {len(plan.tasks)} tasks probed"
    )
    measured = plan.measured()
    estimates = [plan.estimate(run, measured) for run in todo]
    if todo and all(e is not None for e in estimates):
        yield f"about {duration(sum(e for e in estimates if e is not None))} of one slot, by the runs already done"


def catalog_tables(wanted: str | None) -> Iterator[Table]:
    if wanted in (None, "models"):
        table = Table("model", "width", "depth", "heads", "source", title="models", title_justify="left")
        for name, size in MODELS.items():
            table.add_row(name, str(size.width), str(size.depth), str(size.heads), size.origin)
        yield table
    for title, entries in (("algorithms", ALGORITHMS), ("sources", SOURCES), ("probes", PROBES)):
        if wanted in (None, title):
            table = Table("name", "what it is", "options", title=title, title_justify="left")
            for name, entry in entries.items():
                table.add_row(name, entry.about, ", ".join(entry.options.model_fields))
            yield table
