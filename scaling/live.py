"""What a person sees while a sweep runs: a live table on a terminal, plain lines in a log. Imports rich."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from scaling.rundir import write_whole

PLAIN_EVERY = 15.0
"""Seconds between lines where there is no terminal."""
LINES_BESIDE_RUNS = 8
"""Of a terminal's height, what is kept for headline, bar, heading and messages."""


@dataclass(frozen=True, kw_only=True)
class Running:
    name: str
    run: str = ""
    """Fingerprint."""
    node: str = ""
    phase: str = ""
    """What the worker is at: data, pretrain, probe TASK; empty while it starts."""
    step: int = 0
    n_steps: int = 0
    """0 where there are no steps to make."""
    loss: float | None = None
    images_per_second: float | None = None
    memory: int = 0
    """Bytes of GPU memory, or of host memory without a GPU; 0 is unknown."""
    eta_seconds: float | None = None


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """How a sweep stands at a moment."""

    total: int
    done: int
    """Finished before or now, diverged and collapsed ones among them."""
    diverged: int = 0
    collapsed: int = 0
    running: Sequence[Running] = ()
    waiting: Mapping[str, int] = field(default_factory=dict)
    """For what -> how many runs, e.g. {"slot": 12, "retry": 1}."""
    failed: Mapping[str, int] = field(default_factory=dict)
    """Class of failure -> how many runs."""
    cancelled: int = 0
    gpu_hours: float = 0.0
    """Used by the sweep in all its calls."""
    cpu_hours: float = 0.0
    gpu_hours_allowed: float | None = None
    """By the YAML's budget; None is no limit."""
    cpu_hours_allowed: float | None = None
    eta_seconds: float | None = None
    """None until something of the kind was timed."""
    eta_spread: float | None = None
    """The estimate is off by about so many seconds, either way; None is unknown."""
    note: str = ""
    """What else one should know: paused, stopping, the budget is spent."""

    def to_json(self) -> dict[str, Any]:
        counts = {"waiting": dict(self.waiting), "failed": dict(self.failed)}  # asdict would take a Counter apart
        return {**vars(self), **counts, "running": [vars(run) for run in self.running]}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Snapshot:
        return cls(**{**values, "running": tuple(Running(**run) for run in values["running"])})


def publish(folder: Path, now: Snapshot) -> None:
    """Leaves the snapshot in the sweep's folder, where `scaling status --watch` finds it."""
    write_whole(folder / "snapshot.json", json.dumps(now.to_json()), durable=False)


def published(folder: Path, *, seconds: float = 15.0) -> Snapshot | None:
    """What a driver left there in the last `seconds`; None when there is none at work."""
    path = folder / "snapshot.json"
    try:
        if time.time() - path.stat().st_mtime > seconds:
            return None
        return Snapshot.from_json(json.loads(path.read_text()))
    except FileNotFoundError:
        return None


def duration(seconds: float) -> str:
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 100 * 3600:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole / 86400:.1f} d"


def roughly(seconds: float) -> str:
    """A duration to its leading unit, for what is not known better."""
    if seconds < 90:
        return f"{round(seconds)} s"
    return f"{round(seconds / 60)} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def size(n_bytes: float) -> str:
    """Bytes as people say them: 3.2 GiB."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if n_bytes < 1024:
            return f"{n_bytes:.3g} {unit}"
        n_bytes /= 1024
    return f"{n_bytes:.3g} TiB"


def headline(now: Snapshot) -> str:
    counts = [f"{now.done}/{now.total} done", f"{len(now.running)} running"]
    counts += _by_reason("waiting", now.waiting)
    counts += [f"{now.diverged} diverged"] if now.diverged else []
    counts += [f"{now.collapsed} collapsed"] if now.collapsed else []
    counts += _by_reason("failed", now.failed)
    counts += [f"{now.cancelled} cancelled"] if now.cancelled else []
    parts = [", ".join(counts), *_hours(now), _eta(now)]
    return " | ".join(part for part in (*parts, now.note) if part)


def _by_reason(what: str, reasons: Mapping[str, int]) -> list[str]:
    """`3 waiting (node)`, `5 waiting (3 node, 2 retry)`; nothing for none."""
    there = {reason: n for reason, n in reasons.items() if n}
    if not there:
        return []
    listed = ", ".join(f"{n} {reason}" for reason, n in there.items()) if len(there) > 1 else next(iter(there))
    return [f"{sum(there.values())} {what}" + (f" ({listed})" if listed else "")]


def _hours(now: Snapshot) -> list[str]:
    """Used against allowed: of GPUs where they count, else of CPUs."""
    shown = []
    if now.gpu_hours or now.gpu_hours_allowed is not None:
        shown.append(_against(now.gpu_hours, now.gpu_hours_allowed, "GPU-h"))
    if now.cpu_hours_allowed is not None or (not shown and now.cpu_hours):
        shown.append(_against(now.cpu_hours, now.cpu_hours_allowed, "CPU-h"))
    return shown


def _against(used: float, allowed: float | None, unit: str) -> str:
    spent = f"{used:.3g}" if used >= 0.01 or used == 0 else "<0.01"
    return spent + ("" if allowed is None else f"/{allowed:g}") + f" {unit}"


def _eta(now: Snapshot) -> str:
    if now.eta_seconds is None:
        return "ETA estimating" if now.running else ""
    if not now.running and not any(now.waiting.values()):
        return ""
    spread = f" +- {roughly(now.eta_spread)}" if now.eta_spread else ""
    return f"ETA {duration(now.eta_seconds)}{spread}"


class View:
    """A context in which the sweep is shown."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._live = Live(console=console, refresh_per_second=4) if console.is_terminal else None
        self._last_line = 0.0
        self._started = time.monotonic()

    def __enter__(self) -> View:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self._live:
            self._live.stop()

    def say(self, text: str) -> None:
        """A line that stays."""
        self.console.print(Text(text), soft_wrap=True)

    def show(self, now: Snapshot) -> None:
        elapsed = time.monotonic() - self._started
        if self._live:
            rows = max(3, self.console.height - LINES_BESIDE_RUNS)
            self._live.update(_table(now, f"{duration(elapsed)} so far", rows))
        elif time.monotonic() - self._last_line > PLAIN_EVERY:
            self._last_line = time.monotonic()
            self.say(f"[{duration(elapsed)}] {headline(now)}")


def standing(now: Snapshot, rows: int = 40, *, bar: bool = True) -> Group:
    """The same picture for `scaling status`, which knows no beginning; without the bar for a file."""
    return _table(now, "", rows, bar=bar)


def _table(now: Snapshot, more: str, rows: int, *, bar: bool = True) -> Group:
    over = now.done + sum(now.failed.values()) + now.cancelled
    lines: list[RenderableType] = [Text(" | ".join(part for part in (headline(now), more) if part))]
    if bar:
        lines.append(Padding(ProgressBar(total=max(1, now.total), completed=over, width=40)))
    if not now.running:
        return Group(*lines)
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("running")
    table.add_column("at", style="dim")
    for heading in ("step", "loss", "images/s", "memory", "eta"):
        table.add_column(heading, justify="right", style="dim")
    for run in now.running[:rows]:
        table.add_row(
            run.name,
            " on ".join(part for part in (run.phase or "starting", run.node) if part),
            f"{run.step}/{run.n_steps}" if run.n_steps else "",
            "" if run.loss is None else f"{run.loss:.4g}",
            "" if run.images_per_second is None else f"{run.images_per_second:,.0f}",
            size(run.memory) if run.memory else "",
            "" if run.eta_seconds is None else duration(run.eta_seconds),
        )
    hidden = len(now.running) - rows
    more_runs = [Text(f"... and {hidden} more", style="dim")] if hidden > 0 else []
    return Group(*lines, table, *more_runs)
