"""The tracker in a thread of its own: however slow or dead the store is, the scheduler's next tick is not late."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from scaling.plan import PlannedRun

FIRST_RETRY, LONGEST_RETRY = 5.0, 60.0
"""Seconds between tries while the store is down."""


class Tracking(Protocol):
    """Where progress is mirrored for people to browse."""

    def start(self, run: PlannedRun) -> None: ...

    def sync(self, run: PlannedRun) -> None: ...

    def finish(self, run: PlannedRun, status: str) -> None: ...

    def finish_sweep(self, report: Path | None, *, complete: bool) -> None: ...


Order = Callable[[Tracking], None]
SWEEP = ""
"""Key of what concerns the sweep as a whole, which comes after its runs."""


class Mirror:
    """What a store has yet to hear: of each run the latest only. What fails is tried again until the mirror closes.

    `open_tracker` may take seconds (a new database, the import of MLflow): it is called in the thread.
    """

    def __init__(self, open_tracker: Callable[[], Tracking], say: Callable[[str], None]) -> None:
        self._open, self._say = open_tracker, say
        self._tracker: Tracking | None = None
        self._orders: dict[str, Order] = {}
        self._wake = threading.Condition()
        self._closing_by: float | None = None
        self._down = False
        self._thread = threading.Thread(target=self._work, name="mirror", daemon=True)
        self._thread.start()

    def start(self, run: PlannedRun) -> None:
        self._put(run.dir.run, lambda tracker: tracker.start(run))

    def sync(self, run: PlannedRun) -> None:
        """Nothing while something of the run is still on its way."""
        self._put(run.dir.run, lambda tracker: tracker.sync(run), weak=True)

    def finish(self, run: PlannedRun, status: str) -> None:
        self._put(run.dir.run, lambda tracker: tracker.finish(run, status))

    def finish_sweep(self, report: Path | None, *, complete: bool) -> None:
        self._put(SWEEP, lambda tracker: tracker.finish_sweep(report, complete=complete))

    def close(self, patience: float = 120.0) -> bool:
        """Waits until all is told; False when the store stayed down and something was left out."""
        with self._wake:
            self._closing_by = time.monotonic() + patience
            self._wake.notify()
        self._thread.join(patience + 30)
        return not self._orders

    def _put(self, key: str, order: Order, *, weak: bool = False) -> None:
        with self._wake:
            if not (weak and key in self._orders):
                self._orders[key] = order
            self._wake.notify()

    def _work(self) -> None:
        delay = FIRST_RETRY
        while True:
            with self._wake:
                while not self._orders and self._closing_by is None:
                    self._wake.wait()
                if not self._orders:
                    return
                turn = sorted(self._orders, key=lambda key: key == SWEEP)
            failed = [error for key in turn if (error := self._carry_out(key)) is not None]
            if not failed:
                if self._down:
                    self._say("tracking: the store answers again")
                self._down, delay = False, FIRST_RETRY
                continue
            if not self._rest(failed[0], delay):
                return
            delay = min(LONGEST_RETRY, 2 * delay)

    def _carry_out(self, key: str) -> Exception | None:
        """The error, when the order has to wait for a better time."""
        with self._wake:
            order = self._orders.pop(key)
        try:
            self._tracker = self._tracker or self._open()
            order(self._tracker)
        except Exception as error:  # whatever store is behind it, its errors are many
            with self._wake:
                self._orders.setdefault(key, order)
            return error
        return None

    def _rest(self, error: Exception, delay: float) -> bool:
        """Waits before the next turn; False when the mirror closes and the store had its last chance."""
        if not self._down:
            first = (str(error).splitlines() or [""])[0]
            self._say(f"tracking: {type(error).__name__}: {first}; runs go on, `scaling sync` sends what is missing")
        tried_before, self._down = self._down, True
        with self._wake:
            if self._closing_by is not None and tried_before:
                return False
            self._wake.wait_for(lambda: self._closing_by is not None, timeout=delay)
        return True
