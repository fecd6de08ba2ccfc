"""What every benchmark is made of: two things timed in turns, and the row that is printed of them."""

from __future__ import annotations

import math
import os
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Row:
    what: str
    ours: str
    peer: str
    ratio: float
    """Above 1: ours is better. NaN where there is nothing to compare with."""
    note: str = ""

    def __str__(self) -> str:
        ratio = "" if math.isnan(self.ratio) else f"**{self.ratio:.2f}**"
        return f"| {self.what} | {self.ours} | {self.peer} | {ratio} | {self.note} |"


Benchmark = Callable[[], Iterator[Row]]


def compare(
    ours: Callable[[], Any],
    peer: Callable[[], Any],
    *,
    repeats: int = 5,
    settle: Callable[[], None] = lambda: None,
) -> tuple[float, float]:
    """Median seconds of each, in turns, after one call of both that does not count.

    `settle` waits for what a call has only begun, as a GPU may.
    """
    times: dict[int, list[float]] = {0: [], 1: []}
    for turn in range(repeats + 1):
        for which, do in enumerate((ours, peer)):
            seconds = seconds_of(do, settle)
            if turn:
                times[which].append(seconds)
    return statistics.median(times[0]), statistics.median(times[1])


def seconds_of(do: Callable[[], Any], settle: Callable[[], None] = lambda: None) -> float:
    started = time.perf_counter()
    do()
    settle()
    return time.perf_counter() - started


def wall_and_cpu(do: Callable[[], Any], repeats: int = 3) -> tuple[float, float]:
    """Median seconds on the wall and of processors, children's included, after one call that does not count.

    On a machine that others use, the second says more.
    """
    walls, cpus = [], []
    for turn in range(repeats + 1):
        before = sum(os.times()[:4])
        wall = seconds_of(do)
        if turn:
            walls.append(wall)
            cpus.append(sum(os.times()[:4]) - before)
    return statistics.median(walls), statistics.median(cpus)
