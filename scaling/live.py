"""What a person sees while a sweep runs: a live table on a terminal, plain lines in a log. Imports rich."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

PLAIN_EVERY = 15.0
"""Seconds between lines where there is no terminal."""


@dataclass(frozen=True, kw_only=True)
class Running:
    name: str
    step: int
    n_steps: int
    loss: float | None
    images_per_second: float | None


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    total: int
    done: int
    """Finished before or now, diverged ones among them."""
    diverged: int
    failed: int
    running: Sequence[Running]
    eta_seconds: float | None
    """None until the first run of this sweep was timed."""

    @property
    def waiting(self) -> int:
        return self.total - self.done - self.failed - len(self.running)


def duration(seconds: float) -> str:
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def headline(now: Snapshot) -> str:
    counts = [f"{now.done}/{now.total} done", f"{len(now.running)} running", f"{now.waiting} waiting"]
    counts += [f"{now.diverged} diverged"] if now.diverged else []
    counts += [f"{now.failed} failed"] if now.failed else []
    eta = "estimating" if now.eta_seconds is None else duration(now.eta_seconds)
    return ", ".join(counts) + f" | ETA {eta}"


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
            self._live.update(_table(now, elapsed))
        elif time.monotonic() - self._last_line > PLAIN_EVERY:
            self._last_line = time.monotonic()
            self.say(f"[{duration(elapsed)}] {headline(now)}")


def _table(now: Snapshot, elapsed: float) -> Group:
    bar = ProgressBar(total=max(1, now.total), completed=now.done + now.failed, width=40)
    table = Table(box=None, padding=(0, 2, 0, 0))
    for heading, side in (("running", "left"), ("step", "right"), ("loss", "right"), ("images/s", "right")):
        table.add_column(heading, justify=side, style="dim" if heading != "running" else None)  # type: ignore[arg-type]
    for run in now.running:
        table.add_row(
            run.name,
            f"{run.step}/{run.n_steps}" if run.n_steps else "probing",
            "" if run.loss is None else f"{run.loss:.4g}",
            "" if run.images_per_second is None else f"{run.images_per_second:,.0f}",
        )
    lines: list[RenderableType] = [Text(f"{headline(now)} | {duration(elapsed)} so far"), Padding(bar)]
    return Group(*lines, table) if now.running else Group(*lines)
