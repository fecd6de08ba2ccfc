"""What there is to spend, in FLOPs: GPU-hours at the rate that the runs reached."""

from __future__ import annotations

from dataclasses import dataclass

from analysis.commands.documents import Document
from analysis.optima.flops import rate
from analysis.points import Index, Vector
from analysis.tables.columns import Reader
from analysis.tables.mapping import Source
from analysis.tables.problems import InputError
from analysis.tables.table import Table

GPU_HOURS = "gpu_hours"
"""Name of the map: what a run held GPUs for, hours x GPUs."""


@dataclass(frozen=True, kw_only=True)
class Budgets:
    """What there is to spend."""

    flops: tuple[float, ...] = ()
    gpu_hours: tuple[float, ...] = ()
    flops_per_gpu_hour: float | None = None
    """None: what the costliest quarter of the runs reached, where the table says how long they took."""


def in_flops(asked: Budgets, spent: Vector, rows: Index, table: Table) -> tuple[list[float], Document]:
    """Budgets in FLOPs, and how GPU-hours became FLOPs, or why they could not; spent (n,): FLOPs of those `rows`."""
    if not asked.gpu_hours:
        return list(asked.flops), {}
    per_hour, said = asked.flops_per_gpu_hour, "as given"
    if per_hour is None:
        source = table.mapped.get(GPU_HOURS) or (Source(column=GPU_HOURS) if GPU_HOURS in table.rows else None)
        if source is None:
            why = f"no column of GPU-hours: map {GPU_HOURS}=COLUMN, or give --flops-per-gpu-hour"
            return list(asked.flops), {"status": "unknown_rate", "reason": why, "flops_per_gpu_hour": None}
        reader = Reader(rows=table.rows, taken=~table.excluded, where=str(table.question.path))
        seconds = 3600 * reader.column(source)[rows]
        if reader.problems:
            raise InputError(reader.problems)
        measured = rate(spent, seconds)
        if measured is None:
            return list(asked.flops), {
                "status": "unknown_rate",
                "reason": "no run has both FLOPs and GPU-hours",
                "flops_per_gpu_hour": None,
            }
        per_hour = measured.flops_per_gpu_hour
        said = f"median of the costliest {measured.n_runs} runs, {measured.low:.3g} to {measured.high:.3g}"
    budgets = [hours * per_hour for hours in asked.gpu_hours]
    return [*asked.flops, *budgets], {
        "status": "known",
        "reason": said,
        "flops_per_gpu_hour": per_hour,
        "budgets": [{"gpu_hours": h, "flops": b} for h, b in zip(asked.gpu_hours, budgets, strict=True)],
    }
